/** The mistakes of a report: a confusion matrix whose cells open their images, and the images of two models. */

import { get } from "./api.js";
import { shapedImage } from "./boxes.js";
import { html, labeled, select } from "./dom.js";
import { QUEUE } from "./images.js";

/**
 * @typedef {object} PairedImage
 * @property {number} id
 * @property {string} file
 * @property {string | null} name in the project, if it can be labeled
 * @property {number} width
 * @property {number} height
 * @property {Array<[number, number, number, number, number]>} objects class and box
 * @property {number[]} crowds indices of objects that are regions of many
 * @property {Array<[number, number, number, number, number, number, number]>} detections class, score, box, index of object
 */
/** @typedef {{threshold: number, labels: string[], images: PairedImage[]}} Pairs */
/** @typedef {{gt: number, pred: number, object: number, detection: number}} Pair Indices of classes; -1 where there is none. */

/** Images that are shown at a time. */
const MOST = 24;

/** Kinds of errors, as the reports name them. */
const KINDS = ["missed", "wrong class", "false alarm"];

/**
 * All pairs of an image: right ones, confusions, missed objects (pred is background) and false alarms (gt is).
 * @param {PairedImage} image
 * @param {number} background
 * @returns {Pair[]}
 */
export function pairsOf(image, background) {
  const open = new Set(image.objects.keys());
  for (const index of image.crowds) open.delete(index);
  const pairs = image.detections.map((row, detection) => {
    const object = row[6];
    open.delete(object);
    return { gt: object < 0 ? background : image.objects[object][0], pred: row[0], object, detection };
  });
  return [...pairs, ...[...open].map((object) => ({ gt: image.objects[object][0], pred: background, object, detection: -1 }))];
}

/**
 * @param {Pair} pair
 * @param {number} background
 */
function kindOf(pair, background) {
  if (pair.gt === pair.pred) return "right";
  if (pair.pred === background) return "missed";
  return pair.gt === background ? "false alarm" : "wrong class";
}

/**
 * The image with its objects (dashed) and detections; chosen ones stand out.
 * @param {string} report
 * @param {PairedImage} image
 * @param {string[]} labels
 * @param {Pair[]} chosen
 * @param {{objects?: boolean, detections?: boolean, labels?: boolean}} [show]
 */
function drawing(report, image, labels, chosen, show = {}) {
  const objects = new Set(chosen.map((pair) => pair.object));
  const detections = new Set(chosen.map((pair) => pair.detection));
  const shapes = [
    ...(show.objects === false ? [] : image.objects.map(([label, ...box], k) => ({ box, text: labels[label], color: label, dashed: true, strong: objects.has(k) }))),
    ...(show.detections === false ? [] : image.detections.map(([label, score, x1, y1, x2, y2], k) => ({
      box: [x1, y1, x2, y2], text: `${labels[label]} ${score.toFixed(2)}`, color: label, strong: detections.has(k),
    }))),
  ];
  const source = `api/results/image?report=${encodeURIComponent(report)}&image=${image.id}`;
  return shapedImage(source, image.file, { width: image.width, height: image.height, shapes, labels: show.labels });
}

/**
 * The name of an image, as a link to its labels.
 * @param {PairedImage} image
 * @param {Array<{image: PairedImage}>} found images that the page Label then steps through
 */
function caption({ file, name }, found) {
  if (!name) return html("figcaption", {}, file);
  const remember = () => sessionStorage.setItem(QUEUE, JSON.stringify(found.flatMap(({ image }) => image.name ?? [])));
  return html("figcaption", {}, html("a", { href: `#/label/${encodeURIComponent(name)}`, title: "Look at its labels", onclick: remember }, file));
}

/**
 * The sections of mistakes.
 * @param {any} report
 * @param {any} second another report to compare with, or null
 * @param {URLSearchParams} query gt and pred: indices of the cell that is open; kind: of the errors that are
 * @returns {Promise<HTMLElement>}
 */
export async function mistakesSection(report, second, query) {
  const path = (/** @type {any} */ each) => `results/pairs?report=${encodeURIComponent(each.report)}`;
  const place = html("section");
  /** @type {[Pairs, Pairs | null]} */
  let loaded;
  try {
    loaded = await Promise.all([get(path(report)), second ? get(path(second)) : null]);
  } catch (error) {
    place.append(html("h2", {}, "Mistakes"), html("p", { class: "soft" }, error instanceof Error ? error.message : String(error)));
    return place;
  }
  const [pairs, theirs] = loaded;
  const background = pairs.labels.length - 1;
  const gallery = html("div", { class: "gallery", "aria-live": "polite" });
  const title = html("h2", { tabindex: -1 }, "Images");
  const more = html("button", { type: "button", hidden: true }, "Show more");

  /**
   * @param {string} text
   * @param {(pair: Pair) => boolean} filter
   */
  const open = (text, filter) => {
    const found = pairs.images.map((image) => ({ image, chosen: pairsOf(image, background).filter(filter) })).filter(({ chosen }) => chosen.length);
    title.textContent = `${text}: ${found.length} image${found.length === 1 ? "" : "s"}`;
    gallery.replaceChildren();
    const add = () => {
      const at = gallery.childElementCount;
      gallery.append(...found.slice(at, at + MOST).map(({ image, chosen }) =>
        html("figure", {}, drawing(report.report, image, pairs.labels, chosen), caption(image, found))));
      more.hidden = gallery.childElementCount >= found.length;
    };
    more.onclick = add;
    add();
  };
  const openCell = (/** @type {number} */ gt, /** @type {number} */ pred) => {
    const text = gt === background ? `No object, taken for ${pairs.labels[pred]}`
      : pred === background ? `${pairs.labels[gt]}, missed` : gt === pred ? `${pairs.labels[gt]}, found` : `${pairs.labels[gt]}, taken for ${pairs.labels[pred]}`;
    open(text, (pair) => pair.gt === gt && pair.pred === pred);
  };
  /** Keep the opened cell in the address, so that it can be reloaded. */
  const remember = (/** @type {Record<string, string | number>} */ values) => {
    const next = new URLSearchParams(query.get("with") ? { with: query.get("with") ?? "" } : {});
    for (const [key, value] of Object.entries(values)) next.set(key, String(value));
    history.replaceState(null, "", `${location.hash.split("?")[0]}?${next}`);
    title.focus();
    title.scrollIntoView({ block: "start" });
  };

  const counts = Object.fromEntries(KINDS.map((kind) => [kind, 0]));
  for (const image of pairs.images) for (const pair of pairsOf(image, background)) counts[kindOf(pair, background)] += 1;
  const openKind = (/** @type {string} */ kind) => open(`All of the kind ${kind}`, (pair) => kindOf(pair, background) === kind);
  place.append(
    html("h2", {}, `Mistakes, at score ${pairs.threshold.toFixed(2)} and above`),
    html("div", { class: "tools" }, ...KINDS.map((kind) =>
      html("button", { type: "button", onclick: () => { openKind(kind); remember({ kind }); } }, `${kind} (${counts[kind]})`))),
    matrix(report.confusion_matrix, background, (gt, pred) => { openCell(gt, pred); remember({ gt, pred }); }),
    html("p", { class: "soft" }, "Rows are the ground truth, columns the predictions. A cell opens its images: objects are dashed, the pair of the cell is red. The name below an image opens its labels."),
    title,
    gallery,
    more,
  );
  if (theirs) place.append(sideBySide(report, second, pairs, theirs));
  const kind = query.get("kind");
  if (kind && KINDS.includes(kind)) openKind(kind);
  else if (query.has("gt") && query.has("pred")) openCell(Number(query.get("gt")), Number(query.get("pred")));
  else open("Images with mistakes", (pair) => pair.gt !== pair.pred);
  return place;
}

/**
 * @param {{labels: string[], rows_gt_columns_prediction: number[][]}} confusion
 * @param {number} background
 * @param {(gt: number, pred: number) => void} open
 */
function matrix(confusion, background, open) {
  const { labels, rows_gt_columns_prediction: rows } = confusion;
  const most = Math.max(1, ...rows.flat());
  const named = (/** @type {number} */ k, /** @type {string} */ alone) => (k === background ? alone : labels[k]);
  const body = rows.map((row, gt) =>
    html("tr", {}, html("th", { scope: "row" }, named(gt, "no object")), ...row.map((count, pred) => {
      if (!count) return html("td", { class: "zero" }, gt === background && pred === background ? "" : "0");
      const label = `${named(gt, "no object")} as ${named(pred, "missed")}: ${count}`;
      const button = html("button", { type: "button", "aria-label": label, title: label, onclick: () => open(gt, pred) }, count);
      button.style.setProperty("--share", String(Math.sqrt(count / most)));
      button.className = gt === pred ? "right" : "wrong";
      return html("td", {}, button);
    })));
  const heads = labels.map((_, k) => html("th", { scope: "col" }, named(k, "missed")));
  return html("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Confusion matrix" },
    html("table", { class: "matrix" }, html("thead", {}, html("tr", {}, html("td"), ...heads)), html("tbody", {}, ...body)));
}

/**
 * Two models on one image; images on which they differ most come first.
 * @param {any} report
 * @param {any} second
 * @param {Pairs} pairs
 * @param {Pairs} theirs
 */
function sideBySide(report, second, pairs, theirs) {
  const errors = (/** @type {PairedImage} */ image, /** @type {Pairs} */ of) => {
    const background = of.labels.length - 1;
    return pairsOf(image, background).filter((pair) => pair.gt !== pair.pred);
  };
  const byFile = new Map(theirs.images.map((image) => [image.file, image]));
  const both = pairs.images.flatMap((one) => {
    const two = byFile.get(one.file);
    return two ? [{ one, two, mine: errors(one, pairs), others: errors(two, theirs) }] : [];
  });
  both.sort((a, b) => Math.abs(b.mine.length - b.others.length) - Math.abs(a.mine.length - a.others.length));
  if (!both.length) return html("p", { class: "soft" }, "The two were measured on different images, so none can be shown side by side.");
  const place = html("div", { class: "pair" });
  const which = select(both.map(({ one, mine, others }, k) => [String(k), `${one.file} (${mine.length} and ${others.length} errors)`]), "0");
  const draw = () => {
    const { one, two, mine, others } = both[Number(which.value)];
    const count = (/** @type {Pair[]} */ found) => `${found.length} error${found.length === 1 ? "" : "s"}`;
    place.replaceChildren(
      html("figure", {}, drawing(report.report, one, pairs.labels, [], { detections: false, labels: true }), html("figcaption", {}, "ground truth")),
      html("figure", {}, drawing(report.report, one, pairs.labels, mine, { objects: false, labels: true }), html("figcaption", {}, `${report.run.name}: ${count(mine)}`)),
      html("figure", {}, drawing(second.report, two, theirs.labels, others, { objects: false, labels: true }), html("figcaption", {}, `${second.run.name}: ${count(others)}`)),
    );
  };
  which.addEventListener("change", draw);
  draw();
  return html("section", {}, html("h2", {}, `${report.run.name} beside ${second.run.name}`), labeled("Image", which), place);
}
