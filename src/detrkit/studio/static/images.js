/** The page Images: all images of the project in a grid, with filters that stand in the address. */

import { get, send, showError } from "./api.js";
import { announce, byId, html, labeled, select } from "./dom.js";
import { Grid } from "./grid.js";
import { drawObjects } from "./overlay.js";

/** @typedef {import("./overlay.js").ImageObject} ImageObject */

/**
 * What is known of an image.
 * @typedef {object} ImageRow
 * @property {string} name
 * @property {number} width
 * @property {number} height
 * @property {string} split train, val, or empty for images without labels
 * @property {number} version number of saves in the studio
 * @property {number[]} classes class id of each object
 * @property {number[]} sizes sizes of objects: 0 small, 1 medium, 2 large
 * @property {string[]} findings kinds of findings of `detrkit check`
 * @property {number} group of near-duplicates, or -1
 * @property {number | null} score of the worst suspect
 */

/**
 * All images, as the server lists them.
 * @typedef {object} Listing
 * @property {boolean} ready
 * @property {string[]} notes
 * @property {import("./overlay.js").ClassRow[]} classes
 * @property {Record<string, string>} defects kind of finding -> its meaning
 * @property {string} suspects file of suspects, or empty
 * @property {{searching: boolean, read: number, done: boolean}} duplicates
 * @property {ImageRow[]} images
 */

/** @typedef {{search: string, class: string, split: string, size: string, finding: string, show: string, score: string, sort: string, list: string}} Filters */

/** @type {Filters} */
const DEFAULTS = { search: "", class: "", split: "", size: "", finding: "", show: "", score: "0", sort: "name", list: "" };

/** Key of `sessionStorage`: names of the images that the page Label steps through. */
export const QUEUE = "images to label";

/**
 * Ask for all images; waits until the server has found them.
 * @param {AbortSignal} signal
 * @returns {Promise<Listing>}
 */
export async function loadImages(signal) {
  for (;;) {
    const answer = await get("images", signal);
    if (answer.ready) {
      const names = ["name", "width", "height", "split", "version", "classes", "sizes", "findings", "group", "score"];
      const rows = answer.images.map((/** @type {any[]} */ row) => Object.fromEntries(names.map((name, k) => [name, row[k]])));
      return { ...answer, images: rows };
    }
    await new Promise((resolve) => setTimeout(resolve, 300));
    signal.throwIfAborted();
  }
}

/**
 * The images that filters leave, in their order.
 * @param {Listing} listing
 * @param {Filters} filters
 * @returns {ImageRow[]}
 */
export function filterImages(listing, filters) {
  const word = filters.search.toLowerCase();
  const names = filters.list ? new Set(JSON.parse(sessionStorage.getItem(`list:${filters.list}`) ?? "[]")) : null;
  /** @type {Record<string, (image: ImageRow) => boolean>} */
  const shows = {
    "": () => true,
    unlabeled: (image) => !image.split,
    empty: (image) => Boolean(image.split) && !image.classes.length,
    saved: (image) => image.version > 0,
    copies: (image) => image.group >= 0,
    suspects: (image) => image.score !== null && image.score >= Number(filters.score),
  };
  const kept = listing.images.filter(
    (image) =>
      (!word || image.name.toLowerCase().includes(word)) &&
      (!filters.class || image.classes.includes(Number(filters.class))) &&
      (!filters.split || image.split === (filters.split === "none" ? "" : filters.split)) &&
      (!filters.size || image.sizes.includes(Number(filters.size))) &&
      (!filters.finding || image.findings.includes(filters.finding)) &&
      (!names || names.has(image.name)) &&
      (shows[filters.show] ?? shows[""])?.(image),
  );
  /** @type {Record<string, (a: ImageRow, b: ImageRow) => number>} */
  const orders = {
    score: (a, b) => (b.score ?? -1) - (a.score ?? -1),
    objects: (a, b) => b.classes.length - a.classes.length,
    pixels: (a, b) => b.width * b.height - a.width * a.height,
    copies: (a, b) => (a.group < 0 ? Infinity : a.group) - (b.group < 0 ? Infinity : b.group) || 0,
  };
  const order = orders[filters.sort];
  return order ? kept.sort(order) : kept;
}

/**
 * The controls of the filters.
 * @param {Listing} listing
 * @param {Filters} filters changed by the controls
 * @param {() => void} changed called after each change
 * @returns {HTMLElement}
 */
function makeFilters(listing, filters, changed) {
  /** @param {keyof Filters} name @param {string} title @param {Array<[string, string]>} options */
  const choice = (name, title, options) => {
    const node = select(options, filters[name], {
      onchange: () => {
        filters[name] = node.value;
        changed();
      },
    });
    return labeled(title, node);
  };
  const search = html("input", {
    type: "search", value: filters.search, placeholder: "part of a name", size: 16,
    oninput: () => {
      filters.search = search.value;
      changed();
    },
  });
  const score = html("input", {
    type: "number", min: 0, max: 1, step: 0.05, value: filters.score,
    oninput: () => {
      filters.score = score.value || "0";
      changed();
    },
  });
  const kinds = [...new Set(listing.images.flatMap((image) => image.findings))].sort();
  const splits = [...new Set(listing.images.map((image) => image.split))].sort();
  return html(
    "form",
    { class: "tools filters", role: "search", "aria-label": "Filters", onsubmit: (/** @type {Event} */ e) => e.preventDefault() },
    labeled("Name", search),
    choice("class", "Class", [["", "all"], ...listing.classes.map((row) => /** @type {[string, string]} */ ([String(row.id), row.name]))]),
    splits.length < 2 && !filters.split ? null : choice("split", "Split", [["", "all"], ...splits.map((name) => /** @type {[string, string]} */ ([name || "none", name || "no labels"]))]),
    choice("size", "Objects", [["", "of all sizes"], ["0", "small, below 32²"], ["1", "medium"], ["2", "large, from 96²"]]),
    !kinds.length && !filters.finding ? null : choice("finding", "Finding", [["", "all"], ...kinds.map((kind) => /** @type {[string, string]} */ ([kind, listing.defects[kind] ?? kind]))]),
    choice("show", "Show", [
      ["", "all images"], ["unlabeled", "without labels"], ["empty", "labeled, without objects"], ["saved", "saved in the studio"],
      ["copies", "near-duplicates"], ["suspects", "suspects of review"],
    ]),
    listing.suspects ? labeled("Score from", score) : null,
    choice("sort", "Sort by", [["name", "name"], ["score", "score of suspects"], ["objects", "most objects"], ["pixels", "largest image"], ["copies", "near-duplicates"]]),
  );
}

/**
 * The thumbnail of an image, or words where there is none.
 * @param {ImageRow} image
 * @returns {HTMLElement}
 */
function makeThumbnail(image) {
  const thumbnail = html("img", {
    alt: "", decoding: "async", src: `api/thumbnail?image=${encodeURIComponent(image.name)}`,
    onerror: () => thumbnail.replaceWith(html("span", { class: "broken" }, "cannot be shown")),
  });
  return thumbnail;
}

/**
 * Facts on an image, in words.
 * @param {ImageRow} image
 * @returns {string}
 */
function describe(image) {
  const count = image.classes.length;
  const facts = image.split ? [`${count} object${count === 1 ? "" : "s"}`, image.split] : ["no labels"];
  if (image.version) facts.push("saved");
  if (image.group >= 0) facts.push(`copies ${image.group + 1}`);
  if (image.score !== null) facts.push(`score ${image.score.toFixed(2)}`);
  if (image.findings.length) facts.push(`${image.findings.length} finding${image.findings.length === 1 ? "" : "s"}`);
  return facts.join(" · ");
}

/**
 * Show the page.
 * @param {HTMLElement} root
 * @param {import("./main.js").Params} params
 * @returns {Promise<() => void>}
 */
export async function render(root, params) {
  const control = new AbortController();
  const waiting = html("p", { class: "empty" }, "Looking for images and labels …");
  root.append(waiting);
  const leave = () => control.abort();
  addEventListener("hashchange", leave, { once: true });
  let listing = await loadImages(control.signal);
  removeEventListener("hashchange", leave);
  waiting.remove();
  /** @type {Filters} */
  const filters = { ...DEFAULTS, ...Object.fromEntries(params.query) };
  /** @type {Map<string, ImageObject[]>} */
  const objects = new Map();
  /** @type {ImageRow[]} */
  let shown = [];
  /** @type {Grid | undefined} */
  let grid;
  let timer = 0;
  let here = location.hash;

  const title = html("h1", { tabindex: -1 });
  const copies = html("button", { type: "button", onclick: () => void findCopies() }, "Find near-duplicates");
  const boxes = html("input", { type: "checkbox", checked: true, onchange: () => root.classList.toggle("bare", !boxes.checked) });
  const notes = html("details", { class: "notes" }, html("summary", {}, "Notes on the labels"), ...listing.notes.map((note) => html("p", {}, note)));
  const place = html("div");

  /** @param {number} index */
  function makeTile(index) {
    const image = /** @type {ImageRow} */ (shown[index]);
    const frame = html("span", { class: "frame" });
    return html(
      "a",
      { class: "tile", href: `#/label/${encodeURIComponent(image.name)}`, onclick: remember, title: [image.name, ...image.findings.map((kind) => listing.defects[kind])].join("\n") },
      frame, html("span", { class: "name" }, image.name.split("/").pop()), html("span", { class: "facts" }, describe(image)),
    );
  }

  function remember() {
    sessionStorage.setItem(QUEUE, JSON.stringify(shown.map((image) => image.name)));
  }

  /**
   * Load thumbnails and objects of the tiles in view, once scrolling rests.
   * @param {number} first
   * @param {number} last
   */
  async function fill(first, last) {
    const frames = shown.slice(first, last).map((image, k) => ({ image, frame: grid?.tiles.get(first + k)?.querySelector(".frame") }));
    for (const { image, frame } of frames) if (frame && !frame.childElementCount) frame.append(makeThumbnail(image));
    const missing = frames.filter(({ image }) => image.classes.length && !objects.has(image.name));
    if (missing.length) {
      try {
        const answer = await send("objects", { images: missing.map(({ image }) => image.name).slice(0, 500) });
        for (const [name, rows] of Object.entries(answer.objects)) objects.set(name, rows);
      } catch (error) {
        showError(error);
      }
    }
    for (const { image, frame } of frames) {
      const rows = objects.get(image.name);
      if (rows && frame && !frame.querySelector("svg")) frame.append(drawObjects(rows, listing.classes, image.width, image.height));
    }
  }

  function show() {
    shown = filterImages(listing, filters);
    const all = listing.images.length;
    title.textContent = shown.length === all ? `${all} image${all === 1 ? "" : "s"}` : `${shown.length} of ${all} images`;
    grid?.close();
    grid = new Grid({ scroller: byId("main"), count: shown.length, make: makeTile, shown: fill, label: "Images" });
    place.replaceChildren(shown.length ? grid.root : html("p", { class: "empty" }, all ? "No image passes these filters." : "There are no images in this folder."));
    if (shown.length) grid.update();
  }

  function changed() {
    const query = new URLSearchParams(Object.entries(filters).filter(([name, value]) => value !== DEFAULTS[/** @type {keyof Filters} */ (name)]));
    history.replaceState(null, "", `#/images${query.size ? `?${query}` : ""}`);
    here = location.hash;
    byId("main").scrollTop = 0;
    show();
    announce(title.textContent ?? "");
  }

  async function findCopies() {
    copies.disabled = true;
    try {
      await send("duplicates", {});
      await follow();
    } catch (error) {
      copies.disabled = false;
      showError(error);
    }
  }

  /** Follow the search for near-duplicates until it ends. */
  async function follow() {
    const before = listing.duplicates.done;
    listing = await loadImages(control.signal);
    const { searching, read, done } = listing.duplicates;
    copies.disabled = searching || done;
    copies.textContent = searching ? `Near-duplicates: ${read} of ${listing.images.length} read` : done ? "Near-duplicates are found" : "Find near-duplicates";
    if (done && !before) {
      Object.assign(filters, { show: "copies", sort: "copies" });
      form.replaceWith((form = makeFilters(listing, filters, changed)));
      changed();
    }
    if (searching) timer = setTimeout(() => void follow().catch(showError), 700);
  }

  let form = makeFilters(listing, filters, changed);
  const side = html("div", { class: "tools" }, title, labeled("Labels", boxes), copies, listing.notes.length ? notes : null);
  root.append(side, form, place);
  show();
  byId("main").scrollTop = Number(sessionStorage.getItem(`scroll:${location.hash}`) ?? 0);
  grid?.update();
  if (listing.duplicates.searching || listing.duplicates.done) {
    copies.disabled = true;
    copies.textContent = "Near-duplicates are found";
    if (listing.duplicates.searching) void follow().catch(showError);
  }
  return () => {
    sessionStorage.setItem(`scroll:${here}`, String(byId("main").scrollTop));
    control.abort();
    clearTimeout(timer);
    grid?.close();
  };
}
