/** Gets the view of a result ready behind the view of the running job, so that one replaces the other at once. */

import { pause } from "../api/pause.js";
import { useEffect, useState } from "../vendor/preact-htm.js";

/** @typedef {import("../types.d.ts").Job} Job */
/** @typedef {{ Explore: unknown, job: Job, exploration: import("../types.d.ts").Exploration | null }} View */

const TRIES = 6;
const AGAIN_MS = 2000;

/** @param {Job | null} job */
export function hasFiles(job) {
  return Boolean(job?.state === "succeeded" && job.result?.artifacts.length);
}

/**
 * Loads the code while the job runs, and the result as soon as it is there.
 *
 * @param {Job | null} job
 * @returns {{ view: View | null, failure: boolean }}
 */
export function useResult(job) {
  const [found, setFound] = useState({ view: /** @type {View | null} */ (null), failure: false });
  const isThere = hasFiles(job);
  useEffect(() => {
    if (!job || (job.ended_at && !isThere)) return;
    const stop = new AbortController();
    const { signal } = stop;
    open(isThere ? job : null, signal).then(
      (view) => signal.aborted || setFound({ view, failure: false }),
      () => signal.aborted || setFound({ view: null, failure: isThere }),
    );
    return () => stop.abort();
  }, [job?.id, isThere]);
  return { view: found.view?.job.id === job?.id ? found.view : null, failure: isThere && found.failure };
}

/**
 * @param {Job | null} job null loads the code only.
 * @param {AbortSignal} signal
 * @returns {Promise<View | null>}
 */
async function open(job, signal) {
  const { Explore, openExploration } = await loadCode(signal);
  // Without an exploration the view opens the job itself, and says what is wrong.
  return job && { Explore, job, exploration: await openExploration(job, { signal }).catch(() => null) };
}

/** @param {AbortSignal} signal Tried again: the service may be away for a moment. */
async function loadCode(signal) {
  for (let tries = 1; ; tries++) {
    try {
      return await import("../explore/explore.js");
    } catch (error) {
      if (tries === TRIES) throw error;
      await pause(AGAIN_MS, signal);
    }
  }
}
