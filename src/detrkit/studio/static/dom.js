/** Make elements. Names and labels become text nodes, never HTML, so that no name of a file or class can do harm. */

/** @typedef {Node | string | number | null | undefined | false} Child */
/** @typedef {Record<string, any>} Attributes Attributes by name; `onNAME` listens, false and null leave one out. */

/**
 * Set attributes and append children.
 * @template {Element} E
 * @param {E} node
 * @param {Attributes} attributes
 * @param {Child[]} children
 * @returns {E}
 */
function complete(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("aria-") && typeof value === "boolean") node.setAttribute(name, String(value));
    else if (value === null || value === undefined || value === false) continue;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children) {
    if (child !== null && child !== undefined && child !== false) {
      node.append(child instanceof Node ? child : String(child));
    }
  }
  return node;
}

/**
 * Make an HTML element.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Attributes} [attributes]
 * @param {...Child} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function html(tag, attributes = {}, ...children) {
  return complete(document.createElement(tag), attributes, children);
}

/**
 * Make an SVG element.
 * @template {keyof SVGElementTagNameMap} K
 * @param {K} tag
 * @param {Attributes} [attributes]
 * @param {...Child} children
 * @returns {SVGElementTagNameMap[K]}
 */
export function svg(tag, attributes = {}, ...children) {
  return complete(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

/**
 * An element of the page that must exist.
 * @param {string} id
 * @returns {HTMLElement}
 */
export function byId(id) {
  const node = document.getElementById(id);
  if (!node) throw new Error(`no element #${id}`);
  return node;
}

/**
 * A labeled control.
 * @param {string} text
 * @param {HTMLElement} control
 * @returns {HTMLLabelElement}
 */
export function labeled(text, control) {
  return html("label", {}, html("span", {}, text), control);
}

/**
 * A select with options.
 * @param {Array<[string, string]>} options value and text of each
 * @param {string} value the chosen one
 * @param {Attributes} [attributes]
 * @returns {HTMLSelectElement}
 */
export function select(options, value, attributes = {}) {
  const node = html("select", attributes, ...options.map(([key, text]) => html("option", { value: key }, text)));
  node.value = value;
  return node;
}

/**
 * Show a sentence until it is clicked away or time has passed; screen readers read it at once.
 * @param {string} sentence
 * @param {number} [seconds]
 */
export function toast(sentence, seconds = 12) {
  const place = byId("toast");
  const close = html("button", { type: "button", "aria-label": "Close this message", onclick: () => note.remove() }, "×");
  const note = html("p", {}, html("span", {}, sentence), close);
  place.replaceChildren(note);
  setTimeout(() => note.remove(), seconds * 1000);
}

/**
 * Say a sentence to screen readers alone.
 * @param {string} sentence
 */
export function announce(sentence) {
  byId("status").textContent = sentence;
}
