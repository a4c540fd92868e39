/** The page Train: runs side by side, and a form that starts one with proposed settings. */

import { get, send, showError } from "./api.js";
import { LineChart, short } from "./chart.js";
import { announce, html, labeled, select } from "./dom.js";

/** @typedef {{epoch: number, epochs: number, batch: number, batches: number, loss: number, left: string}} Position */
/**
 * @typedef {object} Run
 * @property {string} run its path in the project
 * @property {string} name
 * @property {string} state
 * @property {string} message the error that ended it
 * @property {boolean} running
 * @property {boolean} resumable
 * @property {boolean} detector
 * @property {boolean} report
 * @property {boolean} log
 * @property {Partial<Position> | null} position
 * @property {number | undefined} epochs
 * @property {Record<string, string | number>} settings
 * @property {Record<string, Array<[number, number]>>} curves
 */
/** @typedef {{name: string, value: string | number, choices: string[] | null, reason: string, needed: boolean}} Setting */

const QUANTITIES = { loss: "Loss", AP: "AP", AP50: "AP50", mask_AP: "Mask AP", PQ: "PQ" };

/**
 * @param {HTMLElement} root
 * @param {import("./main.js").Params} params
 * @returns {Promise<() => void>}
 */
export async function render(root, params) {
  return params.path[0] === "new" ? newTraining(root) : runsPage(root);
}

/**
 * Show the runs, and keep up with those that train.
 * @param {HTMLElement} root
 */
async function runsPage(root) {
  const list = html("ul", { class: "runs" });
  const chart = new LineChart();
  const quantity = select(Object.entries(QUANTITIES), "loss");
  const empty = html("p", { class: "empty", hidden: true }, "There is no run yet. Label some images, then start a training.");
  const output = html("pre", { class: "log", tabindex: 0, hidden: true, "aria-label": "Log" });
  root.append(
    html("div", { class: "tools" }, html("h1", {}, "Train"), html("a", { class: "button main", href: "#/train/new" }, "New training")),
    empty,
    html("div", { class: "sides" }, list, html("section", { "aria-label": "Curves" }, labeled("Show", quantity), chart.node)),
    output,
  );
  /** @type {Map<string, RunRow>} */
  const rows = new Map();
  /** @type {Run[]} */
  let runs = [];
  let logOf = "";

  const draw = () => {
    const name = quantity.value;
    const lines = runs.flatMap((run, color) => {
      if (!rows.get(run.run)?.shown.checked) return [];
      const line = { name: run.name, points: run.curves[name] ?? [], color };
      return name === "loss"
        ? [{ ...line, name: `${run.name} training` }, { name: `${run.name} validation`, points: run.curves.val_loss ?? [], color, dashed: true }]
        : [line];
    });
    const title = QUANTITIES[/** @type {keyof typeof QUANTITIES} */ (name)];
    chart.draw({ title, xLabel: "epoch", lines });
  };
  const showLog = async () => {
    output.hidden = !logOf;
    if (!logOf) return;
    const low = output.scrollTop + output.clientHeight >= output.scrollHeight - 4;
    output.textContent = (await get(`train/log?run=${encodeURIComponent(logOf)}`)).text;
    if (low) output.scrollTop = output.scrollHeight;
  };
  const refresh = async () => {
    runs = (await get("train/runs")).runs;
    empty.hidden = runs.length > 0;
    for (const [k, run] of runs.entries()) {
      let row = rows.get(run.run);
      if (!row) {
        row = new RunRow(run, k, { changed: draw, refresh, log: (name) => ((logOf = logOf === name ? "" : name), showLog()) });
        rows.set(run.run, row);
        list.prepend(row.node);
      }
      row.update(run);
    }
    for (const [name, row] of rows) {
      if (runs.some((run) => run.run === name)) continue;
      row.node.remove();
      rows.delete(name);
    }
    draw();
    await showLog();
  };
  quantity.addEventListener("change", draw);
  await refresh();
  if (!runs.some((run) => run.curves.loss) && runs.some((run) => run.curves.AP)) quantity.value = "AP";
  return every(() => (runs.some((run) => run.running) ? 2000 : 8000), refresh);
}

/**
 * Repeat something until the page is left; waits while the page is hidden.
 * @param {() => number} milliseconds
 * @param {() => Promise<void>} action
 */
export function every(milliseconds, action) {
  let timer = 0;
  let failed = false;
  const next = () => {
    timer = window.setTimeout(async () => {
      try {
        if (!document.hidden) await action();
        failed = false;
      } catch (error) {
        if (!failed) showError(error);
        failed = true;
      }
      if (timer) next();
    }, milliseconds());
  };
  next();
  return () => {
    clearTimeout(timer);
    timer = 0;
  };
}

/** One run of the list, which is updated in place, so that the focus stays. */
class RunRow {
  /**
   * @param {Run} run
   * @param {number} color
   * @param {{changed: () => void, refresh: () => Promise<void>, log: (run: string) => void}} actions
   */
  constructor(run, color, actions) {
    this.shown = html("input", { type: "checkbox", checked: true, onchange: actions.changed });
    this.state = html("span", { class: "state" });
    this.bar = html("progress", { "aria-label": `Progress of ${run.name}` });
    this.text = html("p", { class: "soft" });
    this.error = html("p", { class: "bad" });
    const order = async (/** @type {string} */ verb) => {
      try {
        this.stop.disabled = this.resume.disabled = true;
        await send(`train/${verb}`, { run: run.run });
        await actions.refresh();
      } catch (error) {
        showError(error);
        await actions.refresh().catch(showError);
      }
    };
    const here = encodeURIComponent(run.run);
    this.stop = html("button", { type: "button", onclick: () => order("stop") }, "Stop");
    this.resume = html("button", { type: "button", onclick: () => order("resume") }, "Go on");
    this.log = html("button", { type: "button", onclick: () => actions.log(run.run) }, "Log");
    this.results = html("a", { class: "button", href: `#/results/${encodeURIComponent(run.run === "." ? "report" : `${run.run}/report`)}` }, "Results");
    this.try = html("a", { class: "button", href: `#/try?run=${here}` }, "Try");
    const title = html("label", {}, this.shown, html("i", { class: `key color${color % 8}` }), html("strong", {}, run.name));
    this.node = html(
      "li",
      {},
      html("div", { class: "tools" }, title, this.state),
      this.bar,
      this.text,
      this.error,
      html("div", { class: "tools" }, this.stop, this.resume, this.results, this.try, this.log),
    );
  }

  /** @param {Run} run */
  update(run) {
    if (this.state.textContent && this.state.textContent !== run.state) announce(`${run.name}: ${run.state}`);
    this.state.textContent = run.state;
    this.state.className = `state is-${run.state}`;
    const at = run.position ?? {};
    const epochs = at.epochs ?? run.epochs ?? 0;
    this.bar.hidden = !run.running;
    if (at.epoch != null && epochs) {
      this.bar.max = epochs;
      this.bar.value = at.epoch + (at.batches ? (at.batch ?? 0) / at.batches : 0);
    } else this.bar.removeAttribute("value");
    const best = Math.max(...(run.curves.AP ?? []).map(([, value]) => value));
    const done = run.curves.loss?.length ?? 0;
    this.text.textContent = [
      run.running && at.epoch != null
        ? `epoch ${Math.min(at.epoch + 1, epochs)} of ${epochs}, batch ${at.batch ?? 0} of ${at.batches ?? "?"}`
        : run.running ? "reads the data and builds the model" : `${done} epoch${done === 1 ? "" : "s"}`,
      run.running && at.loss != null ? `loss ${short(at.loss)}` : "",
      Number.isFinite(best) ? `best AP ${short(best)}` : "",
      run.running && at.left && at.left !== "?" ? `${at.left} left` : "",
      run.running ? "" : Object.entries(run.settings).filter(([name]) => name === "data" || name === "model").map(([name, value]) => `${name} ${value}`).join(", "),
    ].filter(Boolean).join(" · ");
    this.error.textContent = run.message;
    this.error.hidden = !run.message;
    this.stop.hidden = !run.running;
    this.resume.hidden = !run.resumable;
    this.stop.disabled = this.resume.disabled = false;
    this.results.hidden = !run.report;
    this.try.hidden = !run.detector;
    this.log.hidden = !run.log;
  }
}

/**
 * A form with proposed settings.
 * @param {HTMLElement} root
 */
async function newTraining(root) {
  const [{ places, first }, { runs }] = await Promise.all([get("train/data"), get("train/runs")]);
  /** @type {Set<string>} */
  const taken = new Set(runs.map((/** @type {Run} */ run) => run.name));
  let number = 1;
  while (taken.has(`run-${number}`)) number += 1;
  const titles = places.map((/** @type {string} */ place) => [place, place === "." ? "the whole project" : place]);
  const data = select(titles, first ?? places[0] ?? ".", { id: "data" });
  const name = html("input", { value: `run-${number}`, required: true, maxlength: 80, id: "run-name" });
  const summary = html("ul", { class: "soft" });
  const body = html("tbody");
  const wait = html("p", { class: "soft", role: "status" });
  const start = html("button", { class: "main", disabled: true }, "Start training");
  const command = html("code");
  /** @type {Map<string, {setting: Setting, input: HTMLInputElement | HTMLSelectElement}>} */
  const inputs = new Map();
  let latest = 0;

  const changed = () => {
    /** @type {Record<string, string>} */
    const values = {};
    for (const [key, { setting, input }] of inputs) {
      if (setting.needed || input.value !== String(setting.value) || (CHOSEN.includes(key) && chosen.has(key))) values[key] = input.value;
    }
    const flags = Object.entries(values).map(([key, value]) => ` --${key} ${quoted(value)}`);
    command.textContent = `detrkit train ${quoted(data.value)} --output_dir ${quoted(`runs/${name.value}`)}${flags.join("")}`;
    return values;
  };
  /** Choices on which the other proposals depend. */
  const CHOSEN = ["task", "weights", "model"];
  /** @type {Set<string>} */
  const chosen = new Set();
  const propose = async () => {
    const mine = (latest += 1);
    start.disabled = true;
    wait.textContent = "Reading the data to propose settings …";
    const choices = Object.fromEntries([...chosen].map((key) => [key, inputs.get(key)?.input.value ?? ""]));
    if (choices.weights && !["auto", "none"].includes(choices.weights)) delete choices.model;
    try {
      const answer = await send("train/proposal", { data: data.value, settings: choices });
      if (mine !== latest) return;
      summary.replaceChildren(...answer.summary.map((/** @type {string} */ line) => html("li", {}, line)));
      inputs.clear();
      body.replaceChildren(...answer.settings.map((/** @type {Setting} */ setting) => settingRow(setting)));
      start.disabled = false;
      wait.textContent = "";
      changed();
    } catch (error) {
      if (mine !== latest) return;
      wait.textContent = error instanceof Error ? error.message : String(error);
      summary.replaceChildren();
      body.replaceChildren();
    }
  };
  /** @param {Setting} setting */
  const settingRow = (setting) => {
    const id = `setting-${setting.name}`;
    const input = setting.choices
      ? select(setting.choices.map((value) => [value, value === "." ? "this run" : value]), String(setting.value), { id })
      : html("input", { id, value: setting.value, size: 8, inputmode: "decimal", autocomplete: "off", readonly: setting.value === "" });
    inputs.set(setting.name, { setting, input });
    input.addEventListener("change", () => {
      changed();
      if (!CHOSEN.includes(setting.name)) return;
      chosen.add(setting.name);
      propose();
    });
    const words = setting.name.replace(/_/g, " ");
    return html("tr", {}, html("th", { scope: "row" }, html("label", { for: id }, words)), html("td", {}, input), html("td", { class: "soft" }, setting.reason));
  };
  const submit = async (/** @type {Event} */ event) => {
    event.preventDefault();
    start.disabled = true;
    try {
      await send("train/start", { name: name.value, data: data.value, settings: changed() });
      location.hash = "#/train";
    } catch (error) {
      showError(error);
      start.disabled = false;
    }
  };
  data.addEventListener("change", () => {
    chosen.clear();
    propose();
  });
  name.addEventListener("input", changed);
  const heads = ["Setting", "Value", "Why this value"].map((text) => html("th", { scope: "col" }, text));
  root.append(
    html("p", {}, html("a", { href: "#/train" }, "All runs")),
    html("h1", {}, "New training"),
    html(
      "form",
      { onsubmit: submit },
      html("div", { class: "tools" }, labeled("Data", data), labeled("Name", name), start),
      wait,
      summary,
      html("div", { class: "scroll" }, html("table", { class: "settings" }, html("thead", {}, html("tr", {}, ...heads)), body)),
      html("p", { class: "soft" }, "The same on the command line, in the project folder: ", command),
    ),
  );
  propose();
  return () => {
    latest += 1;
  };
}

/** @param {string} text */
function quoted(text) {
  return /^[\w./:+-]+$/.test(text) ? text : `'${text.replace(/'/g, `'\\''`)}'`;
}
