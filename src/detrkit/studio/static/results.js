/** The page Results: evaluations of the runs, and one of them with its numbers, curves, mistakes and images. */

import { get, send, showError } from "./api.js";
import { LineChart, short } from "./chart.js";
import { html, labeled, select } from "./dom.js";
import { mistakesSection } from "./mistakes.js";
import { every } from "./train.js";

/** @typedef {{report: string, run: string, name: string, state: string, message: string, data?: string, split?: string, images?: number, AP?: number, pairs?: boolean}} Row */
/** @typedef {[number, number] | null} Interval */

/**
 * @param {HTMLElement} root
 * @param {import("./main.js").Params} params
 * @returns {Promise<() => void>}
 */
export async function render(root, params) {
  return params.path[0] ? reportPage(root, params.path[0], params.query) : reportsPage(root);
}

/** @param {string} report */
export const addressOf = (report) => `#/results/${encodeURIComponent(report)}`;

/**
 * Cells of a table.
 * @param {Array<string | number | Node | null | undefined>} values
 */
function cells(values) {
  return values.map((value) => html("td", {}, typeof value === "number" ? short(value) : value ?? "–"));
}

/** What cells of numbers hold: a number, an interval, or nothing. */
const NUMBER = /^(-?[\d.]+(e-?\d+)?( to -?[\d.]+(e-?\d+)?)?|–)$/;

/**
 * A table; columns of numbers are aligned right.
 * @param {string[]} heads
 * @param {HTMLTableRowElement[]} rows
 */
export function table(heads, rows) {
  const head = html("tr", {}, ...heads.map((text) => html("th", { scope: "col" }, text)));
  for (const [k, title] of [...head.cells].entries()) {
    const column = rows.map((row) => row.cells[k]);
    if (k && column.every((cell) => NUMBER.test(cell?.textContent ?? "–"))) for (const cell of [title, ...column]) cell?.classList.add("number");
  }
  return html("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": heads[0] }, html("table", {}, html("thead", {}, head), html("tbody", {}, ...rows)));
}

/**
 * List the reports, and keep up with evaluations that run.
 * @param {HTMLElement} root
 */
async function reportsPage(root) {
  const place = html("div");
  root.append(html("h1", {}, "Results"), place);
  const form = await evaluateForm(() => refresh());
  if (form) root.append(form);
  let running = false;
  let before = "";
  const refresh = async () => {
    /** @type {Row[]} */
    const reports = (await get("results/reports")).reports;
    running = reports.some((each) => each.state === "running");
    const now = JSON.stringify(reports);
    if (now === before) return;
    before = now;
    const rows = reports.map((each) =>
      html(
        "tr",
        {},
        html("th", { scope: "row" }, each.state === "finished" ? html("a", { href: addressOf(each.report) }, each.name) : each.name),
        ...cells([each.data ? `${each.data} (${each.split})` : each.message || each.state, each.images === undefined ? null : String(each.images), each.AP === -1 ? null : each.AP]),
      ),
    );
    const empty = html("p", { class: "empty" }, "There is no result yet. A training writes one when it ends.");
    place.replaceChildren(rows.length ? table(["Run", "Measured on", "Images", "AP"], rows) : empty);
  };
  await refresh();
  return every(() => (running ? 2000 : 8000), refresh);
}

/**
 * A form that measures a detector on data, such as labels that were corrected.
 * @param {() => Promise<void>} done
 */
async function evaluateForm(done) {
  const [{ places, first }, { detectors }] = await Promise.all([get("train/data"), get("try/detectors")]);
  if (!detectors.length) return null;
  const run = select(detectors.map((/** @type {{run: string, name: string}} */ each) => [each.run, each.name]), detectors[0].run);
  const data = select(places.map((/** @type {string} */ each) => [each, each === "." ? "the whole project" : each]), first ?? places[0] ?? ".");
  const split = select([["val", "held-out images"], ["train", "training images"]], "val");
  const button = html("button", {}, "Evaluate");
  const submit = async (/** @type {Event} */ event) => {
    event.preventDefault();
    button.disabled = true;
    try {
      await send("results/evaluate", { run: run.value, data: data.value, split: split.value });
      await done();
    } catch (error) {
      showError(error);
    }
    button.disabled = false;
  };
  return html(
    "form",
    { onsubmit: submit, "aria-label": "Evaluate" },
    html("h2", {}, "Measure again"),
    html("p", { class: "soft" }, "On labels that were corrected, or on other data."),
    html("div", { class: "tools" }, labeled("Detector", run), labeled("Data", data), labeled("Images", split), button),
  );
}

/**
 * Show one report; `with` in the query names another one to compare with.
 * @param {HTMLElement} root
 * @param {string} name
 * @param {URLSearchParams} query
 */
async function reportPage(root, name, query) {
  const path = (/** @type {string} */ each) => `results/report?report=${encodeURIComponent(each)}`;
  const other = query.get("with");
  const [report, second, { reports }] = await Promise.all([get(path(name)), other ? get(path(other)) : null, get("results/reports")]);
  const others = reports.filter((/** @type {Row} */ each) => each.report !== name && each.state === "finished" && each.pairs);
  const compare = select([["", "nothing"], ...others.map((/** @type {Row} */ each) => [each.report, `${each.name}${each.split === "train" ? " (train)" : ""}, ${each.report}`])], other ?? "");
  compare.addEventListener("change", () => {
    location.hash = addressOf(name) + (compare.value ? `?with=${encodeURIComponent(compare.value)}` : "");
  });
  const made = report.made_by ?? {};
  root.append(
    html("p", {}, html("a", { href: "#/results" }, "All results")),
    html("div", { class: "tools" }, html("h1", {}, report.run.name), others.length ? labeled("Compare with", compare) : null,
      html("a", { class: "button", href: `#/try?run=${encodeURIComponent(report.run.run)}` }, "Try this detector")),
    html("p", { class: "soft" }, `${report.images} images of ${made.data ?? "?"} (${made.split ?? "?"}), ${report.objects ?? "?"} objects`),
    numbers(report, second),
  );
  const charts = html("div", { class: "sides" });
  if (report.pr_curves) charts.append(precisionChart(report, second));
  if (Object.keys(report.run.curves).length) charts.append(trainingChart(report.run));
  root.append(charts);
  if (report.per_class) root.append(html("h2", {}, "Classes"), classes(report));
  const mistakes = report.confusion_matrix ? await mistakesSection(report, second, query) : null;
  if (mistakes) root.append(mistakes);
  return () => {};
}

/**
 * The interval of a metric, in words.
 * @param {any} report
 * @param {string} metric
 */
function interval(report, metric) {
  /** @type {Interval | undefined} */
  const pair = report.intervals?.metrics?.[metric];
  return pair ? `${short(pair[0])} to ${short(pair[1])}` : "–";
}

/**
 * The metrics with their intervals, of one report or two.
 * @param {any} report
 * @param {any} second
 */
function numbers(report, second) {
  const of = (/** @type {any} */ each) => ({
    ...each?.coco?.bbox,
    ...Object.fromEntries(Object.entries(each?.coco?.segm ?? {}).map(([key, value]) => [`mask_${key}`, value])),
    ...(each?.panoptic ? { PQ: each.panoptic.All.pq, SQ: each.panoptic.All.sq, RQ: each.panoptic.All.rq } : {}),
  });
  const [mine, theirs] = [of(report), of(second)];
  const shown = ["AP", "AP50", "AP75", "AR100", "mask_AP", "mask_AP50", "PQ", "SQ", "RQ"].filter((key) => key in mine && mine[key] >= 0);
  const rows = shown.map((key) =>
    html("tr", {}, html("th", { scope: "row" }, key.replace("_", " ")), ...cells([mine[key], interval(report, key), ...(second ? [theirs[key] ?? null, interval(second, key)] : [])])),
  );
  const level = report.intervals ? `${100 * report.intervals.level} % interval` : "Interval";
  return table(["Metric", report.run.name, level, ...(second ? [second.run.name, level] : [])], rows);
}

/** @param {any} report */
function classes(report) {
  const pairs = Object.fromEntries((report.intervals?.per_class ?? []).map((/** @type {any} */ row) => [row.id, row.AP]));
  const rows = report.per_class.map((/** @type {any} */ row) => {
    const best = row.best_threshold ?? {};
    const pair = pairs[row.id];
    const measured = (/** @type {number} */ value) => (value === -1 ? null : value);
    return html("tr", {}, html("th", { scope: "row" }, row.name), ...cells([String(row.objects), measured(row.AP), pair ? `${short(pair[0])} to ${short(pair[1])}` : "–", measured(row.AP50), best.f1, best.precision, best.recall, best.score]));
  });
  return table(["Class", "Objects", "AP", "Interval", "AP50", "F1", "Precision", "Recall", "at score"], rows);
}

/**
 * @param {any} report
 * @param {any} second
 */
function precisionChart(report, second) {
  const chart = new LineChart();
  const names = Object.keys(report.pr_curves["iou_0.50"].per_class);
  const which = select([["", "All classes"], ...names.map((name) => /** @type {[string, string]} */ ([name, name]))], "");
  const draw = () => {
    const lines = [report, second].flatMap((each, color) => {
      const curves = each?.pr_curves?.["iou_0.50"];
      const values = which.value ? curves?.per_class[which.value] : curves?.all;
      if (!values) return [];
      const points = each.pr_curves.recall.map((/** @type {number} */ recall, /** @type {number} */ k) => [recall, values[k]]);
      return [{ name: each.run.name, points, color }];
    });
    chart.draw({ title: "Precision", xLabel: "recall", lines, yRange: [0, 1] });
  };
  which.addEventListener("change", draw);
  draw();
  return html("section", {}, html("h2", {}, "Precision over recall, at IoU 0.5"), labeled("Class", which), chart.node);
}

/** @param {import("./train.js").Run} run */
function trainingChart(run) {
  const chart = new LineChart();
  const options = /** @type {Array<[string, string]>} */ ([["loss", "Loss"], ["AP", "AP"], ["AP50", "AP50"], ["PQ", "PQ"]].filter(([key]) => run.curves[key]?.length));
  const which = select(options, options[0]?.[0] ?? "");
  const draw = () => {
    const lines = [{ name: which.value === "loss" ? "training" : "validation", points: run.curves[which.value] ?? [], color: 0 }];
    if (which.value === "loss") lines.push({ name: "validation", points: run.curves.val_loss ?? [], color: 1 });
    chart.draw({ title: which.value, xLabel: "epoch", lines });
  };
  which.addEventListener("change", draw);
  draw();
  return html("section", {}, html("h2", {}, "Training"), labeled("Show", which), chart.node);
}
