/** The panel beside the image: classes, objects, suggestions of a detector, former saves. */

import { html, labeled, select } from "./dom.js";
import { colorOf, nameOf } from "./overlay.js";

/** @typedef {import("./overlay.js").ClassRow} ClassRow */
/** @typedef {import("./label_state.js").LabelState} LabelState */

/**
 * A label that `detrkit review` takes for wrong.
 * @typedef {object} Suspect
 * @property {string} reason
 * @property {number} score
 * @property {string} label class of the label, or empty
 * @property {string} detected class of the detection, or empty
 * @property {[number, number, number, number] | null} box
 */

/** Objects that the list shows; more are few people's wish and slow. */
const MOST_LISTED = 300;

/**
 * @typedef {object} PanelOptions
 * @property {LabelState} state
 * @property {() => ClassRow[]} classes
 * @property {() => number} chosen id of the class of new objects
 * @property {(id: number) => void} choose called with a class
 * @property {(name: string) => Promise<void>} addClass
 * @property {() => void} editClasses
 * @property {Array<{run: string, name: string}>} detectors
 * @property {Suspect[]} suspects
 * @property {(suspect: Suspect) => void} show called with a suspect to look at
 * @property {(run: string, threshold: number) => Promise<void>} suggest
 * @property {() => Promise<Array<{version: number, time: string, objects: import("./overlay.js").ImageObject[]}>>} history
 * @property {(objects: import("./overlay.js").ImageObject[]) => void} restore
 */

export class LabelPanel {
  /** @param {PanelOptions} options */
  constructor(options) {
    this.options = options;
    this.classes = html("div", { class: "classes", role: "group", "aria-label": "Classes" });
    this.objects = html("ol", { class: "object-list", "aria-label": "Objects" });
    this.count = html("h2");
    this.decisions = html("div", { class: "tools" },
      html("button", { type: "button", onclick: () => options.state.decide(true) }, "Accept all"),
      html("button", { type: "button", onclick: () => options.state.decide(false) }, "Reject all"));
    this.newClass = html("input", { name: "class", maxlength: 200, size: 12, autocomplete: "off", "aria-label": "Name of a new class" });
    const form = html("form", { class: "tools", onsubmit: (/** @type {Event} */ event) => void this.submitClass(event) },
      this.newClass, html("button", {}, "Add class"));
    this.edit = html("button", { type: "button", onclick: () => options.editClasses() }, "Edit classes …");
    this.root = html("aside", { class: "label-panel", "aria-label": "Labels" },
      html("h2", {}, "Classes"), this.classes, form, this.edit, this.count, this.decisions, this.objects, this.makeSuspects(), this.makeSuggest(), this.makeHistory());
    this.draw();
  }

  /** Draw classes and objects anew; the focus stays at its place in the list. */
  draw() {
    const { state, classes, chosen, choose } = this.options;
    const rows = classes();
    const current = state.current?.class ?? chosen();
    const focused = this.objects.contains(document.activeElement);
    this.classes.replaceChildren(...rows.map((row, k) =>
      html("button", { type: "button", "aria-pressed": row.id === current, onclick: () => choose(row.id) },
        swatch(colorOf(rows, row.id)), html("span", {}, row.name), k < 9 ? html("kbd", {}, k + 1) : null)));
    const suggested = state.objects.filter((object) => object.score !== null).length;
    const labels = state.objects.length - suggested;
    this.count.textContent = `${labels} object${labels === 1 ? "" : "s"}${suggested ? `, ${suggested} suggested` : ""}`;
    this.decisions.hidden = !suggested;
    this.edit.hidden = !rows.length;
    this.objects.replaceChildren(...state.objects.slice(0, MOST_LISTED).map((object, k) => {
      const name = nameOf(rows, object.class);
      const words = object.score === null ? name : `${name} ${object.score.toFixed(2)}`;
      const line = html("button", { type: "button", class: "line", "aria-pressed": k === state.selected, onclick: () => state.select(k) },
        swatch(colorOf(rows, object.class)), html("span", {}, words), object.shape.polygons.length ? html("small", {}, "mask") : null);
      return html("li", { class: object.score === null ? "" : "suggested" }, line,
        object.score === null ? null : html("button", { type: "button", "aria-label": `Accept ${words}`, onclick: () => state.decide(true, k) }, "✓"),
        object.score === null ? null : html("button", { type: "button", "aria-label": `Reject ${words}`, onclick: () => state.decide(false, k) }, "✗"));
    }));
    const selected = this.objects.querySelector('.line[aria-pressed="true"]');
    selected?.scrollIntoView({ block: "nearest" });
    if (focused && selected instanceof HTMLElement) selected.focus();
  }

  /** @param {Event} event */
  async submitClass(event) {
    event.preventDefault();
    const name = this.newClass.value.trim();
    if (!name) return;
    await this.options.addClass(name);
    this.newClass.value = "";
  }

  makeSuspects() {
    const { suspects, show } = this.options;
    if (!suspects.length) return null;
    const lines = suspects.map((suspect) => {
      const classes = [suspect.label, suspect.detected && `detected: ${suspect.detected}`].filter(Boolean).join(", ");
      return html("li", {}, html("button", { type: "button", class: "line", onclick: () => show(suspect) }, `${suspect.reason}: ${classes}`, html("small", {}, suspect.score.toFixed(2))));
    });
    return html("div", {}, html("h2", {}, "Suspects of review"), html("ol", { class: "object-list", "aria-label": "Suspects of review" }, ...lines));
  }

  makeSuggest() {
    const { detectors, suggest } = this.options;
    if (!detectors.length) return html("p", { class: "soft" }, "Suggestions of a detector appear here once a training has ended.");
    const run = select(detectors.map((row) => [row.run, row.name]), detectors[0]?.run ?? "");
    const threshold = html("input", { type: "number", min: 0.05, max: 1, step: 0.05, value: 0.5 });
    const start = html("button", { type: "button" }, "Suggest");
    start.addEventListener("click", async () => {
      start.disabled = true;
      await suggest(run.value, Number(threshold.value)).finally(() => (start.disabled = false));
    });
    return html("div", {}, html("h2", {}, "Suggestions"), html("div", { class: "tools" }, labeled("Detector", run), labeled("Score from", threshold), start));
  }

  makeHistory() {
    const list = html("ul", { class: "history" });
    const details = html("details", {}, html("summary", {}, "Former saves"), list);
    details.addEventListener("toggle", async () => {
      if (!details.open) return;
      const saves = await this.options.history();
      const lines = saves.map((save) => {
        const words = `${new Date(save.time).toLocaleString()}: ${save.objects.length} object${save.objects.length === 1 ? "" : "s"}`;
        return html("li", {}, html("button", { type: "button", onclick: () => this.options.restore(save.objects) }, words));
      });
      list.replaceChildren(...(lines.length ? lines : [html("li", {}, "This image has not been saved here.")]));
    });
    return details;
  }
}

/** @param {string} color */
function swatch(color) {
  const node = html("span", { class: "swatch" });
  node.style.background = color;
  return node;
}
