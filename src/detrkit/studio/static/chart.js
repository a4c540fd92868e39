/** A chart of lines, whose values are read under the pointer or with the arrow keys. */

import { html, svg } from "./dom.js";

/** @typedef {{name: string, points: Array<[number, number]>, color: number, dashed?: boolean}} Line */
/** @typedef {{title: string, xLabel: string, lines: Line[], yRange?: [number, number]}} ChartData */

const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [640, 280, 52, 12, 10, 34];

/** Number of line colors in the style sheet. */
export const COLORS = 8;

/** @param {number} value */
export function short(value) {
  if (!Number.isFinite(value)) return "–";
  const digits = Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 3;
  return Math.abs(value) > 0 && Math.abs(value) < 1e-3 ? value.toExponential(1) : value.toFixed(digits);
}

/**
 * Round steps that divide a range into about `count` parts.
 * @param {number} low
 * @param {number} high
 * @param {number} count
 */
function ticks(low, high, count) {
  const raw = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * ([1, 2, 5, 10].find((each) => each * power >= raw) ?? 10);
  const values = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-6; value += step) values.push(Number(value.toPrecision(12)));
  return values;
}

/** A chart; `draw` may be called again with new data, and keeps the focus and the place that is read. */
export class LineChart {
  constructor() {
    this.svg = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, "aria-hidden": "true" });
    this.plot = html("div", { class: "plot", tabindex: 0, role: "img" }, this.svg);
    this.readout = html("p", { class: "readout soft" });
    this.legend = html("p", { class: "legend" });
    this.node = html("figure", { class: "chart" }, this.plot, this.legend, this.readout);
    /** @type {ChartData} */
    this.data = { title: "", xLabel: "", lines: [] };
    /** @type {number | null} */
    this.at = null;
    this.plot.addEventListener("pointermove", (event) => this.point(event));
    this.plot.addEventListener("keydown", (event) => this.key(event));
  }

  /** @param {ChartData} data */
  draw(data) {
    this.data = { ...data, lines: data.lines.filter((line) => line.points.length) };
    const points = this.data.lines.flatMap((line) => line.points);
    const xs = points.map(([x]) => x);
    const ys = points.map(([, y]) => y);
    this.xs = [...new Set(xs)].sort((a, b) => a - b);
    const [low, high] = data.yRange ?? [Math.min(0, ...ys), Math.max(...ys, 1e-9) * 1.05];
    this.plot.hidden = !points.length;
    const [first, last] = xs.length ? [Math.min(...xs), Math.max(...xs)] : [0, 1];
    this.x = (/** @type {number} */ v) => LEFT + ((v - first) / (last - first || 1)) * (WIDTH - LEFT - RIGHT);
    this.first = first;
    this.last = last;
    const x = this.x;
    const y = (/** @type {number} */ v) => HEIGHT - BOTTOM - ((v - low) / (high - low)) * (HEIGHT - TOP - BOTTOM);
    const whole = this.xs.every(Number.isInteger);
    const axis = ticks(first, last, 8).filter((value) => !whole || Number.isInteger(value));
    this.mark = svg("line", { class: "mark", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" });
    this.svg.replaceChildren(
      ...ticks(low, high, 5).flatMap((value) => [
        svg("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value) }),
        svg("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, short(value).replace(/\.?0+$/, "") || "0"),
      ]),
      ...axis.map((value) => svg("text", { x: x(value), y: HEIGHT - 16, "text-anchor": "middle" }, +value.toFixed(3))),
      svg("text", { x: (WIDTH + LEFT) / 2, y: HEIGHT - 2, "text-anchor": "middle" }, data.xLabel),
      ...this.data.lines.map((line) => {
        const place = line.points.map((each) => `${x(each[0]).toFixed(1)},${y(each[1]).toFixed(1)}`);
        const shape = `line color${line.color % COLORS}${line.dashed ? " dashed" : ""}`;
        if (place.length > 1) return svg("polyline", { class: shape, points: place.join(" ") });
        return svg("circle", { class: `dot color${line.color % COLORS}`, cx: x(line.points[0][0]), cy: y(line.points[0][1]), r: 4 });
      }),
      this.mark,
    );
    const ends = this.data.lines.map((line) => `${line.name} ${short(line.points[line.points.length - 1][1])}`);
    this.plot.setAttribute("aria-label", `${data.title} over ${data.xLabel}; last values: ${ends.join(", ") || "none"}`);
    this.legend.replaceChildren(
      ...this.data.lines.map((line) =>
        html("span", {}, html("i", { class: `key color${line.color % COLORS}${line.dashed ? " dashed" : ""}` }), line.name),
      ),
    );
    this.read(this.at);
  }

  /**
   * Read the values at one of the points of the axis.
   * @param {number | null} at index of the point
   */
  read(at) {
    /** @type {number[]} */
    const xs = this.xs ?? [];
    this.at = at === null || !xs.length ? null : Math.max(0, Math.min(xs.length - 1, at));
    if (this.at === null) {
      this.readout.textContent = xs.length ? "Point at the chart, or use the arrow keys, to read values." : "Nothing to show yet.";
      return;
    }
    const value = xs[this.at];
    const place = String(this.x?.(value) ?? 0);
    this.mark?.setAttribute("x1", place);
    this.mark?.setAttribute("x2", place);
    this.mark?.setAttribute("visibility", "visible");
    const parts = this.data.lines.flatMap((line) => {
      const point = line.points.find((each) => each[0] === value);
      return point ? [`${line.name} ${short(point[1])}`] : [];
    });
    this.readout.textContent = `${this.data.xLabel} ${+value.toFixed(3)}: ${parts.join(", ")}`;
  }

  /** @param {PointerEvent} event */
  point(event) {
    const box = this.svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * WIDTH;
    const distances = (this.xs ?? []).map((value) => Math.abs((this.x?.(value) ?? 0) - x));
    if (distances.length) this.read(distances.indexOf(Math.min(...distances)));
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    const count = (this.xs ?? []).length;
    const at = this.at ?? -1;
    /** @type {Record<string, number>} */
    const next = { ArrowRight: at + 1, ArrowLeft: this.at === null ? count - 1 : at - 1, Home: 0, End: count - 1 };
    if (!(event.key in next)) return;
    event.preventDefault();
    this.read(next[event.key]);
  }
}
