/** Follows a job until it ends. */

import { address } from "./address.js";
import { getJob } from "./client.js";
import { pause } from "./pause.js";
import { Problem } from "./problem.js";

/** @typedef {import("../types.d.ts").Job} Job */

/**
 * @typedef {object} FollowOptions
 * @property {AbortSignal} [signal]
 * @property {(up: boolean) => void} [onConnection] the service has gone, or has come back.
 */

const POLL_MILLISECONDS = 1000;

/** A stream tells the state at once. One that is silent for so long is held back by a proxy. */
const SILENT_MILLISECONDS = 3000;

/** Waits while the service does not answer. The last one is repeated. */
const WAIT_MILLISECONDS = [500, 1000, 2000, 3000];

/**
 * Tell every change of a job. While the service does not answer, it is asked again and again.
 *
 * @param {string} id
 * @param {(job: Job) => void} onJob gets the job at each change, at last the ended one.
 * @param {FollowOptions} [options]
 * @returns {Promise<Job>} the ended job.
 * @throws {Problem} the service refuses, for example because the job was deleted.
 */
export async function followJob(id, onJob, options = {}) {
  let isPolled = typeof EventSource === "undefined";
  for (;;) {
    const job = await readJob(id, options);
    onJob(job);
    if (job.ended_at) return job;
    if (!isPolled) {
      const heard = await listen(job, onJob, options.signal);
      if (heard?.ended_at) return heard;
      isPolled = heard === null;
    }
    await pause(POLL_MILLISECONDS, options.signal);
  }
}

/** @param {string} id @param {FollowOptions} options @returns {Promise<Job>} as soon as the service answers. */
async function readJob(id, { signal, onConnection = () => {} }) {
  for (let failures = 0; ; failures++) {
    try {
      const job = await getJob(id, { signal });
      if (failures > 0) onConnection(true);
      return job;
    } catch (error) {
      if (!(error instanceof Problem && isPassing(error))) throw error;
      if (failures === 0) onConnection(false);
      await pause(WAIT_MILLISECONDS[Math.min(failures, WAIT_MILLISECONDS.length - 1)], signal);
    }
  }
}

/** @param {Problem} problem */
function isPassing({ offline, status }) {
  return offline || status === 429 || status >= 500;
}

/**
 * Listen to the events of a job, until one says that it has ended or the stream breaks.
 *
 * @param {Job} job
 * @param {(job: Job) => void} onJob
 * @param {AbortSignal} [signal]
 * @returns {Promise<Job | null>} the job as it was heard last; null if no event came.
 */
function listen(job, onJob, signal) {
  return new Promise((resolve, reject) => {
    const source = new EventSource(address(`v1/jobs/${encodeURIComponent(job.id)}/events`));
    /** @type {Job | null} */
    let heard = null;
    const close = () => {
      clearTimeout(timer);
      source.close();
      signal?.removeEventListener("abort", abort);
    };
    const end = () => {
      close();
      resolve(heard);
    };
    const abort = () => {
      close();
      reject(signal?.reason);
    };
    /** @param {(data: any) => Job} changed */
    const told = (changed) => (/** @type {MessageEvent} */ event) => {
      clearTimeout(timer);
      heard = changed(JSON.parse(event.data));
      onJob(heard);
      if (heard.ended_at) end();
    };
    const timer = setTimeout(end, SILENT_MILLISECONDS);
    source.addEventListener("state", told((state) => state));
    source.addEventListener("end", told((state) => state));
    source.addEventListener("progress", told((progress) => ({ ...(heard ?? job), progress })));
    source.addEventListener("deleted", end);
    source.addEventListener("error", end);
    signal?.addEventListener("abort", abort);
    if (signal?.aborted) abort();
  });
}
