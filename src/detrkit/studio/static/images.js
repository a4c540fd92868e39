/** The page Images. */

import { get } from "./api.js";
import { html } from "./dom.js";

/**
 * Show the names of the images.
 * @param {HTMLElement} root
 * @param {import("./main.js").Params} _params
 * @returns {Promise<() => void>}
 */
export async function render(root, _params) {
  /** @type {{images: Array<{name: string}>}} */
  const { images } = await get("images");
  const rows = images.slice(0, 1000).map((image) => html("li", {}, image.name));
  root.append(html("h1", {}, `${images.length} images`), html("ul", {}, ...rows));
  return () => {};
}
