/** The drawing area: an image under its objects, which the pointer draws, moves and reshapes. */

import { svg } from "./dom.js";
import { areaOf, boxOf, clamp, moved, shapeOf, stretched, withCorner, withCorners, withoutRepeats } from "./geometry.js";
import { colorOf, drawObject, nameOf, pointsOf } from "./overlay.js";

/** @typedef {import("./label_state.js").LabelState} LabelState */
/** @typedef {import("./label_state.js").Shape} Shape */
/** @typedef {"select" | "box" | "polygon"} Tool */
/** @typedef {{move(x: number, y: number): void, end(): void}} Drag */

/** Radius of a handle, and least length of a drag, in pixels of the screen. */
const HANDLE = 6;
const LEAST_DRAG = 4;
const LARGEST_SCALE = 60;

/**
 * @typedef {object} EditorOptions
 * @property {string} image address of the image
 * @property {number} width of the image in pixels
 * @property {number} height
 * @property {LabelState} state
 * @property {() => import("./overlay.js").ClassRow[]} classes
 * @property {(shape: Shape) => void} drawn called with a new shape
 */

export class Editor {
  /** @param {EditorOptions} options */
  constructor(options) {
    this.options = options;
    /** @type {Tool} */
    this.tool = "box";
    /** @type {number[]} corners of the polygon that is drawn */
    this.corners = [];
    /** @type {Shape | null} shape of the selected object, or of a new one, while it is dragged */
    this.draft = null;
    /** @type {Drag | null} */
    this.drag = null;
    /** @type {Map<number, {x: number, y: number}>} pointers that are down */
    this.pointers = new Map();
    this.scale = 1;
    this.x = this.y = 0;
    this.panning = false;
    this.fitted = true;
    this.layer = svg("g");
    this.view = svg("g", {}, svg("image", { href: options.image, width: options.width, height: options.height, preserveAspectRatio: "none" }), this.layer);
    this.root = svg(
      "svg",
      {
        class: "editor objects", tabindex: 0, role: "application", "aria-label": "Image with its objects; press ? for the keys",
        onpointerdown: this.down.bind(this), onpointermove: this.moveTo.bind(this), onpointerup: this.up.bind(this),
        onpointercancel: this.up.bind(this), ondblclick: () => this.closePolygon(), onpointerleave: () => this.hover(null),
      },
      this.view,
    );
    this.root.addEventListener("wheel", this.wheel.bind(this), { passive: false });
    this.observer = new ResizeObserver(() => (this.fitted ? this.fit() : this.draw()));
    this.observer.observe(this.root);
  }

  /** End. */
  close() {
    this.observer.disconnect();
  }

  /** @param {Tool} tool */
  setTool(tool) {
    this.tool = tool;
    this.corners = [];
    this.root.dataset.tool = tool;
    this.draw();
  }

  /**
   * Mark a place until the next change, with the view around it.
   * @param {import("./geometry.js").Box} box
   */
  mark(box) {
    const { clientWidth, clientHeight } = this.root;
    const [x1, y1, x2, y2] = box;
    this.scale = clamp(Math.min(clientWidth / (x2 - x1), clientHeight / (y2 - y1)) / 3, this.scale, LARGEST_SCALE);
    this.x = clientWidth / 2 - ((x1 + x2) / 2) * this.scale;
    this.y = clientHeight / 2 - ((y1 + y2) / 2) * this.scale;
    this.fitted = false;
    this.draw();
    this.layer.append(svg("rect", { class: "draft", x: x1, y: y1, width: x2 - x1, height: y2 - y1 }));
  }

  /** Show the whole image. */
  fit() {
    const { clientWidth, clientHeight } = this.root;
    const { width, height } = this.options;
    this.scale = Math.min(clientWidth / width, clientHeight / height) || 1;
    this.x = (clientWidth - width * this.scale) / 2;
    this.y = (clientHeight - height * this.scale) / 2;
    this.fitted = true;
    this.draw();
  }

  /**
   * Zoom, with a point of the drawing area fixed.
   * @param {number} factor
   * @param {number} [x] default: the middle
   * @param {number} [y]
   */
  zoom(factor, x = this.root.clientWidth / 2, y = this.root.clientHeight / 2) {
    const least = Math.min(this.root.clientWidth / this.options.width, this.root.clientHeight / this.options.height) / 2;
    const next = clamp(this.scale * factor, Math.min(least, 1), LARGEST_SCALE);
    this.x = x - ((x - this.x) * next) / this.scale;
    this.y = y - ((y - this.y) * next) / this.scale;
    this.scale = next;
    this.fitted = false;
    this.draw();
  }

  /** @param {WheelEvent} event */
  wheel(event) {
    event.preventDefault();
    const { left, top } = this.root.getBoundingClientRect();
    this.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.002)), event.clientX - left, event.clientY - top);
  }

  /**
   * A point of the screen in pixels of the image, inside it.
   * @param {{clientX: number, clientY: number}} event
   * @returns {[number, number]}
   */
  pointOf({ clientX, clientY }) {
    const { left, top } = this.root.getBoundingClientRect();
    return [
      clamp((clientX - left - this.x) / this.scale, 0, this.options.width),
      clamp((clientY - top - this.y) / this.scale, 0, this.options.height),
    ];
  }

  /** Draw everything anew. */
  draw() {
    const { state } = this.options;
    const classes = this.options.classes();
    this.view.setAttribute("transform", `translate(${this.x} ${this.y}) scale(${this.scale})`);
    const order = state.objects.map((_, k) => k).sort((a, b) => areaOf(this.shapeAt(b).box) - areaOf(this.shapeAt(a).box));
    const shapes = order.map((k) => this.drawOne(k, classes));
    this.layer.replaceChildren(...shapes, ...this.drawHandles(), ...this.drawDraft());
  }

  /** @param {number} k */
  shapeAt(k) {
    const { state } = this.options;
    const object = /** @type {import("./label_state.js").EditedObject} */ (state.objects[k]);
    return k === state.selected && this.draft ? this.draft : object.shape;
  }

  /**
   * @param {number} k
   * @param {import("./overlay.js").ClassRow[]} classes
   */
  drawOne(k, classes) {
    const { state } = this.options;
    const object = /** @type {import("./label_state.js").EditedObject} */ (state.objects[k]);
    const shape = this.shapeAt(k);
    const group = drawObject({ class: object.class, crowd: object.crowd, ...shape }, colorOf(classes, object.class));
    group.dataset.object = String(k);
    if (k === state.selected) group.classList.add("selected");
    if (object.score !== null) group.classList.add("suggested");
    const words = object.score === null ? nameOf(classes, object.class) : `${nameOf(classes, object.class)} ${object.score.toFixed(2)}`;
    const [x, y] = shape.box;
    const inside = y * this.scale + this.y < 16;
    group.append(svg("text", { x: x + (inside ? 4 : 0) / this.scale, y: y + (inside ? 14 : -4) / this.scale, "font-size": 12 / this.scale, "stroke-width": 3 / this.scale }, words));
    return group;
  }

  /** Handles of the selected object: corners and sides of a box, corners and middles of sides of a polygon. */
  drawHandles() {
    const { state } = this.options;
    if (!state.current || this.corners.length) return [];
    const shape = this.shapeAt(state.selected);
    const r = HANDLE / this.scale;
    if (!shape.polygons.length) {
      const [x1, y1, x2, y2] = shape.box;
      const [mx, my] = [(x1 + x2) / 2, (y1 + y2) / 2];
      /** @type {Array<[string, number, number]>} */
      const places = [["nw", x1, y1], ["n", mx, y1], ["ne", x2, y1], ["e", x2, my], ["se", x2, y2], ["s", mx, y2], ["sw", x1, y2], ["w", x1, my]];
      return places.map(([side, cx, cy]) => svg("circle", { class: `handle ${side}`, cx, cy, r, "data-side": side }));
    }
    return shape.polygons.flatMap((polygon, part) => {
      const count = polygon.length / 2;
      const at = (/** @type {number} */ k) => [polygon[2 * (k % count)] ?? 0, polygon[2 * (k % count) + 1] ?? 0];
      return Array.from({ length: count }, (_, k) => {
        const [x = 0, y = 0] = at(k);
        const [nextX = 0, nextY = 0] = at(k + 1);
        const near = Math.hypot(nextX - x, nextY - y) * this.scale < 4 * HANDLE;
        const middle = { class: "handle middle", cx: (x + nextX) / 2, cy: (y + nextY) / 2, r: r * 0.65, "data-middle": k, "data-part": part };
        const corner = svg("circle", { class: "handle", cx: x, cy: y, r: r * 0.8, "data-corner": k, "data-part": part });
        return near ? [corner] : [svg("circle", middle), corner];
      }).flat();
    });
  }

  /** The shape that is being drawn. */
  drawDraft() {
    if (this.corners.length) {
      const r = HANDLE / this.scale;
      const dots = this.corners.flatMap((x, k) => (k % 2 ? [] : [svg("circle", { class: "handle", cx: x, cy: this.corners[k + 1], r })]));
      this.rubber = svg("polyline", { class: "draft", points: pointsOf(this.corners) });
      return [this.rubber, ...dots];
    }
    if (!this.draft || this.options.state.current) return [];
    const [x1, y1, x2, y2] = this.draft.box;
    return [svg("rect", { class: "draft", x: x1, y: y1, width: x2 - x1, height: y2 - y1 })];
  }

  /**
   * Let the line of a polygon follow the pointer.
   * @param {[number, number] | null} point
   */
  hover(point) {
    if (this.corners.length) this.rubber?.setAttribute("points", pointsOf(point ? [...this.corners, ...point] : this.corners));
  }

  /** @param {PointerEvent} event */
  down(event) {
    this.root.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (this.pointers.size === 2) {
      this.cancel();
      return;
    }
    if (this.pointers.size > 2) return;
    const target = /** @type {SVGElement} */ (event.target);
    const group = /** @type {SVGElement | null} */ (target.closest("[data-object]"));
    const point = this.pointOf(event);
    if (event.button === 1 || this.panning) this.drag = this.pan(event);
    else if (event.button !== 0) this.drag = null;
    else if (target.classList.contains("handle") && !this.corners.length) this.drag = this.dragHandle(target, event);
    else if (this.tool === "polygon") this.addCorner(point);
    else if (this.tool === "box") this.drag = this.dragBox(event, group);
    else if (group) {
      this.options.state.select(Number(group.dataset.object));
      this.drag = this.dragObject(point);
    } else {
      this.options.state.select(-1);
      this.drag = this.pan(event);
    }
    this.root.focus({ preventScroll: true });
  }

  /** @param {PointerEvent} event */
  moveTo(event) {
    const before = this.pointers.get(event.pointerId);
    if (before && this.pointers.size === 2) {
      const other = [...this.pointers].find(([id]) => id !== event.pointerId)?.[1];
      if (other) this.pinch(before, event, other);
    }
    if (before) this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (this.drag) this.drag.move(...this.pointOf(event));
    else this.hover(this.pointOf(event));
  }

  /** @param {PointerEvent} event */
  up(event) {
    this.pointers.delete(event.pointerId);
    const drag = this.drag;
    this.drag = null;
    if (event.type === "pointerup") drag?.end();
    else this.cancel();
  }

  /**
   * Zoom and move by two fingers.
   * @param {{x: number, y: number}} before @param {PointerEvent} now @param {{x: number, y: number}} other
   */
  pinch(before, now, other) {
    const { left, top } = this.root.getBoundingClientRect();
    const factor = Math.hypot(now.clientX - other.x, now.clientY - other.y) / Math.max(1, Math.hypot(before.x - other.x, before.y - other.y));
    this.x += (now.clientX - before.x) / 2;
    this.y += (now.clientY - before.y) / 2;
    this.zoom(factor, (now.clientX + other.x) / 2 - left, (now.clientY + other.y) / 2 - top);
  }

  /** Give up what is being drawn or dragged. Returns whether there was something. */
  cancel() {
    const active = Boolean(this.drag || this.corners.length);
    this.drag = this.draft = null;
    this.corners = [];
    this.draw();
    return active;
  }

  /**
   * @param {PointerEvent} start
   * @returns {Drag}
   */
  pan(start) {
    const { x, y } = this;
    return {
      move: () => {
        const now = this.pointers.get(start.pointerId);
        if (!now) return;
        this.x = x + now.x - start.clientX;
        this.y = y + now.y - start.clientY;
        this.fitted = false;
        this.draw();
      },
      end: () => {},
    };
  }

  /**
   * Draw a box; a click without a drag selects the object under it.
   * @param {PointerEvent} event
   * @param {SVGElement | null} group
   * @returns {Drag}
   */
  dragBox(event, group) {
    const [x, y] = this.pointOf(event);
    const least = LEAST_DRAG / this.scale;
    this.options.state.select(-1);
    return {
      move: (toX, toY) => {
        this.draft = { box: boxOf(x, y, toX, toY), polygons: [] };
        this.draw();
      },
      end: () => {
        const shape = this.draft;
        this.draft = null;
        if (shape && shape.box[2] - shape.box[0] > least && shape.box[3] - shape.box[1] > least) this.options.drawn(shape);
        else this.options.state.select(group ? Number(group.dataset.object) : -1);
        this.draw();
      },
    };
  }

  /**
   * @param {[number, number]} from
   * @returns {Drag}
   */
  dragObject([x, y]) {
    const { width, height } = this.options;
    return this.reshape((shape, toX, toY) => moved(shape, toX - x, toY - y, width, height));
  }

  /**
   * @param {SVGElement} handle
   * @param {PointerEvent} event
   * @returns {Drag | null}
   */
  dragHandle(handle, event) {
    const { side, corner, middle } = handle.dataset;
    const part = Number(handle.dataset.part);
    const { state } = this.options;
    const shape = state.current?.shape;
    if (!shape) return null;
    if (side) {
      const [x1, y1, x2, y2] = shape.box;
      return this.reshape((start, x, y) => {
        const box = boxOf(side.includes("w") ? x : x1, side.includes("n") ? y : y1, side.includes("e") ? x : x2, side.includes("s") ? y : y2);
        return stretched(start, box);
      });
    }
    if (corner !== undefined && event.altKey) {
      state.change({ shape: withCorners(shape, part, Number(corner), null) });
      return null;
    }
    if (corner !== undefined) return this.reshape((start, x, y) => withCorner(start, part, Number(corner), x, y));
    const added = withCorners(shape, part, Number(middle), this.pointOf(event));
    return this.reshape((_, x, y) => withCorner(added, part, Number(middle) + 1, x, y));
  }

  /**
   * Change the shape of the selected object while the pointer is down, as one step of undo.
   * @param {(shape: Shape, x: number, y: number) => Shape} change
   * @returns {Drag}
   */
  reshape(change) {
    const { state } = this.options;
    return {
      move: (x, y) => {
        if (!state.current) return;
        this.draft = change(state.current.shape, x, y);
        this.draw();
      },
      end: () => {
        const shape = this.draft;
        this.draft = null;
        if (shape && state.current) state.change({ shape });
        this.draw();
      },
    };
  }

  /** @param {[number, number]} point */
  addCorner(point) {
    const [x = 0, y = 0] = this.corners;
    const near = Math.hypot(point[0] - x, point[1] - y) * this.scale < 2 * HANDLE;
    if (this.corners.length >= 6 && near) this.closePolygon();
    else {
      if (!this.corners.length) this.options.state.select(-1);
      this.corners.push(...point);
      this.draw();
    }
  }

  /** Remove the last corner of the polygon that is drawn. Returns whether there was one. */
  removeCorner() {
    const removed = this.corners.splice(-2).length > 0;
    if (removed) this.draw();
    return removed;
  }

  /** End the polygon that is drawn. Returns whether there was one. */
  closePolygon() {
    const kept = withoutRepeats(this.corners);
    if (kept.length < 6) return false;
    this.corners = [];
    this.options.drawn(shapeOf([kept]));
    return true;
  }
}
