/** The objects of an image while they are edited, with undo and redo. */

/**
 * Box and mask of an object in pixels; never changed, only replaced, so that an unchanged one is known by identity.
 * @typedef {object} Shape
 * @property {[number, number, number, number]} box x1, y1, x2, y2
 * @property {number[][]} polygons x, y, x, y, ... of each; empty for an object that is a box
 */

/**
 * @typedef {object} EditedObject
 * @property {number} class id of its class
 * @property {boolean} crowd
 * @property {Shape} shape
 * @property {number | null} score of a suggestion that is neither accepted nor rejected; null for a label
 */

/** @typedef {{objects: readonly EditedObject[], selected: number}} Step */

const MOST_STEPS = 200;

export class LabelState {
  /**
   * @param {import("./overlay.js").ImageObject[]} rows as the server sent them
   * @param {number} version
   * @param {() => void} changed called after each change
   */
  constructor(rows, version, changed) {
    this.changed = changed;
    this.version = version;
    /** @type {Step[]} */
    this.past = [];
    /** @type {Step[]} */
    this.future = [];
    /** @type {readonly EditedObject[]} */
    this.objects = rows.map((row) => ({ class: row.class, crowd: row.crowd, shape: { box: row.box, polygons: row.polygons }, score: null }));
    this.selected = -1;
    this.saved = this.labels();
    /** Shape of each object as it was saved -> its position there. */
    this.positions = new Map(this.saved.map((object, k) => [object.shape, rows[k]?.keep ?? k]));
  }

  /** The objects that are no suggestions. */
  labels() {
    return this.objects.filter((object) => object.score === null);
  }

  /** Whether there are changes that are not saved. */
  get dirty() {
    const labels = this.labels();
    return labels.length !== this.saved.length || labels.some((object, k) => object !== this.saved[k]);
  }

  /** The selected object. */
  get current() {
    return this.objects[this.selected];
  }

  /**
   * Replace the objects, as one step that can be undone.
   * @param {readonly EditedObject[]} objects
   * @param {number} [selected]
   */
  commit(objects, selected = this.selected) {
    this.past.push({ objects: this.objects, selected: this.selected });
    if (this.past.length > MOST_STEPS) this.past.shift();
    this.future = [];
    this.objects = objects;
    this.selected = Math.min(selected, objects.length - 1);
    this.changed();
  }

  /** @param {number} index */
  select(index) {
    if (index === this.selected) return;
    this.selected = index;
    this.changed();
  }

  /** @param {EditedObject} object */
  add(object) {
    this.commit([...this.objects, object], this.objects.length);
  }

  /**
   * Change the selected object; a suggestion that is changed is accepted.
   * @param {Partial<EditedObject>} change
   */
  change(change) {
    this.commit(this.objects.map((object, k) => (k === this.selected ? { ...object, score: null, ...change } : object)));
  }

  /** Delete the selected object. */
  remove() {
    if (this.selected < 0) return;
    this.commit(this.objects.filter((_, k) => k !== this.selected), -1);
  }

  /**
   * Accept or reject suggestions.
   * @param {boolean} accept
   * @param {number} [index] of one; default: all
   */
  decide(accept, index) {
    const concerned = (/** @type {EditedObject} */ object, /** @type {number} */ k) => object.score !== null && (index === undefined || k === index);
    const next = accept
      ? this.objects.map((object, k) => (concerned(object, k) ? { ...object, score: null } : object))
      : this.objects.filter((object, k) => !concerned(object, k));
    this.commit(next, accept ? this.selected : -1);
  }

  undo() {
    this.#step(this.past, this.future);
  }

  redo() {
    this.#step(this.future, this.past);
  }

  /**
   * @param {Step[]} from
   * @param {Step[]} to
   */
  #step(from, to) {
    const step = from.pop();
    if (!step) return;
    to.push({ objects: this.objects, selected: this.selected });
    this.objects = step.objects;
    this.selected = Math.min(step.selected, step.objects.length - 1);
    this.changed();
  }

  /** The labels as the server takes them; those whose shape is as it was saved are kept to the pixel. */
  toPlain() {
    const objects = this.labels().map(({ class: class_id, crowd, shape }) => ({ class_id, crowd, ...shape, keep: this.positions.get(shape) ?? null }));
    return { version: this.version, objects };
  }

  /**
   * Note that labels are saved.
   * @param {EditedObject[]} labels those that were sent
   * @param {number} version
   */
  markSaved(labels, version) {
    this.saved = labels;
    this.positions = new Map(labels.map((object, k) => [object.shape, k]));
    this.version = version;
    this.changed();
  }
}
