/** The calls of the API that the page makes. */

import { address } from "./address.js";
import { noAnswer, Problem, problemOf } from "./problem.js";
import { pause } from "./pause.js";

export { artifactUrl } from "./address.js";
export { failureSentence, Problem } from "./problem.js";

/** @typedef {import("../types.d.ts").Job} Job */
/** @typedef {import("../types.d.ts").ExplainRequest} ExplainRequest */
/** @typedef {import("../types.d.ts").ServedModel} ServedModel */

const TIMEOUT_MILLISECONDS = 30_000;

/** Waits before a job whose creation got no answer is created again, with the same key. */
const REPEAT_MILLISECONDS = [500, 2000];

/**
 * Make a call.
 *
 * @param {string} path relative to the page, or a full URL.
 * @param {{ method?: string, json?: unknown, headers?: Record<string, string>, signal?: AbortSignal }} [options]
 * @returns {Promise<any>} the parsed JSON; null if the answer has no body.
 * @throws {Problem} the service refused, or did not answer in 30 seconds.
 */
export async function call(path, { method = "GET", json, headers = {}, signal } = {}) {
  const timeout = AbortSignal.timeout(TIMEOUT_MILLISECONDS);
  try {
    const response = await fetch(address(path), {
      method,
      headers: json === undefined ? headers : { "Content-Type": "application/json", ...headers },
      body: json === undefined ? undefined : JSON.stringify(json),
      signal: signal ? AbortSignal.any([signal, timeout]) : timeout,
    });
    return read(response.status, await response.text(), response.headers.get("Retry-After"));
  } catch (error) {
    signal?.throwIfAborted();
    throw error instanceof Problem ? error : noAnswer();
  }
}

/** @param {string} url @param {{ signal?: AbortSignal }} [options] */
export function fetchJson(url, options) {
  return call(url, options);
}

/**
 * @param {{ limit?: number, cursor?: string | null, state?: string, signal?: AbortSignal }} [options]
 * @returns {Promise<{ jobs: Job[], next_cursor: string | null }>} newest first.
 */
export function listJobs({ limit = 20, cursor = null, state, signal } = {}) {
  const query = new URLSearchParams({ limit: String(limit) });
  if (cursor) query.set("cursor", cursor);
  if (state) query.set("state", state);
  return call(`v1/jobs?${query}`, { signal });
}

/** @param {string} id @param {{ signal?: AbortSignal }} [options] @returns {Promise<Job>} */
export function getJob(id, options) {
  return call(jobPath(id), options);
}

/**
 * Create a job for an upload. A call without an answer is repeated; still only one job is made.
 *
 * @param {{ upload: string } & ExplainRequest} request
 * @param {{ signal?: AbortSignal }} [options]
 * @returns {Promise<Job>} queued; or ended, if an equal job has succeeded before.
 */
export async function createJob(request, { signal } = {}) {
  const headers = { "Idempotency-Key": randomKey() };
  for (const wait of REPEAT_MILLISECONDS) {
    try {
      return await call("v1/jobs", { method: "POST", json: request, headers, signal });
    } catch (error) {
      if (!(error instanceof Problem && error.offline)) throw error;
      await pause(wait, signal);
    }
  }
  return call("v1/jobs", { method: "POST", json: request, headers, signal });
}

/** @param {string} id @param {{ signal?: AbortSignal }} [options] @returns {Promise<Job>} */
export function cancelJob(id, options) {
  return call(`${jobPath(id)}/cancel`, { ...options, method: "POST" });
}

/** @param {string} id @param {{ signal?: AbortSignal }} [options] @returns {Promise<null>} */
export function deleteJob(id, options) {
  return call(jobPath(id), { ...options, method: "DELETE" });
}

/** @param {{ signal?: AbortSignal }} [options] @returns {Promise<ServedModel[]>} */
export async function listModels(options) {
  return (await call("v1/models", options)).models;
}

/** @param {string} id */
function jobPath(id) {
  return `v1/jobs/${encodeURIComponent(id)}`;
}

/** @param {number} status @param {string} text @param {string | null} retryAfter */
function read(status, text, retryAfter) {
  if (status < 200 || status > 299) throw problemOf(status, text, retryAfter);
  if (!text) return null;
  try {
    return JSON.parse(text);
  } catch {
    throw new Problem({ status, code: "unexpected_answer", title: "The answer is not one of the service" });
  }
}

/** Works without a secure context too, where `randomUUID` is missing. */
function randomKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
