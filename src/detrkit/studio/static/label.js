/** The page Label: draw and correct the objects of one image. */

import { ApiError, get, send, showError } from "./api.js";
import { announce, html, toast } from "./dom.js";
import { classesDialog } from "./classes.js";
import { Editor } from "./editor.js";
import { boxOf, iou, moved, stretched } from "./geometry.js";
import { loadImages, QUEUE } from "./images.js";
import { LabelPanel } from "./label_panel.js";
import { LabelState } from "./label_state.js";
import { exportDialog } from "./export.js";

/** @typedef {import("./overlay.js").ClassRow} ClassRow */
/** @typedef {import("./overlay.js").ImageObject} ImageObject */
/** @typedef {import("./label_state.js").Shape} Shape */

/** @type {Array<[string, string]>} */
const KEYS = [
  ["B, G, V", "draw a box, draw a polygon, select"], ["1 … 9", "class of the selected and of new objects"], ["Delete", "delete the selected object"],
  ["Enter, Escape", "end a polygon, give it up"], ["Ctrl Z, Ctrl Shift Z", "undo, redo"], ["Ctrl S", "save"], ["N, P", "save, and go to the next, the one before"],
  ["Y, X", "accept, reject the selected suggestion"], [". ,", "select the next object, the one before"], ["I", "add a box in the middle"],
  ["arrows", "move the selected object; with Alt change its size; with Shift ten times as far"], ["+ − F", "zoom in, zoom out, whole image"], ["space, wheel", "hold and drag to move the view, zoom"],
  ["Alt click", "on a corner of a polygon: remove it"],
];

/** Key of `localStorage`: the class of new objects. */
const CHOSEN = "class of new objects";

/** IoU from which on a suggestion is taken for an object that has a label. */
const SAME_IOU = 0.5;

/**
 * The images to step through: those that the page Images showed, else all.
 * @param {string} name
 * @param {AbortSignal} signal
 * @returns {Promise<string[]>}
 */
async function loadQueue(name, signal) {
  /** @type {string[]} */
  const queue = JSON.parse(sessionStorage.getItem(QUEUE) ?? "[]");
  if (name ? queue.includes(name) : queue.length) return queue;
  return (await loadImages(signal)).images.map((image) => image.name);
}

/** @param {string} name */
function addressOf(name) {
  return `#/label/${encodeURIComponent(name)}`;
}

/**
 * Say that an image cannot be labeled, and lead to the images around it.
 * @param {HTMLElement} root
 * @param {string} name
 * @param {string[]} queue
 * @param {string} sentence
 */
function showUnusable(root, name, queue, sentence) {
  const at = queue.indexOf(name);
  const link = (/** @type {string | undefined} */ to, /** @type {string} */ text) => (to === undefined ? null : html("a", { class: "button", href: addressOf(to) }, text));
  root.append(html("h1", {}, name), html("p", { class: "empty" }, sentence), html("div", { class: "tools" }, link(queue[at - 1], "Image before"), link(queue[at + 1], "Next image")));
}

/**
 * Show the page.
 * @param {HTMLElement} root
 * @param {import("./main.js").Params} params
 * @returns {Promise<() => void | Promise<void>>}
 */
export async function render(root, params) {
  const control = new AbortController();
  const queue = await loadQueue(params.path[0] ?? "", control.signal);
  const name = params.path[0] ?? queue[0];
  if (name === undefined) {
    root.append(html("h1", {}, "Label"), html("p", { class: "empty" }, "There are no images in this folder."));
    return () => {};
  }
  if (!params.path[0]) history.replaceState(null, "", addressOf(name));
  const answer = await get(`labels?image=${encodeURIComponent(name)}`).catch((error) => {
    if (!(error instanceof ApiError) || !error.status) throw error;
    showUnusable(root, name, queue, error.message);
  });
  if (!answer) return () => {};
  const { detectors } = await get("try/detectors");
  const page = new LabelPage(root, name, queue, answer, detectors);
  return () => page.close();
}

/** @typedef {{version: number, split: string, width: number, height: number, classes: ClassRow[], objects: ImageObject[], suspects: import("./label_panel.js").Suspect[]}} Answer */

class LabelPage {
  /**
   * @param {HTMLElement} root
   * @param {string} name of the image
   * @param {string[]} queue images to step through
   * @param {Answer} answer
   * @param {Array<{run: string, name: string}>} detectors
   */
  constructor(root, name, queue, answer, detectors) {
    this.name = name;
    this.queue = queue;
    this.size = { width: answer.width, height: answer.height };
    this.classes = answer.classes;
    this.split = answer.split;
    this.position = queue.indexOf(name);
    const stored = Number(localStorage.getItem(CHOSEN));
    this.chosen = (this.classes.find((row) => row.id === stored) ?? this.classes[0])?.id ?? -1;
    /** @type {Promise<boolean> | null} */
    this.saving = null;
    /** @type {Shape | null} a shape that waits for its first class */
    this.waiting = null;
    this.state = new LabelState(answer.objects, answer.version, () => this.draw());
    this.editor = new Editor({
      image: `api/image?image=${encodeURIComponent(name)}`, ...this.size, state: this.state, classes: () => this.classes, drawn: (shape) => this.add(shape),
    });
    this.panel = new LabelPanel({
      state: this.state, classes: () => this.classes, chosen: () => this.chosen, choose: (id) => this.choose(id), addClass: (text) => this.addClass(text), editClasses: () => void this.editClasses(),
      suspects: answer.suspects, show: (suspect) => this.show(suspect), detectors, suggest: (run, threshold) => this.suggest(run, threshold), history: () => this.history(), restore: (objects) => this.restore(objects),
    });
    root.append(this.makeTools(), html("div", { class: "label-body" }, html("div", { class: "editor-frame" }, this.editor.root), this.panel.root));
    this.onKey = this.onKey.bind(this);
    this.onKeyUp = (/** @type {KeyboardEvent} */ event) => event.key === " " && this.pan(false);
    this.onUnload = (/** @type {BeforeUnloadEvent} */ event) => this.state.dirty && event.preventDefault();
    addEventListener("keydown", this.onKey);
    addEventListener("keyup", this.onKeyUp);
    addEventListener("beforeunload", this.onUnload);
    this.setTool(this.state.objects.length ? "select" : "box");
    this.draw();
  }

  /** Save and end. */
  async close() {
    removeEventListener("keydown", this.onKey);
    removeEventListener("keyup", this.onKeyUp);
    removeEventListener("beforeunload", this.onUnload);
    this.editor.close();
    if (this.state.dirty) await this.save();
  }

  makeTools() {
    /** @param {string} text @param {string} key @param {() => void} action @param {string} [label] */
    const button = (text, key, action, label) => html("button", { type: "button", title: `${label ?? text} (${key})`, "aria-label": label, onclick: action }, text);
    this.tools = {
      select: button("Select", "V", () => this.setTool("select")),
      box: button("Box", "B", () => this.setTool("box")),
      polygon: button("Polygon", "G", () => this.setTool("polygon")),
    };
    this.undo = button("Undo", "Ctrl Z", () => this.state.undo());
    this.redo = button("Redo", "Ctrl Shift Z", () => this.state.redo());
    this.remove = button("Delete", "Delete", () => this.state.remove());
    this.saveButton = button("Save", "Ctrl S", () => void this.save());
    this.saveButton.classList.add("main");
    this.note = html("span", { class: "soft", role: "status" });
    const previous = button("‹", "P", () => this.go(-1), "Save, and go to the image before");
    const next = button("›", "N", () => this.go(1), "Save, and go to the next image");
    previous.disabled = this.position <= 0;
    next.disabled = this.position < 0 || this.position >= this.queue.length - 1;
    const keys = html("dl", {}, ...KEYS.map(([key, text]) => html("div", {}, html("dt", {}, html("kbd", {}, key)), html("dd", {}, text))));
    this.help = html("dialog", { class: "keys", "aria-label": "Keys" }, html("h2", {}, "Keys"), keys, html("form", { method: "dialog" }, html("button", {}, "Close")));
    return html("div", { class: "tools label-tools" },
      html("h1", { title: this.name }, this.name.split("/").pop()),
      html("span", { class: "soft" }, this.position < 0 ? "" : `${this.position + 1} of ${this.queue.length}`), previous, next,
      html("span", { class: "group", role: "group", "aria-label": "Tools" }, ...Object.values(this.tools)),
      html("span", { class: "group", role: "group", "aria-label": "Changes" }, this.undo, this.redo, this.remove),
      html("span", { class: "group", role: "group", "aria-label": "Zoom" },
        button("−", "-", () => this.editor.zoom(0.8), "Zoom out"), button("+", "+", () => this.editor.zoom(1.25), "Zoom in"), button("Whole image", "F", () => this.editor.fit())),
      this.saveButton, this.note,
      html("span", { class: "group end" }, html("button", { type: "button", onclick: () => exportDialog() }, "Export …"), button("Keys", "?", () => this.help?.showModal())), this.help);
  }

  /** Draw what depends on the objects. */
  draw() {
    this.editor.draw();
    this.panel.draw();
    const { past, future, current, dirty, version } = this.state;
    if (this.undo) this.undo.disabled = !past.length;
    if (this.redo) this.redo.disabled = !future.length;
    if (this.remove) this.remove.disabled = !current;
    const words = dirty ? "Not saved" : version ? "Saved" : this.split ? `Labels of the data set (${this.split})` : "No labels yet";
    if (this.note && this.note.textContent !== words) this.note.textContent = words;
  }

  /** @param {import("./editor.js").Tool} tool */
  setTool(tool) {
    this.editor.setTool(tool);
    for (const [name, button] of Object.entries(this.tools ?? {})) button.setAttribute("aria-pressed", String(name === tool));
  }

  /** @param {boolean} on */
  pan(on) {
    this.editor.panning = on;
    this.editor.root.classList.toggle("panning", on);
  }

  /**
   * Add a new object of the chosen class; the first one waits until a class is named.
   * @param {Shape} shape
   */
  add(shape) {
    if (this.chosen >= 0) {
      this.state.add({ class: this.chosen, crowd: false, shape, score: null });
      return;
    }
    this.waiting = shape;
    toast("Name the first class; the object is added to it.");
    this.panel.newClass.focus();
  }

  /**
   * Choose the class of the selected object and of new ones.
   * @param {number} id
   */
  choose(id) {
    this.chosen = id;
    localStorage.setItem(CHOSEN, String(id));
    if (this.state.current && this.state.current.class !== id) this.state.change({ class: id });
    else this.draw();
  }

  /** @param {string} text */
  async addClass(text) {
    try {
      const answer = await send("classes", { name: text });
      this.classes = answer.classes;
      if (this.waiting) {
        const shape = this.waiting;
        this.waiting = null;
        this.chosen = answer.class.id;
        this.add(shape);
        this.editor.root.focus();
      }
      this.choose(answer.class.id);
    } catch (error) {
      showError(error);
    }
  }

  /** Rename and delete classes; what is on the screen is saved before, and read again after. */
  async editClasses() {
    if (this.state.dirty && !(await this.save())) return;
    try {
      await classesDialog(() => void dispatchEvent(new HashChangeEvent("hashchange")));
    } catch (error) {
      showError(error);
    }
  }

  /**
   * Save the labels; suggestions are no labels.
   * @returns {Promise<boolean>} whether they are saved
   */
  async save() {
    await this.saving;
    const labels = this.state.labels();
    this.saving = (async () => {
      try {
        const answer = await send(`labels?image=${encodeURIComponent(this.name)}`, this.state.toPlain(), "PUT");
        this.state.markSaved(labels, answer.version);
        announce("Saved");
        return true;
      } catch (error) {
        showError(error);
        return false;
      }
    })();
    return this.saving;
  }

  /**
   * Save what has changed, and go to another image.
   * @param {number} step
   */
  async go(step) {
    const name = this.queue[this.position + step];
    if (name === undefined) return;
    if (this.state.dirty && !(await this.save())) return;
    location.hash = addressOf(name);
  }

  /**
   * Ask a detector for objects, and show those that no label overlaps as suggestions.
   * @param {string} run
   * @param {number} threshold
   */
  async suggest(run, threshold) {
    try {
      const answer = await send("suggest", { image: this.name, run, threshold });
      this.classes = answer.classes;
      if (this.chosen < 0) this.chosen = this.classes[0]?.id ?? -1;
      const kept = this.state.labels();
      /** @type {Array<ImageObject & {score: number}>} */
      const rows = answer.objects.filter((/** @type {ImageObject} */ row) => !kept.some((label) => iou(label.shape.box, row.box) >= SAME_IOU));
      const added = rows.map((row) => ({ class: row.class, crowd: false, shape: { box: row.box, polygons: row.polygons }, score: row.score }));
      this.state.commit([...kept, ...added], -1);
      const words = `${added.length} object${added.length === 1 ? "" : "s"} suggested`;
      announce(words);
      const left = answer.left_out ? ` It finds ${answer.left_out} of deleted classes, which are left out.` : "";
      if (!added.length || left) toast(`${added.length ? `${words}.` : "The detector finds nothing else in this image at this score."}${left}`);
    } catch (error) {
      showError(error);
    }
  }

  async history() {
    try {
      return (await get(`history?image=${encodeURIComponent(this.name)}`)).saves;
    } catch (error) {
      showError(error);
      return [];
    }
  }

  /**
   * Replace the objects by those of a former save; this can be undone, and is not saved yet.
   * @param {ImageObject[]} objects
   */
  restore(objects) {
    this.state.commit(objects.map((row) => ({ class: row.class, crowd: row.crowd, shape: { box: row.box, polygons: row.polygons }, score: null })), -1);
  }

  /** @param {KeyboardEvent} event */
  onKey(event) {
    const target = /** @type {HTMLElement} */ (event.target);
    const control = event.ctrlKey || event.metaKey;
    if (target.closest("dialog") || (!control && target.closest("input, select, textarea"))) return;
    if (event.key === " " && target.closest("button, summary, a")) return;
    if (event.key === "Enter" && target.closest("button, summary, a")) return;
    if (this.handle(event, control)) event.preventDefault();
  }

  /**
   * Do what a key means. Returns whether it means something.
   * @param {KeyboardEvent} event
   * @param {boolean} control
   * @returns {boolean}
   */
  handle(event, control) {
    const { state, editor } = this;
    const key = event.key.toLowerCase();
    if (control) {
      if (key === "z") event.shiftKey ? state.redo() : state.undo();
      else if (key === "y") state.redo();
      else if (key === "s") void this.save();
      else return false;
      return true;
    }
    if (key.startsWith("arrow")) return this.nudge(key, event);
    const row = /^[1-9]$/.test(key) ? this.classes[Number(key) - 1] : undefined;
    if (row) {
      this.choose(row.id);
      return true;
    }
    /** @type {Record<string, () => unknown>} */
    const actions = {
      b: () => this.setTool("box"), g: () => this.setTool("polygon"), v: () => this.setTool("select"),
      delete: () => state.remove(), backspace: () => editor.removeCorner() || state.remove(),
      enter: () => editor.closePolygon(), escape: () => editor.cancel() || state.select(-1),
      n: () => this.go(1), p: () => this.go(-1), pagedown: () => this.go(1), pageup: () => this.go(-1),
      y: () => this.decide(true), x: () => this.decide(false), ".": () => this.step(1), ",": () => this.step(-1),
      i: () => this.insert(), "+": () => editor.zoom(1.25), "=": () => editor.zoom(1.25), "-": () => editor.zoom(0.8), f: () => editor.fit(),
      " ": () => this.pan(true), "?": () => this.help?.showModal(),
    };
    const action = event.altKey ? undefined : actions[key];
    action?.();
    return action !== undefined;
  }

  /** @param {boolean} accept */
  decide(accept) {
    if (this.state.current?.score === null || !this.state.current) return;
    const next = this.state.selected;
    this.state.decide(accept, next);
    this.step(accept ? 1 : 0, next);
  }

  /**
   * Select another object.
   * @param {number} step
   * @param {number} [from]
   */
  step(step, from = this.state.selected) {
    const count = this.state.objects.length;
    if (count) this.state.select((Math.max(from, step > 0 ? -1 : 0) + step + count) % count);
  }

  /**
   * Show a suspect: select its label, or mark the place where one may be missing.
   * @param {import("./label_panel.js").Suspect} suspect
   */
  show({ box, reason }) {
    if (!box) return;
    const overlaps = this.state.objects.map((object) => iou(object.shape.box, box));
    const best = overlaps.indexOf(Math.max(...overlaps));
    this.state.select(reason !== "no label" && (overlaps[best] ?? 0) > SAME_IOU ? best : -1);
    this.editor.mark(box);
    this.editor.root.focus();
  }

  /** Add a box in the middle of the view, for those who draw by keys. */
  insert() {
    const { left, top, width, height } = this.editor.root.getBoundingClientRect();
    const [x1, y1] = this.editor.pointOf({ clientX: left + width * 0.4, clientY: top + height * 0.4 });
    const [x2, y2] = this.editor.pointOf({ clientX: left + width * 0.6, clientY: top + height * 0.6 });
    this.add({ box: boxOf(x1, y1, x2, y2), polygons: [] });
  }

  /**
   * Move or resize the selected object by an arrow key.
   * @param {string} key
   * @param {KeyboardEvent} event
   * @returns {boolean}
   */
  nudge(key, event) {
    const object = this.state.current;
    if (!object) return false;
    const { width, height } = this.size;
    const far = event.shiftKey ? 10 : 1;
    const dx = key === "arrowleft" ? -far : key === "arrowright" ? far : 0;
    const dy = key === "arrowup" ? -far : key === "arrowdown" ? far : 0;
    const [x1, y1, x2, y2] = object.shape.box;
    const larger = boxOf(x1, y1, Math.min(width, Math.max(x1 + 1, x2 + dx)), Math.min(height, Math.max(y1 + 1, y2 + dy)));
    this.state.change({ shape: event.altKey ? stretched(object.shape, larger) : moved(object.shape, dx, dy, width, height) });
    return true;
  }
}
