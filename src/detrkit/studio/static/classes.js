/** A dialog that renames and deletes classes, and puts deleted ones back with their objects. */

import { get, send } from "./api.js";
import { html } from "./dom.js";

/** @typedef {{id: number, name: string, former?: string[], deleted: boolean, objects: number, images: number}} CountedClass */

/** @param {number} count @param {string} noun */
const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

/** @param {CountedClass} row */
const extent = (row) => (row.objects ? `${plural(row.objects, "object")} in ${plural(row.images, "image")}` : "no objects");

/**
 * Open the dialog.
 * @param {() => void} changed called when it is closed, if a class was changed
 */
export async function classesDialog(changed) {
  /** @type {CountedClass[]} */
  let rows = (await get("classes")).classes;
  let edits = 0;
  const list = html("ul", { class: "class-rows" });
  const result = html("p", { class: "bad", role: "status" });
  const close = html("form", { method: "dialog" }, html("button", {}, "Close"));
  const dialog = html("dialog", { "aria-label": "Classes", onclose: () => (dialog.remove(), edits && changed()) },
    html("h2", {}, "Classes"), html("p", { class: "soft" }, "Names hold for all images. A deleted class takes its objects out of the labels, and can be put back with them."), list, result, close);

  /** @param {string} path @param {object} body */
  async function change(path, body) {
    result.textContent = "";
    try {
      rows = (await send(path, body, "PUT")).classes;
      edits += 1;
      draw();
      close.querySelector("button")?.focus();
    } catch (error) {
      result.textContent = error instanceof Error ? error.message : String(error);
    }
  }

  /** @param {CountedClass} row */
  function makeRow(row) {
    const name = html("input", { value: row.name, maxlength: 200, required: true, "aria-label": `Name of ${row.name}` });
    const rename = html("button", { disabled: true }, "Rename");
    name.addEventListener("input", () => (rename.disabled = name.value.trim() === row.name || !name.value.trim()));
    const submit = (/** @type {Event} */ event) => {
      event.preventDefault();
      void change("classes", { id: row.id, name: name.value });
    };
    const remove = html("button", { type: "button", "aria-label": `Delete ${row.name}`, onclick: () => (row.objects ? confirm() : void change("classes/deleted", { id: row.id, deleted: true })) }, "Delete");
    const item = html("li", {}, html("form", { class: "tools", onsubmit: submit }, name, html("span", { class: "soft" }, extent(row)), rename, remove));
    const confirm = () => {
      const keep = html("button", { type: "button", onclick: () => draw() }, "Keep it");
      const agree = html("button", { type: "button", class: "danger", onclick: () => void change("classes/deleted", { id: row.id, deleted: true }) }, "Delete the class");
      item.replaceChildren(html("div", { class: "tools", role: "alert" }, html("span", {}, `Delete ${row.name} with its ${extent(row)}?`), agree, keep));
      keep.focus();
    };
    return item;
  }

  /** @param {CountedClass} row */
  const makeDeleted = (row) => html("li", { class: "tools" }, html("s", {}, row.name), html("span", { class: "soft" }, `deleted, ${extent(row)}`),
    html("button", { type: "button", "aria-label": `Put ${row.name} back`, onclick: () => void change("classes/deleted", { id: row.id, deleted: false }) }, "Put back"));

  function draw() {
    list.replaceChildren(...rows.map((row) => (row.deleted ? makeDeleted(row) : makeRow(row))));
  }

  draw();
  document.body.append(dialog);
  dialog.showModal();
}
