/** A dialog that writes the labels as a data set of another format. */

import { send } from "./api.js";
import { html, labeled, select } from "./dom.js";

/** Open the dialog. */
export function exportDialog() {
  const form = select([["coco", "COCO"], ["yolo", "YOLO"], ["voc", "Pascal VOC"]], "coco", { name: "format" });
  const name = html("input", { name: "name", required: true, maxlength: 100, value: "export" });
  const result = html("div", { role: "status" });
  const write = html("button", { class: "main" }, "Export");
  const close = html("button", { type: "button", onclick: () => dialog.close() }, "Close");
  const fields = html("form", { onsubmit: (/** @type {Event} */ event) => void submit(event) },
    html("p", {}, "Writes all images with labels, in folder studio_exports of the project; images become hard links where that is possible."),
    html("div", { class: "tools" }, labeled("Format", form), labeled("Folder", name), write, close), result);
  const dialog = html("dialog", { "aria-label": "Export", onclose: () => dialog.remove() }, html("h2", {}, "Export"), fields);

  /** @param {Event} event */
  async function submit(event) {
    event.preventDefault();
    write.disabled = true;
    result.replaceChildren(html("p", {}, "Writing …"));
    try {
      const answer = await send("export", { format: form.value, name: name.value });
      const lines = [`${answer.folder} has ${answer.images} images with ${answer.objects} objects.`, ...answer.notes];
      result.replaceChildren(...lines.map((line) => html("p", {}, line)));
    } catch (error) {
      result.replaceChildren(html("p", { class: "bad" }, error instanceof Error ? error.message : String(error)));
    } finally {
      write.disabled = false;
    }
  }

  document.body.append(dialog);
  dialog.showModal();
}
