/** Choose the page by the hash of the address: #/images, #/label/ID, ... */

import { get, showError } from "./api.js";
import { byId, html } from "./dom.js";

/** @typedef {{path: string[], query: URLSearchParams}} Params Parts of the hash after the page's name. */
/** @typedef {() => void | Promise<void>} Cleanup Saves and ends what a page has started: timers, requests, listeners on the window. */
/** @typedef {{render(root: HTMLElement, params: Params): Cleanup | Promise<Cleanup>}} Page */

/** @type {Array<{name: string, title: string, load: () => Promise<Page>}>} */
const PAGES = [
  { name: "images", title: "Images", load: () => import("./images.js") },
  { name: "label", title: "Label", load: () => import("./label.js") },
  { name: "train", title: "Train", load: () => import("./train.js") },
  { name: "results", title: "Results", load: () => import("./results.js") },
  { name: "try", title: "Try", load: () => import("./try.js") },
];

/** @type {Promise<Cleanup | undefined>} */
let current = Promise.resolve(undefined);

/** Leave the present page, and show the one of the address. */
function show() {
  const [route, query] = location.hash.slice(2).split("?");
  const [name, ...path] = (route ?? "").split("/").map(decodeURIComponent);
  const page = PAGES.find((each) => each.name === name) ?? PAGES[0];
  const params = { path, query: new URLSearchParams(query) };
  current = current.then(async (cleanup) => {
    await cleanup?.();
    const root = html("div", { class: `page page-${page.name}` });
    byId("main").replaceChildren(root);
    document.title = `${page.title} – detrkit studio`;
    for (const link of byId("pages").querySelectorAll("a")) {
      if (link.hash === `#/${page.name}`) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    try {
      return await (await page.load()).render(root, params);
    } catch (error) {
      showError(error);
      root.append(html("p", { class: "empty" }, "This page could not be loaded; reload it to try again."));
      return undefined;
    }
  });
}

/** Start: the token leaves the address, where others could read it over a shoulder. */
async function start() {
  history.replaceState(null, "", location.pathname + location.hash);
  byId("pages").append(...PAGES.map((page) => html("a", { href: `#/${page.name}` }, page.title)));
  addEventListener("hashchange", show);
  show();
  try {
    byId("project").textContent = (await get("project")).name;
  } catch (error) {
    showError(error);
  }
}

start();
