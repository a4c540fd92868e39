/** The page Try: a detector on images that are dropped, on a video or on the camera, drawn as the sliders say. */

import { get, showError, upload } from "./api.js";
import { drawShapes } from "./boxes.js";
import { html, labeled, select } from "./dom.js";

/** @typedef {{class_id: number, class_name: string, score: number, box: number[], polygons?: number[][]}} Detection */
/** @typedef {{name: string, width: number, height: number, detections: Detection[], notes: string[], classes: string[]}} Answer */

/** Longest side in pixels of a frame that is sent. */
const FRAME = 960;

/**
 * @param {HTMLElement} root
 * @param {import("./main.js").Params} params
 * @returns {Promise<() => void>}
 */
export async function render(root, params) {
  const { detectors } = await get("try/detectors");
  if (!detectors.length) {
    root.append(html("h1", {}, "Try"), html("p", { class: "empty" }, "There is no detector in this project yet. ", html("a", { href: "#/train/new" }, "Train one"), "."));
    return () => {};
  }
  const page = new TryPage(detectors, params.query.get("run") ?? "");
  root.append(page.node);
  return () => page.close();
}

class TryPage {
  /**
   * @param {Array<{run: string, name: string}>} detectors
   * @param {string} run
   */
  constructor(detectors, run) {
    /** @type {Array<{file: File, url: string}>} */
    this.files = [];
    /** @type {Blob | null} */
    this.sent = null;
    /** @type {Answer | null} */
    this.answer = null;
    /** @type {Set<string>} */
    this.hidden = new Set();
    /** @type {MediaStream | null} */
    this.camera = null;
    this.turn = 0;
    this.unshown = false;
    this.shown = "";
    const chosen = detectors.some((each) => each.run === run) ? run : detectors[0].run;
    this.detector = select(detectors.map((each) => [each.run, each.name]), chosen, { onchange: () => this.again() });
    this.threshold = html("input", { type: "range", min: 0.05, max: 0.99, step: 0.01, value: 0.5, oninput: () => this.draw() });
    this.number = html("output", {}, "0.50");
    this.choose = html("input", { type: "file", multiple: true, accept: "image/*,video/*", class: "unseen", id: "try-files", onchange: () => this.take(this.choose.files) });
    this.image = html("img", { alt: "" });
    this.video = html("video", { muted: true, playsinline: true, controls: true, hidden: true });
    this.over = html("div", { class: "over" });
    this.stage = html("div", { class: "shot stage" }, this.image, this.video, this.over);
    this.empty = html("p", { class: "empty" }, "Drop images or a video here.");
    this.state = html("p", { class: "soft", role: "status" });
    this.classes = html("fieldset", { class: "classes" });
    this.list = html("ul", { class: "found" });
    this.strip = html("div", { class: "strip tools", role: "group", "aria-label": "Dropped images" });
    this.attention = html("div", { class: "attention" });
    this.cameraButton = html("button", { type: "button", onclick: () => this.toggleCamera() }, "Camera");
    this.node = html(
      "div",
      { class: "try", ondragover: (/** @type {DragEvent} */ event) => event.preventDefault(), ondrop: (/** @type {DragEvent} */ event) => this.drop(event) },
      html("div", { class: "tools" }, html("h1", {}, "Try"), labeled("Detector", this.detector),
        html("label", { class: "button main", for: "try-files" }, "Choose files"), this.choose, this.cameraButton,
        labeled("Lowest score", this.threshold), this.number),
      this.strip,
      html("div", { class: "sides" }, html("div", {}, this.empty, this.stage, this.state), html("div", {}, this.classes, this.list, this.attention)),
    );
    this.stage.hidden = true;
    this.image.addEventListener("error", () => {
      this.unshown = this.image.hasAttribute("src"); // a format that browsers do not know, such as TIFF
      if (this.answer) this.draw();
    });
  }

  /** @param {DragEvent} event */
  drop(event) {
    event.preventDefault();
    this.take(event.dataTransfer?.files ?? null);
  }

  /** @param {FileList | null} files */
  take(files) {
    if (!files?.length) return;
    this.close();
    this.files = [...files].map((file) => ({ file, url: URL.createObjectURL(file) }));
    this.strip.replaceChildren(...(this.files.length < 2 ? [] : this.files.map(({ file }, k) => html("button", { type: "button", onclick: () => this.open(k) }, file.name))));
    this.choose.value = "";
    this.open(0);
  }

  /** @param {number} k */
  open(k) {
    const { file, url } = this.files[k];
    for (const [n, button] of [...this.strip.children].entries()) button.setAttribute("aria-pressed", String(n === k));
    this.stop();
    this.stage.hidden = false;
    this.empty.hidden = true;
    if (file.type.startsWith("video/")) {
      this.play({ src: url }, file.name);
      return;
    }
    this.video.hidden = true;
    this.image.hidden = this.unshown = false;
    this.image.src = url;
    this.image.alt = file.name;
    this.run(file, file.name);
  }

  /** Run the chosen detector on what is shown. */
  again() {
    if (!this.video.hidden) return; // the next frame has it
    if (this.sent) this.run(this.sent, this.answer?.name ?? "");
  }

  /**
   * Find objects in an image, and draw them unless another one was opened in the meantime.
   * @param {Blob} blob
   * @param {string} name
   */
  async run(blob, name) {
    const mine = (this.turn += 1);
    this.clear();
    this.sent = blob;
    this.state.textContent = "Looking …";
    try {
      const answer = await this.ask(blob, name);
      if (mine === this.turn) this.show(answer);
    } catch (error) {
      if (mine !== this.turn) return;
      this.state.textContent = error instanceof Error ? error.message : String(error);
    }
  }

  /**
   * @param {Blob} blob
   * @param {string} name
   * @returns {Promise<Answer>}
   */
  ask(blob, name) {
    return upload(`try/predict?run=${encodeURIComponent(this.detector.value)}&name=${encodeURIComponent(name)}`, blob);
  }

  /** @param {Answer} answer */
  show(answer) {
    this.answer = answer;
    const names = JSON.stringify(answer.classes);
    if (names !== this.shown) {
      this.shown = names;
      this.hidden.clear();
      this.classes.replaceChildren(html("legend", {}, "Classes"), ...answer.classes.map((name) =>
        html("label", {}, html("input", { type: "checkbox", checked: true, onchange: (/** @type {Event} */ event) => this.toggle(name, event) }), name)));
    }
    this.draw();
  }

  /**
   * @param {string} name
   * @param {Event} event
   */
  toggle(name, event) {
    if (/** @type {HTMLInputElement} */ (event.target).checked) this.hidden.delete(name);
    else this.hidden.add(name);
    this.draw();
  }

  /** Draw the detections that reach the threshold, of the classes that are ticked. */
  draw() {
    const lowest = Number(this.threshold.value);
    this.number.textContent = lowest.toFixed(2);
    if (!this.answer) return;
    const { width, height, classes, notes } = this.answer;
    const kept = this.answer.detections.filter((each) => each.score >= lowest && !this.hidden.has(each.class_name));
    const shapes = kept.map((each) => ({ box: each.box, polygons: each.polygons, text: `${each.class_name} ${each.score.toFixed(2)}`, color: classes.indexOf(each.class_name) }));
    this.over.replaceChildren(drawShapes(width, height, shapes, true));
    const still = this.video.hidden;
    const unshown = this.unshown && still ? ["This browser cannot show the image; what is in it is listed."] : [];
    this.state.textContent = [`${kept.length} of ${this.answer.detections.length} detections are shown.`, ...unshown, ...notes].join(" ");
    this.list.replaceChildren(...(still ? kept.slice(0, 50) : []).map((each) => {
      const text = `${each.class_name} ${each.score.toFixed(2)}`;
      return html("li", {}, html("span", {}, text), html("button", { type: "button", "aria-label": `Where the model looked for ${text}`, onclick: () => this.explain(each) }, "Where it looked"));
    }));
  }

  /** @param {Detection} detection */
  async explain(detection) {
    if (!this.sent) return;
    const [x1, y1, x2, y2] = detection.box.map((value) => value.toFixed(2));
    const mine = this.turn;
    this.attention.replaceChildren(html("p", { class: "soft", role: "status" }, "Looking …"));
    try {
      const query = new URLSearchParams({ run: this.detector.value, class_id: String(detection.class_id), x1, y1, x2, y2 });
      const response = await fetch(`api/try/attention?${query}`, { method: "POST", body: this.sent, headers: { "Content-Type": "application/octet-stream" } });
      if (!response.ok) throw new Error((await response.json()).detail);
      const url = URL.createObjectURL(await response.blob());
      if (mine !== this.turn) return URL.revokeObjectURL(url);
      const text = `Where the model looked for ${detection.class_name} ${detection.score.toFixed(2)}`;
      const image = html("img", { src: url, alt: text, onload: () => URL.revokeObjectURL(url) });
      this.attention.replaceChildren(html("figure", {}, image, html("figcaption", {}, text)));
    } catch (error) {
      this.attention.replaceChildren(html("p", { class: "bad" }, error instanceof Error ? error.message : String(error)));
    }
  }

  async toggleCamera() {
    if (this.camera) {
      this.stop();
      this.video.hidden = true;
      this.stage.hidden = true;
      this.empty.hidden = false;
      this.clear();
      this.state.textContent = "";
      return;
    }
    if (!navigator.mediaDevices) {
      this.state.textContent = "The browser gives a camera only to pages of this machine (127.0.0.1) or over HTTPS.";
      return;
    }
    try {
      const stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1280 } } });
      this.stop();
      this.camera = stream;
      this.cameraButton.textContent = "Stop the camera";
      this.cameraButton.setAttribute("aria-pressed", "true");
      this.stage.hidden = false;
      this.empty.hidden = true;
      this.play({ srcObject: stream }, "camera");
    } catch (error) {
      this.state.textContent = `The camera cannot be used: ${error instanceof Error ? error.message : error}`;
    }
  }

  /**
   * Play a video or the camera, and draw on one frame after the other, as fast as the detector answers.
   * @param {{src: string} | {srcObject: MediaStream}} source
   * @param {string} name
   */
  async play(source, name) {
    const mine = (this.turn += 1);
    const video = this.video;
    this.clear();
    this.image.hidden = true;
    video.hidden = false;
    video.onerror = () => {
      if (mine === this.turn) this.state.textContent = "This browser cannot play the video; use detrkit predict for it, or save it as MP4 (H.264) or WebM.";
    };
    if ("src" in source) video.srcObject = null;
    else video.removeAttribute("src");
    Object.assign(video, source);
    const canvas = html("canvas");
    try {
      await video.play();
    } catch {
      return; // left, or explained by onerror
    }
    while (mine === this.turn) {
      const scale = Math.min(1, FRAME / Math.max(video.videoWidth, video.videoHeight, 1));
      canvas.width = Math.round(video.videoWidth * scale);
      canvas.height = Math.round(video.videoHeight * scale);
      canvas.getContext("2d")?.drawImage(video, 0, 0, canvas.width, canvas.height);
      /** @type {Blob | null} */
      const blob = canvas.width ? await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.9)) : null;
      try {
        const answer = blob && mine === this.turn ? await this.ask(blob, name) : null;
        if (answer && mine === this.turn) this.show(answer);
      } catch (error) {
        if (mine === this.turn) showError(error);
        return;
      }
      await new Promise((resolve) => setTimeout(resolve, video.paused ? 200 : 0));
    }
  }

  /** Forget the present detections. */
  clear() {
    this.answer = null;
    this.sent = null;
    this.over.replaceChildren();
    this.list.replaceChildren();
    this.attention.replaceChildren();
  }

  /** End video and camera. */
  stop() {
    this.turn += 1;
    this.video.pause();
    for (const track of this.camera?.getTracks() ?? []) track.stop();
    this.camera = null;
    this.video.srcObject = null;
    this.cameraButton.textContent = "Camera";
    this.cameraButton.removeAttribute("aria-pressed");
  }

  /** Let go of the files and the camera. */
  close() {
    this.stop();
    this.image.removeAttribute("src");
    this.video.onerror = null;
    this.video.removeAttribute("src");
    this.video.load(); // lets go of the file
    for (const { url } of this.files) URL.revokeObjectURL(url);
  }
}
