/** Sends a video by tus, in parts, and goes on where it stopped. */

import { address } from "./address.js";
import { pause } from "./pause.js";
import { noAnswer, Problem, problemOf } from "./problem.js";
import { sendByXhr } from "./transport.js";
import { forgottenUpload, rememberedUpload, rememberUpload } from "./upload_memory.js";

/** @typedef {import("./transport.js").Send} Send */
/** @typedef {import("./transport.js").Answer} Answer */

/**
 * @typedef {object} UploadOptions
 * @property {(sent: number, total: number) => void} [onProgress] bytes.
 * @property {(up: boolean) => void} [onConnection] the service has gone, or has come back.
 * @property {AbortSignal} [signal] stops; the next call for the same file goes on.
 * @property {Send} [send] makes the calls. Default: XMLHttpRequest, which reports progress.
 */

const PART_BYTES = 8 * 1024 * 1024;
const TUS = { "Tus-Resumable": "1.0.0" };

/** Waits after failures in a row. The last one is repeated. */
const WAIT_MILLISECONDS = [300, 1000, 2000, 4000, 8000];

/** Failures in a row after which it stops: with the waits, ten minutes without an answer, or one of refusals. */
const MAX_SILENCES = 80;
const MAX_REFUSALS = 12;

/** Refusals that pass: another call writes, the offset is another, or bytes came too slowly. */
const PASSING = new Set([408, 409, 423, 425, 429, 500, 502, 503, 504]);

/**
 * Send a file. What has arrived of it before counts, also after a reload of the page.
 *
 * @param {File} file
 * @param {UploadOptions} [options]
 * @returns {Promise<string>} the id of the complete upload.
 * @throws {Problem} the service refuses the file, or does not answer for about ten minutes; or the file
 *   cannot be read: `file_unreadable`.
 */
export async function uploadVideo(file, options = {}) {
  if (file.size === 0) throw new Problem({ code: "upload_empty", title: "The file is empty" });
  return new Upload(file, options).run();
}

/**
 * Remove what has arrived of a file that is not wanted any more. Does not fail: what stays expires.
 *
 * @param {File} file
 * @param {{ send?: Send }} [options]
 */
export async function removeUpload(file, { send = sendByXhr } = {}) {
  const id = rememberedUpload(file);
  if (id === null) return;
  forgottenUpload(file);
  await send({ method: "DELETE", url: urlOf(id), headers: TUS });
}

class Upload {
  /** @param {File} file @param {UploadOptions} options */
  constructor(file, { onProgress = () => {}, onConnection = () => {}, signal, send = sendByXhr }) {
    this._file = file;
    this._onProgress = onProgress;
    this._onConnection = onConnection;
    this._signal = signal;
    this._send = send;
    this._failures = 0;
    this._isUp = true;
    /** @type {string | null} */
    this._id = rememberedUpload(file);
    /** Bytes that have arrived; null if that is to be asked. @type {number | null} */
    this._offset = null;
  }

  /** @returns {Promise<string>} */
  async run() {
    for (;;) {
      this._signal?.throwIfAborted();
      try {
        const id = await this._step();
        if (id !== null) return id;
      } catch (error) {
        if (!(error instanceof Problem) || !isPassing(error)) throw error;
        await this._wait(error);
      }
    }
  }

  /** Make the next call. @returns {Promise<string | null>} the id, once all bytes have arrived. */
  async _step() {
    if (this._id === null) await this._create();
    else if (this._offset === null) await this._ask();
    else if (this._offset < this._file.size) await this._sendPart(this._offset);
    return this._id !== null && this._offset === this._file.size ? this._id : null;
  }

  async _create() {
    const answer = await this._call("POST", address("v1/uploads"), {
      "Upload-Length": String(this._file.size),
      "Upload-Metadata": `filename ${base64(this._file.name || "video")}`,
    });
    this._id = lastSegment(answer.header("Location"));
    rememberUpload(this._file, this._id);
    this._arrived(0);
  }

  async _ask() {
    const id = /** @type {string} */ (this._id);
    try {
      const answer = await this._call("HEAD", urlOf(id));
      const isSame = Number(answer.header("Upload-Length") ?? this._file.size) === this._file.size;
      if (isSame) this._arrived(offsetOf(answer));
      else this._beginAnew();
    } catch (error) {
      if (!(error instanceof Problem && [404, 410].includes(error.status))) throw error;
      this._beginAnew();
    }
  }

  /** @param {number} offset */
  async _sendPart(offset) {
    const part = await contentOf(this._file, offset, Math.min(offset + PART_BYTES, this._file.size));
    const headers = { "Upload-Offset": String(offset), "Content-Type": "application/offset+octet-stream" };
    const id = /** @type {string} */ (this._id);
    // Until the answer is there, what has arrived is not known.
    this._offset = null;
    const answer = await this._call("PATCH", urlOf(id), headers, part, (sent) =>
      this._onProgress(offset + Math.min(sent, part.byteLength), this._file.size),
    );
    this._arrived(offsetOf(answer));
  }

  /**
   * @param {string} method
   * @param {string} url
   * @param {Record<string, string>} [headers]
   * @param {ArrayBuffer} [body]
   * @param {(sent: number) => void} [onSent]
   */
  async _call(method, url, headers = {}, body, onSent) {
    const request = { method, url, headers: { ...TUS, ...headers }, body, onSent, signal: this._signal };
    const answer = await this._send(request);
    this._signal?.throwIfAborted();
    if (answer.status === 0) throw noAnswer();
    if (answer.status < 200 || answer.status > 299) throw refusal(answer);
    if (!this._isUp) this._tell(true);
    this._failures = 0;
    return answer;
  }

  /** @param {boolean} isUp */
  _tell(isUp) {
    this._isUp = isUp;
    this._onConnection(isUp);
  }

  /** @param {number} offset */
  _arrived(offset) {
    this._offset = offset;
    this._onProgress(offset, this._file.size);
  }

  _beginAnew() {
    forgottenUpload(this._file);
    this._id = null;
    this._offset = null;
  }

  /** @param {Problem} problem */
  async _wait(problem) {
    this._offset = null;
    this._failures += 1;
    if (this._failures > (problem.offline ? MAX_SILENCES : MAX_REFUSALS)) throw problem;
    if (problem.offline && this._isUp && this._failures > 1) this._tell(false);
    const last = WAIT_MILLISECONDS.length - 1;
    await pause(WAIT_MILLISECONDS[Math.min(this._failures - 1, last)], this._signal);
  }
}

/** @param {Problem} problem */
function isPassing(problem) {
  return problem.offline || PASSING.has(problem.status);
}

/** @param {Answer} answer An answer to HEAD has no body, so its status says what it is. */
function refusal({ status, header, text }) {
  const problem = problemOf(status, text, header("Retry-After"));
  if (problem.code !== "unexpected_answer") return problem;
  /** @type {Record<number, string>} */
  const codes = { 401: "unauthorized", 404: "upload_not_found", 410: "upload_expired" };
  return new Problem({ status, code: codes[status] ?? problem.code, title: problem.title });
}

/** @param {string} id */
function urlOf(id) {
  return address(`v1/uploads/${encodeURIComponent(id)}`);
}

/** @param {string | null} location The path below which the service lives may differ from ours. */
function lastSegment(location) {
  const id = /([^/]+)\/?$/.exec(location ?? "")?.[1];
  if (!id) throw new Problem({ code: "unexpected_answer", title: "The answer is not one of the service" });
  return id;
}

/** @param {Answer} answer */
function offsetOf(answer) {
  return Number(answer.header("Upload-Offset"));
}

/** @param {File} file @param {number} begin @param {number} end */
async function contentOf(file, begin, end) {
  try {
    return await file.slice(begin, end).arrayBuffer();
  } catch {
    throw new Problem({ code: "file_unreadable", title: "The file cannot be read any more" });
  }
}

/** @param {string} text in UTF-8. */
function base64(text) {
  return btoa(String.fromCharCode(...new TextEncoder().encode(text)));
}
