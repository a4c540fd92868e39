/** Images with boxes and masks drawn over them. */

import { html, svg } from "./dom.js";

/**
 * @typedef {object} Shape
 * @property {number[]} box x1, y1, x2, y2 in pixels of the image
 * @property {number[][]} [polygons] outlines of the mask: x, y, x, y, ...
 * @property {string} text its label
 * @property {number} color number of its class
 * @property {boolean} [dashed] ground truth is dashed
 * @property {boolean} [strong] drawn in the color of mistakes, with its label
 */

/** Number of class colors in the style sheet. */
const COLORS = 8;

/**
 * The shapes of an image, as an element that fills its parent.
 * @param {number} width pixels of the image
 * @param {number} height
 * @param {Shape[]} shapes
 * @param {boolean} labels whether all have their labels
 */
export function drawShapes(width, height, shapes, labels) {
  const size = Math.max(width, height) / 32;
  /** @type {Array<[number, number, number]>} left, right and baseline of the labels so far */
  const taken = [];
  const labelAt = (/** @type {number[]} */ [x1, y1, , y2], /** @type {string} */ text) => {
    const long = text.length * size * 0.6;
    const x = Math.max(0, Math.min(x1, width - long));
    let y = y1 > size * 1.2 ? y1 - size * 0.25 : Math.min(y2 + size, height - size * 0.2);
    while (taken.some(([left, right, base]) => x < right && x + long > left && Math.abs(base - y) < size * 0.95) && y < height - size) y += size;
    taken.push([x, x + long, y]);
    return svg("text", { x, y, "font-size": size, "stroke-width": size / 5 }, text);
  };
  const parts = [...shapes].sort((a, b) => Number(a.strong ?? false) - Number(b.strong ?? false)).map((shape) => {
    const [x1, y1, x2, y2] = shape.box;
    const kind = `${shape.strong ? "mistake" : `color${shape.color % COLORS}`}${shape.dashed ? " dashed" : ""}`;
    const outlines = (shape.polygons ?? []).map((points) => svg("polygon", { class: "mask", points: points.join(" ") }));
    const frame = svg("rect", { class: "halo", x: x1, y: y1, width: Math.max(0, x2 - x1), height: Math.max(0, y2 - y1) });
    const line = svg("rect", { class: "frame", x: x1, y: y1, width: Math.max(0, x2 - x1), height: Math.max(0, y2 - y1) });
    return svg("g", { class: kind }, ...outlines, frame, line, labels || shape.strong ? labelAt(shape.box, shape.text) : null);
  });
  return svg("svg", { class: "shapes", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" }, ...parts);
}

/**
 * An image with shapes.
 * @param {string} source address of the image
 * @param {string} alt
 * @param {{width: number, height: number, shapes: Shape[], labels?: boolean}} content
 */
export function shapedImage(source, alt, content) {
  const image = html("img", { src: source, alt, loading: "lazy", width: content.width, height: content.height });
  const note = html("span", { class: "broken soft", hidden: true }, "This image cannot be shown.");
  image.addEventListener("error", () => (note.hidden = false));
  return html("div", { class: "shot" }, image, note, drawShapes(content.width, content.height, content.shapes, content.labels ?? false));
}
