/** What is asked of the service, and how others ask the same. */

import { address } from "../api/address.js";

/** @typedef {import("../types.d.ts").ExplainRequest} ExplainRequest */
/** @typedef {import("../types.d.ts").Job} Job */
/** @typedef {import("../types.d.ts").ServedModel} ServedModel */

/** Most tokens of a clip for which the service makes a full rollout. */
const MAX_FULL_ROLLOUT_TOKENS = 4096;

/** Defaults of the fields of a request, which need not be told. @type {Record<string, unknown>} */
export const DEFAULTS = {
  method: "rollout",
  weighting: null,
  head_fusion: "mean",
  discard_ratio: 0,
  start_layer: 0,
  layer: null,
  reference: "still",
  target: null,
  against: null,
  query: "cls",
  per_layer: false,
  full_rollout: false,
  faithfulness: false,
  sampling: null,
  clips: "one",
  start_seconds: null,
  end_seconds: null,
  stream: null,
  allow_incomplete: false,
  overlay: { colormap: "plasma", opacity: 0.6, layout: "overlay", scale: "video", signed: false, contours: false, caption: true, max_height: 1080 },
  preview: false,
  fake: null,
};

/**
 * @param {Pick<ServedModel, "name" | "spec">} model
 * @param {ExplainRequest} [options] such as `method` and `target`; they win.
 * @returns {ExplainRequest} of a job that can be explored: with every layer, a preview, and where
 *   the service allows it the rollout of every token.
 */
export function explorationRequest(model, options = {}) {
  /** @type {ExplainRequest} */
  const request = { model: model.name, per_layer: true, preview: true, ...options };
  if (allowsFullRollout(model, request)) return { full_rollout: true, ...request };
  return request;
}

/** @param {Pick<ServedModel, "spec">} model @param {ExplainRequest} request */
function allowsFullRollout({ spec }, { method = "rollout", target = null, clips = "one" }) {
  const rows = spec.height / spec.patch_height;
  const columns = spec.width / spec.patch_width;
  const tokens = 1 + spec.frames * rows * columns;
  const isOfClasses = method === "difference" || (method === "contribution_rollout" && target !== null);
  return method !== "attention" && !isOfClasses && clips === "one" && tokens <= MAX_FULL_ROLLOUT_TOKENS;
}

/**
 * @param {Job} job
 * @param {{ withKey?: boolean }} [options] whether the service has keys.
 * @returns {string} a command that makes this very result, with curl.
 */
export function curlLines(job, { withKey = false } = {}) {
  const lines = [
    "curl",
    withKey ? '-H "Authorization: Bearer $ROLLOUT_API_KEY"' : "",
    `-F ${inShell(`video=@${inForm(job.filename ?? "video.mp4")}`)}`,
    // --form-string: the text of a plain -F may not begin with @ or <, nor have a semicolon.
    `--form-string ${inShell(`request=${JSON.stringify(toldRequest(job))}`)}`,
    inShell(address("v1/jobs")),
  ];
  return lines.filter(Boolean).join(" \\\n  ");
}

/**
 * @param {Job} job
 * @param {{ withKey?: boolean }} [options] whether the service has keys.
 * @returns {string} a program that makes this very result, with the project's Python client.
 */
export function pythonLines(job, { withKey = false } = {}) {
  const options = Object.entries(toldRequest(job)).map(([name, value]) => `        ${name}=${inPython(value)},\n`);
  return `from rollout_core.client import RolloutClient

with RolloutClient(${inPython(address("."))}) as client:${withKey ? "  # the key: ROLLOUT_API_KEY" : ""}
    job = client.explain(
        ${inPython(job.filename ?? "video.mp4")},
${options.join("")}    )
    relevance = client.arrays(job).relevance  # clip t h w
`;
}

/** @param {Job} job @returns {Record<string, unknown>} the fields of its request that are not defaults. */
function toldRequest({ request }) {
  return Object.fromEntries(
    Object.entries(request).filter(
      ([name, value]) => !(name in DEFAULTS && JSON.stringify(DEFAULTS[name]) === JSON.stringify(value)),
    ),
  );
}

/** @param {string} text quoted for a POSIX shell. */
function inShell(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

/** @param {string} filename as curl reads it after `@`: `-` alone would be the standard input. */
function inForm(filename) {
  const path = filename.startsWith("-") ? `./${filename}` : filename;
  return /^[\w./-]+$/.test(path) ? path : `"${path.replace(/["\\]/g, "\\$&")}"`;
}

/** @param {unknown} value of JSON. @returns {string} as Python writes it. */
function inPython(value) {
  if (value === null || value === undefined) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(inPython).join(", ")}]`;
  if (typeof value === "object") {
    const items = Object.entries(value).map(([name, item]) => `${inPython(name)}: ${inPython(item)}`);
    return `{${items.join(", ")}}`;
  }
  return JSON.stringify(value);
}
