/** Draw the objects of an image: boxes, and polygons of masks, in the color of their class. */

import { svg } from "./dom.js";

/**
 * An object of an image, in pixels of the upright image.
 * @typedef {object} ImageObject
 * @property {number} class id of the class
 * @property {[number, number, number, number]} box x1, y1, x2, y2
 * @property {number[][]} polygons x, y, x, y, ... of each
 * @property {boolean} crowd
 * @property {number} [keep] position among the objects that are saved
 */

/** @typedef {{id: number, name: string}} ClassRow */

const COLORS = ["#ffb02e", "#4cc9f0", "#f472b6", "#a3e635", "#c4b5fd", "#fb7185", "#2dd4bf", "#facc15", "#60a5fa", "#fb923c"];

/**
 * The color of a class, on images.
 * @param {ClassRow[]} classes
 * @param {number} id
 * @returns {string}
 */
export function colorOf(classes, id) {
  const index = classes.findIndex((row) => row.id === id);
  return COLORS[(index < 0 ? 0 : index) % COLORS.length] ?? "#ffb02e";
}

/**
 * The name of a class.
 * @param {ClassRow[]} classes
 * @param {number} id
 * @returns {string}
 */
export function nameOf(classes, id) {
  return classes.find((row) => row.id === id)?.name ?? "?";
}

/**
 * The `points` of a polygon.
 * @param {number[]} polygon
 * @returns {string}
 */
export function pointsOf(polygon) {
  return polygon.map((value, k) => (k % 2 ? `${value} ` : `${value},`)).join("");
}

/**
 * One object: its polygons if it has any, else its box; each with a dark line below, so that it shows on any image.
 * @param {ImageObject} object
 * @param {string} color
 * @returns {SVGGElement}
 */
export function drawObject(object, color) {
  const [x1, y1, x2, y2] = object.box;
  const group = svg("g", { class: object.crowd ? "object crowd" : "object" });
  if (object.polygons.length) {
    for (const polygon of object.polygons) {
      const points = pointsOf(polygon);
      group.append(svg("polygon", { class: "halo", points }), svg("polygon", { class: "outline", points, stroke: color, fill: color }));
    }
  } else {
    const box = { x: x1, y: y1, width: x2 - x1, height: y2 - y1 };
    group.append(svg("rect", { class: "halo", ...box }), svg("rect", { class: "outline box", ...box, stroke: color }));
  }
  return group;
}

/**
 * The objects of an image as a layer over it.
 * @param {ImageObject[]} objects
 * @param {ClassRow[]} classes
 * @param {number} width of the image
 * @param {number} height
 * @returns {SVGSVGElement}
 */
export function drawObjects(objects, classes, width, height) {
  const shapes = objects.map((object) => drawObject(object, colorOf(classes, object.class)));
  return svg("svg", { class: "objects", viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, ...shapes);
}
