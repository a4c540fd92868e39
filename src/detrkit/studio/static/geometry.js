/** Move and reshape boxes and polygons inside an image. */

/** @typedef {import("./label_state.js").Shape} Shape */
/** @typedef {[number, number, number, number]} Box x1, y1, x2, y2 */

/** @param {number} value @param {number} low @param {number} high */
export function clamp(value, low, high) {
  return Math.min(Math.max(value, low), high);
}

/**
 * The box around two corners.
 * @param {number} x1 @param {number} y1 @param {number} x2 @param {number} y2
 * @returns {Box}
 */
export function boxOf(x1, y1, x2, y2) {
  return [Math.min(x1, x2), Math.min(y1, y2), Math.max(x1, x2), Math.max(y1, y2)];
}

/**
 * The shape of polygons, with the box around them.
 * @param {number[][]} polygons
 * @returns {Shape}
 */
export function shapeOf(polygons) {
  const xs = polygons.flatMap((polygon) => polygon.filter((_, k) => k % 2 === 0));
  const ys = polygons.flatMap((polygon) => polygon.filter((_, k) => k % 2 === 1));
  return { box: [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)], polygons };
}

/**
 * Move a shape, as far as it stays inside the image.
 * @param {Shape} shape @param {number} dx @param {number} dy @param {number} width @param {number} height
 * @returns {Shape}
 */
export function moved({ box, polygons }, dx, dy, width, height) {
  const x = clamp(dx, Math.min(0, -box[0]), Math.max(0, width - box[2]));
  const y = clamp(dy, Math.min(0, -box[1]), Math.max(0, height - box[3]));
  return {
    box: [box[0] + x, box[1] + y, box[2] + x, box[3] + y],
    polygons: polygons.map((polygon) => polygon.map((value, k) => value + (k % 2 ? y : x))),
  };
}

/**
 * Stretch a shape so that it fills a box.
 * @param {Shape} shape @param {Box} box
 * @returns {Shape}
 */
export function stretched(shape, box) {
  const [x1, y1, x2, y2] = shape.box;
  const sx = (box[2] - box[0]) / Math.max(x2 - x1, 1e-6);
  const sy = (box[3] - box[1]) / Math.max(y2 - y1, 1e-6);
  const polygons = shape.polygons.map((polygon) => polygon.map((value, k) => (k % 2 ? box[1] + (value - y1) * sy : box[0] + (value - x1) * sx)));
  return { box, polygons };
}

/**
 * Move one corner of a polygon.
 * @param {Shape} shape @param {number} part index of the polygon @param {number} corner @param {number} x @param {number} y
 * @returns {Shape}
 */
export function withCorner(shape, part, corner, x, y) {
  return shapeOf(shape.polygons.map((polygon, k) => (k === part ? polygon.toSpliced(2 * corner, 2, x, y) : polygon)));
}

/**
 * Add a corner after another one, or remove one; a polygon keeps at least three.
 * @param {Shape} shape @param {number} part @param {number} corner @param {[number, number] | null} point null removes
 * @returns {Shape}
 */
export function withCorners(shape, part, corner, point) {
  const polygon = shape.polygons[part] ?? [];
  if (!point && polygon.length <= 6) return shape;
  const next = point ? polygon.toSpliced(2 * corner + 2, 0, ...point) : polygon.toSpliced(2 * corner, 2);
  return shapeOf(shape.polygons.map((each, k) => (k === part ? next : each)));
}

/**
 * A polygon without corners that repeat the one before, as a double click makes them.
 * @param {number[]} polygon
 */
export function withoutRepeats(polygon) {
  /** @type {number[]} */
  const kept = [];
  for (let k = 0; k + 1 < polygon.length; k += 2) {
    const [x = 0, y = 0] = [polygon[k], polygon[k + 1]];
    if (!kept.length || kept.at(-2) !== x || kept.at(-1) !== y) kept.push(x, y);
  }
  return kept;
}

/** @param {Box} box */
export function areaOf([x1, y1, x2, y2]) {
  return (x2 - x1) * (y2 - y1);
}

/**
 * Intersection over union of two boxes, 0..1.
 * @param {Box} a @param {Box} b
 */
export function iou(a, b) {
  const width = Math.min(a[2], b[2]) - Math.max(a[0], b[0]);
  const height = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  const shared = Math.max(0, width) * Math.max(0, height);
  return shared / (areaOf(a) + areaOf(b) - shared);
}
