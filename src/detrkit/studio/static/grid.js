/** A grid of which only the rows in view exist, so that 10,000 tiles cost as much as those on the screen. */

import { html } from "./dom.js";

const WIDTH = 172;
const HEIGHT = 196;
/** Rows that are kept above and below those in view. */
const MARGIN = 2;

/**
 * @typedef {object} GridOptions
 * @property {HTMLElement} scroller the element that scrolls
 * @property {number} count number of tiles
 * @property {(index: number) => HTMLElement} make makes a tile
 * @property {(first: number, last: number) => void} shown called with the tiles in view once scrolling rests
 * @property {string} label name of the grid for screen readers
 */

export class Grid {
  /** @param {GridOptions} options */
  constructor(options) {
    this.options = options;
    /** @type {Map<number, HTMLElement>} */
    this.tiles = new Map();
    this.columns = 1;
    this.timer = 0;
    this.frame = 0;
    this.root = html("div", { class: "grid", role: "list", "aria-label": options.label, onkeydown: this.move.bind(this) });
    this.update = this.update.bind(this);
    this.schedule = () => {
      this.frame ||= requestAnimationFrame(this.update);
    };
    options.scroller.addEventListener("scroll", this.schedule, { passive: true });
    this.observer = new ResizeObserver(this.schedule);
    this.observer.observe(this.root);
  }

  /** End. */
  close() {
    this.options.scroller.removeEventListener("scroll", this.schedule);
    this.observer.disconnect();
    cancelAnimationFrame(this.frame);
    clearTimeout(this.timer);
  }

  /** Show the tiles in view, and drop the others. */
  update() {
    this.frame = 0;
    const { scroller, count } = this.options;
    const columns = Math.max(1, Math.floor(this.root.clientWidth / WIDTH));
    if (columns !== this.columns) {
      this.columns = columns;
      this.clear();
    }
    this.root.style.height = `${Math.ceil(count / columns) * HEIGHT}px`;
    const above = scroller.getBoundingClientRect().top - this.root.getBoundingClientRect().top;
    const row = Math.floor(above / HEIGHT);
    const rows = Math.ceil(scroller.clientHeight / HEIGHT);
    const first = Math.max(0, (row - MARGIN) * columns);
    const last = Math.min(count, (row + rows + 1 + MARGIN) * columns);
    for (const [index, tile] of this.tiles) {
      if ((index < first || index >= last) && !tile.contains(document.activeElement)) {
        tile.remove();
        this.tiles.delete(index);
      }
    }
    for (let index = first; index < last; index++) this.tile(index);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.options.shown(first, last), 100);
  }

  /** Remove all tiles. */
  clear() {
    for (const tile of this.tiles.values()) tile.remove();
    this.tiles.clear();
  }

  /**
   * The tile of an index, made if it is not there; tiles stay in their order, which is that of the Tab key.
   * @param {number} index
   * @returns {HTMLElement}
   */
  tile(index) {
    const present = this.tiles.get(index);
    if (present) return present;
    const tile = this.options.make(index);
    const item = html("div", { role: "listitem", "aria-setsize": this.options.count, "aria-posinset": index + 1 }, tile);
    item.style.width = `${100 / this.columns}%`;
    item.style.left = `${((index % this.columns) * 100) / this.columns}%`;
    item.style.top = `${Math.floor(index / this.columns) * HEIGHT}px`;
    let next = null;
    for (const [other, node] of this.tiles) if (other > index && (!next || other < next.other)) next = { other, node };
    this.root.insertBefore(item, next ? next.node : null);
    this.tiles.set(index, item);
    return item;
  }

  /**
   * Move the focus by the arrow keys.
   * @param {KeyboardEvent} event
   */
  move(event) {
    const current = [...this.tiles].find(([, tile]) => tile.contains(document.activeElement))?.[0];
    const { count } = this.options;
    const steps = /** @type {Record<string, number>} */ ({
      ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.columns, ArrowDown: this.columns, Home: -count, End: count,
    });
    const step = steps[event.key];
    if (current === undefined || step === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const target = Math.min(count - 1, Math.max(0, current + step));
    const link = this.tile(target).querySelector("a");
    link?.focus({ preventScroll: true });
    this.tile(target).scrollIntoView({ block: "nearest" });
  }
}
