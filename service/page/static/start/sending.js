/** The one video on its way to the service, until its job exists. It lives longer than the views. */

import { createJob, listModels, Problem } from "../api/client.js";
import { removeUpload, uploadVideo } from "../api/upload.js";
import { address } from "../api/address.js";
import { choices, modelOf, requestFor } from "./choices.js";
import { findKept, forget, keep } from "./kept.js";
import { Pace } from "./pace.js";
import { insist, reachable } from "./service.js";
import { makeStore } from "./store.js";
import { objection } from "./video_file.js";
import { shownName } from "./words.js";

/** @typedef {import("../types.d.ts").ExplainRequest} ExplainRequest */
/** @typedef {import("../types.d.ts").Job} Job */

/**
 * @typedef {object} Sending
 * @property {File} file
 * @property {string} url of the file, for a player.
 * @property {number} sent bytes.
 * @property {number | null} left seconds.
 * @property {string | null} failure a sentence; null while all is well.
 */

export const SENDING_ADDRESS = "#/upload";
const SAMPLE_NAME = "sample.mp4";

/** @type {import("./store.js").Store<Sending | null>} */
export const sending = makeStore(/** @type {Sending | null} */ (null));

/** A sentence about a file that was not accepted. */
export const refusal = makeStore(/** @type {string | null} */ (null));

/** The latest video of this tab, and its job once it has one. */
const latest = { url: "", job: /** @type {Job | null} */ (null) };

let stop = new AbortController();

/**
 * @param {string} id of a job.
 * @returns {{ url: string, job: Job | null } | null} its video, and the job as it began, if this tab has just sent it.
 */
export function sentFor(id) {
  return latest.job?.id === id ? latest : null;
}

/**
 * Sends a video and goes to its job; says at once if it cannot be one.
 *
 * @param {File} file
 */
export async function send(file) {
  const now = sending.get();
  if (now && !now.failure) {
    refusal.set(`“${shownName(now.file.name)}” is still on its way. Send one video at a time.`);
    return;
  }
  refusal.set(null);
  const wrong = await objection(file);
  if (wrong) {
    refusal.set(wrong);
    return;
  }
  await start(file, chosenRequest);
}

/** Sends the sample as if a person had chosen it. */
export async function sendSample() {
  const answer = await fetch(address(`page/${SAMPLE_NAME}`)).catch(() => null);
  if (!answer?.ok) {
    refusal.set("The sample cannot be loaded. Try again, or choose a video of yours.");
    return;
  }
  await send(new File([await answer.blob()], SAMPLE_NAME, { type: "video/mp4", lastModified: 0 }));
}

/** Goes on with the video that this tab was sending when it was reloaded. */
export async function resume() {
  const kept = await findKept();
  if (!kept || sending.get()) return;
  await start(kept.file, async () => kept.request);
}

/** Sends the same video again after a failure. */
export function retry() {
  const now = sending.get();
  if (now) start(now.file, chosenRequest);
}

/** Stops, and removes what has arrived. */
export async function cancelSending() {
  const now = sending.get();
  leaveSending();
  if (now) await removeUpload(now.file).catch(() => null);
}

/** Stops and forgets; what has arrived stays with the service until it expires. */
export function leaveSending() {
  stop.abort();
  sending.set(null);
  forget();
}

/**
 * @param {File} file
 * @param {(signal: AbortSignal) => Promise<ExplainRequest>} ask
 */
async function start(file, ask) {
  stop.abort();
  stop = new AbortController();
  const { signal } = stop;
  if (latest.url) URL.revokeObjectURL(latest.url);
  Object.assign(latest, { job: null, url: URL.createObjectURL(file) });
  sending.set({ file, url: latest.url, sent: 0, left: null, failure: null });
  if (location.hash !== SENDING_ADDRESS) location.hash = SENDING_ADDRESS;
  try {
    const request = await ask(signal);
    keep({ file, request });
    await arrive(await deliver(file, request, signal));
  } catch (problem) {
    if (signal.aborted) return;
    forget();
    change({ failure: sentenceOf(problem) });
  }
}

/**
 * @param {File} file
 * @param {ExplainRequest} request
 * @param {AbortSignal} signal
 * @returns {Promise<Job>}
 */
async function deliver(file, request, signal) {
  const pace = new Pace();
  /** @param {number} sent @param {number} total */
  const onProgress = (sent, total) => {
    if (!signal.aborted) change({ sent, left: pace.secondsLeft(sent, total) });
  };
  const upload = await insist(() => uploadVideo(file, { onProgress, onConnection: reachable.set, signal }), { signal });
  change({ sent: file.size, left: null });
  return insist(() => createJob({ ...request, upload }, { signal }), { signal });
}

/** @param {Job} job */
async function arrive(job) {
  // Before the page is at the job: a reload from then on must not send the video again.
  await forget();
  latest.job = job;
  const isWatched = location.hash === SENDING_ADDRESS;
  if (isWatched) location.replace(`#/jobs/${job.id}`);
  sending.set(null);
}

/** @param {AbortSignal} signal @returns {Promise<ExplainRequest>} */
async function chosenRequest(signal) {
  const wanted = choices.get();
  const models = await insist(() => listModels({ signal }), { signal });
  const model = modelOf(models, wanted.model);
  if (!model) throw new Problem({ code: "model_unavailable", status: 503 });
  return requestFor(model, wanted);
}

/** @param {Partial<Sending>} changes */
function change(changes) {
  const now = sending.get();
  if (now) sending.set({ ...now, ...changes });
}

/** @param {unknown} problem */
function sentenceOf(problem) {
  if (problem instanceof Problem) return problem.sentence;
  console.error(problem);
  return "The video could not be sent. Try again.";
}
