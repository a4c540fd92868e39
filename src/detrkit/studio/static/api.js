/** Ask the studio's own server. The cookie that came with the page holds the token. */

import { toast } from "./dom.js";

/** What the server refused, in a sentence. */
export class ApiError extends Error {
  /**
   * @param {string} sentence
   * @param {number} status of HTTP; 0 if there was no answer
   */
  constructor(sentence, status) {
    super(sentence);
    this.status = status;
  }
}

/**
 * Send a request.
 * @param {string} method
 * @param {string} path below /api, such as `images/17`
 * @param {RequestInit} [options]
 * @returns {Promise<any>} the JSON of the answer
 * @throws {ApiError}
 */
async function request(method, path, options = {}) {
  let response;
  try {
    response = await fetch(`api/${path}`, { method, ...options });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiError("The studio does not answer; start it again with detrkit studio, and open its address.", 0);
  }
  const answer = await response.json().catch(() => ({ detail: response.statusText }));
  if (!response.ok) throw new ApiError(sentence(String(answer.detail)), response.status);
  return answer;
}

/** @param {string} text */
function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}

/**
 * Ask for JSON.
 * @param {string} path
 * @param {AbortSignal} [signal]
 */
export function get(path, signal) {
  return request("GET", path, signal ? { signal } : {});
}

/**
 * Send JSON.
 * @param {string} path
 * @param {unknown} body
 * @param {"POST" | "PUT" | "DELETE"} [method]
 */
export function send(path, body, method = "POST") {
  return request(method, path, { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });
}

/**
 * Send a file.
 * @param {string} path
 * @param {Blob} file
 */
export function upload(path, file) {
  const kind = file.type && !file.type.startsWith("text/") ? file.type : "application/octet-stream";
  return request("POST", path, { body: file, headers: { "Content-Type": kind } });
}

/**
 * Show an error as a sentence; anything but a refusal of the server is a bug, and is also logged.
 * @param {unknown} error
 */
export function showError(error) {
  if (error instanceof DOMException && error.name === "AbortError") return;
  if (!(error instanceof ApiError)) console.error(error);
  toast(error instanceof Error ? error.message : String(error));
}
