"use strict";
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const make = (tag, attributes = {}, parent = null, text = "") => {
    const node = parent instanceof SVGElement || tag === "svg" ? document.createElementNS(SVG, tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text) node.textContent = text;
    if (parent) parent.append(node);
    return node;
  };

  // Tables: a click on a head sorts; numbers begin with the largest, texts with the first letter. Absent values stay last.
  const keyOf = (cell) => {
    if (!cell.hasAttribute("data-sort")) return cell.textContent.trim();
    return cell.dataset.sort === "" ? null : Number(cell.dataset.sort);
  };
  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true });
  for (const table of all("table.sortable")) {
    const heads = all("thead th", table);
    heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const first = head.classList.contains("number") ? "descending" : "ascending";
      const other = first === "ascending" ? "descending" : "ascending";
      const order = head.getAttribute("aria-sort") === first ? other : first;
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const rows = [...table.tBodies[0].rows].map((row) => [keyOf(row.cells[column]), row]);
      rows.sort(([a], [b]) => (a === null) - (b === null) || (a === null ? 0 : sign * compare(a, b)));
      table.tBodies[0].append(...rows.map(([, row]) => row));
    }));
  }

  // Charts.
  const short = (value) => {
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (size < 1e-3 || size >= 1e6) return value.toExponential(2).replace(/\.?0+e/, "e");
    return String(Number(value.toPrecision(4)));
  };
  const ticks = (low, high, count) => {
    const raw = (high - low) / count;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = power * ([1, 2, 5, 10].find((m) => m * power >= raw * 0.999) || 10);
    const values = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) values.push(Number((k * step).toPrecision(12)));
    return values;
  };
  const decades = (low, high) => {
    const values = [];
    for (let e = Math.ceil(Math.log10(low) - 1e-9); e <= Math.log10(high) + 1e-9; e++) values.push(10 ** e);
    return values.length > 1 ? values : [low, high];
  };
  const styleOf = (curve, k) => (curve.strong ? "strong" : `curve${k % 8}`);
  const MARGIN = { left: 46, right: 10, top: 8, bottom: 30 };

  class Chart {
    constructor(figure) {
      this.data = JSON.parse(figure.querySelector("script").textContent);
      this.plot = figure.querySelector(".plot");
      this.plot.tabIndex = 0;
      this.plot.setAttribute("role", "application");
      this.plot.setAttribute("aria-label", `Chart: ${this.data.title}. Arrow keys move along the curves.`);
      this.readout = make("div", { class: "readout", role: "status" }, this.plot);
      this.readout.hidden = true;
      this.index = null;
      if (this.data.curves.length > 1) this.addLegend(figure);
      this.plot.addEventListener("pointermove", (event) => this.point(event));
      this.plot.addEventListener("pointerdown", (event) => this.point(event));
      this.plot.addEventListener("pointerleave", () => this.hide());
      this.plot.addEventListener("blur", () => this.hide());
      this.plot.addEventListener("keydown", (event) => this.press(event));
      new ResizeObserver(() => this.draw()).observe(this.plot);
      this.draw();
    }

    addLegend(figure) {
      const legend = make("div", { class: "legend", role: "group", "aria-label": "Curves" }, figure);
      this.data.curves.forEach((curve, k) => {
        const label = make("label", {}, legend);
        const box = make("input", { type: "checkbox" }, label);
        box.checked = curve.on;
        box.addEventListener("change", () => { curve.on = box.checked; this.draw(); });
        this.swatch(curve, k, label);
        make("bdi", {}, label, curve.name);
      });
    }

    swatch(curve, k, parent) {
      const svg = make("svg", { class: `swatch${curve.dashed ? " dashed" : ""}`, "aria-hidden": "true" }, parent);
      make("line", { x1: 0, x2: 18, y1: 4, y2: 4, class: styleOf(curve, k) }, svg);
    }

    draw() {
      const { data } = this;
      this.shown = data.curves.filter((curve) => curve.on);
      const usable = (y) => y !== null && (!data.log || y > 0);
      const xs = [...new Set(this.shown.flatMap((curve) => data.axes[curve.x]))].filter((x) => x !== null).sort((a, b) => a - b);
      const ys = this.shown.flatMap((curve) => curve.y.filter(usable));
      this.xs = xs;
      this.svg?.remove();
      const width = this.plot.clientWidth, height = this.plot.clientHeight;
      const svg = this.svg = make("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, this.plot);
      if (!xs.length || !ys.length || width < 80) return this.hide();
      let [x0, x1] = [xs[0], xs[xs.length - 1]];
      if (x0 === x1) [x0, x1] = [x0 - 0.5, x1 + 0.5];
      let [y0, y1] = data.range || [ys.reduce((a, b) => Math.min(a, b)), ys.reduce((a, b) => Math.max(a, b))];
      if (data.fromZero && !data.range) y0 = Math.min(0, y0);
      if (y0 === y1) [y0, y1] = data.log ? [y0 / 2, y1 * 2] : [y0 - (Math.abs(y0) || 1) / 2, y1 + (Math.abs(y1) || 1) / 2];
      if (!data.range && !data.log) [y0, y1] = [data.fromZero ? y0 : y0 - (y1 - y0) / 25, y1 + (y1 - y0) / 25];
      const scale = data.log ? Math.log10 : (y) => y;
      const right = width - MARGIN.right, bottom = height - MARGIN.bottom;
      this.xOf = (x) => MARGIN.left + ((x - x0) / (x1 - x0)) * (right - MARGIN.left);
      this.yOf = (y) => bottom - ((scale(y) - scale(y0)) / (scale(y1) - scale(y0))) * (bottom - MARGIN.top);
      for (const y of data.log ? decades(y0, y1) : ticks(y0, y1, 5)) {
        make("line", { class: "grid", x1: MARGIN.left, x2: right, y1: Math.round(this.yOf(y)), y2: Math.round(this.yOf(y)) }, svg);
        make("text", { x: MARGIN.left - 6, y: this.yOf(y) + 4, "text-anchor": "end" }, svg, short(y));
      }
      const whole = xs.every(Number.isInteger);
      for (const x of ticks(x0, x1, Math.max(2, Math.floor(width / 80))).filter((x) => !whole || Number.isInteger(x))) {
        make("text", { x: this.xOf(x), y: bottom + 14, "text-anchor": "middle" }, svg, short(x));
      }
      make("text", { x: (MARGIN.left + right) / 2, y: bottom + 27, "text-anchor": "middle" }, svg, data.xLabel);
      data.curves.forEach((curve, k) => { if (curve.on) this.drawCurve(svg, curve, k, usable); });
      this.marks = make("g", {}, svg);
      if (this.index !== null) this.show(Math.min(this.index, xs.length - 1));
    }

    drawCurve(svg, curve, k, usable) {
      const axis = this.data.axes[curve.x];
      let path = "", drawing = false;
      curve.y.forEach((y, i) => {
        if (!usable(y) || axis[i] === null) { drawing = false; return; }
        path += `${drawing ? "L" : "M"}${this.xOf(axis[i]).toFixed(1)} ${this.yOf(y).toFixed(1)}`;
        drawing = true;
      });
      make("path", { d: path, class: `${styleOf(curve, k)}${curve.dashed ? " dashed" : ""}` }, svg);
      const points = curve.y.filter(usable).length;
      if (points <= 12) curve.y.forEach((y, i) => {
        if (usable(y)) make("circle", { class: `dot ${styleOf(curve, k)}`, r: 2, cx: this.xOf(axis[i]), cy: this.yOf(y) }, svg);
      });
    }

    point(event) {
      if (!this.xs.length || !this.xOf) return;
      const x = event.clientX - this.plot.getBoundingClientRect().left;
      let best = 0;
      this.xs.forEach((value, k) => { if (Math.abs(this.xOf(value) - x) < Math.abs(this.xOf(this.xs[best]) - x)) best = k; });
      this.show(best);
    }

    press(event) {
      const last = this.xs.length - 1;
      const next = { ArrowLeft: (this.index ?? last + 1) - 1, ArrowRight: (this.index ?? -1) + 1, Home: 0, End: last }[event.key];
      if (event.key === "Escape") this.hide();
      if (next === undefined || last < 0) return;
      event.preventDefault();
      this.show(Math.max(0, Math.min(last, next)));
    }

    show(index) {
      this.index = index;
      const x = this.xs[index], left = this.xOf(x);
      this.marks.replaceChildren();
      make("line", { class: "guide", x1: left, x2: left, y1: MARGIN.top, y2: this.plot.clientHeight - MARGIN.bottom }, this.marks);
      this.readout.replaceChildren();
      make("strong", {}, this.readout, `${this.data.xLabel} ${short(x)}`.trim());
      let lines = 0;
      this.data.curves.forEach((curve, k) => {
        const y = curve.on ? curve.y[this.data.axes[curve.x].indexOf(x)] : null;
        if (y === null || y === undefined || (this.data.log && y <= 0)) return;
        make("circle", { class: `dot ${styleOf(curve, k)}`, r: 3.5, cx: left, cy: this.yOf(y) }, this.marks);
        if (++lines > 12) return;
        const line = make("div", {}, this.readout), name = make("span", {}, line);
        this.swatch(curve, k, name);
        make("bdi", {}, name, curve.name);
        make("span", {}, line, short(y));
      });
      this.readout.hidden = false;
      const space = this.plot.clientWidth - this.readout.offsetWidth;
      this.readout.style.left = `${Math.max(0, Math.min(space, left > this.plot.clientWidth / 2 ? left - this.readout.offsetWidth - 12 : left + 12))}px`;
    }

    hide() {
      this.index = null;
      this.readout.hidden = true;
      this.marks?.replaceChildren();
    }
  }
  all("figure.chart").forEach((figure) => new Chart(figure));

  // Galleries: show and hide boxes, choose a group, enlarge an image.
  const dialog = document.querySelector("dialog");
  const large = dialog.querySelector(".large");
  let open = null;
  const enlarge = (gallery, figure) => {
    open = [gallery, figure];
    large.className = ["large", ...[...gallery.classList].filter((name) => name.startsWith("hide-"))].join(" ");
    large.replaceChildren(figure.querySelector("svg").cloneNode(true));
    dialog.querySelector("p").textContent = figure.querySelector("figcaption").innerText.replace(/\n+/g, " – ");
    if (!dialog.open) dialog.showModal();
    const svg = large.firstChild, scale = svg.getScreenCTM().a; // letters of 13 px, however large the image is
    all("text", svg).forEach((text) => text.setAttribute("font-size", 13 / scale));
  };
  const step = (by) => {
    const [gallery, figure] = open;
    const visible = all("figure", gallery).filter((each) => !each.hidden);
    enlarge(gallery, visible[(visible.indexOf(figure) + by + visible.length) % visible.length]);
  };
  dialog.querySelector(".previous").addEventListener("click", () => step(-1));
  dialog.querySelector(".next").addEventListener("click", () => step(1));
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  for (const gallery of all(".gallery")) {
    all(".show-layer", gallery).forEach((box) => box.addEventListener("change", () =>
      gallery.classList.toggle(`hide-layer${box.value}`, !box.checked)));
    all(".show-labels", gallery).forEach((box) => box.addEventListener("change", () =>
      gallery.classList.toggle("hide-labels", !box.checked)));
    all(".show-group", gallery).forEach((choice) => choice.addEventListener("change", () =>
      all("figure", gallery).forEach((figure) => { figure.hidden = choice.value !== "" && figure.dataset.group !== choice.value; })));
    all(".enlarge", gallery).forEach((button) => button.addEventListener("click", () => enlarge(gallery, button.closest("figure"))));
  }
})();
