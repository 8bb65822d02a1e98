/** The jobs that the view waits for. What is shown stays until the answer is there. */

import { useEffect, useRef, useState } from "../vendor/preact-htm.js";
import { cancelJob } from "../api/client.js";

/** @typedef {import("../types.d.ts").Job} Job */
/** @typedef {{ text: string, share: number | null, cancel: () => void }} Work */
/** @typedef {import("./results.js").Following} Following */
/** @typedef {(slot: string, text: string, run: (following: Following) => Promise<any>) => Promise<any>} Start */

/** @type {Record<string, string>} */
const STAGES = {
  decode: "reading the video",
  explain: "running the model",
  faithfulness: "measuring",
  render: "drawing",
  publish: "storing",
};

/**
 * `start` returns what `run` returns; null if it failed, or was stopped. What is started in a slot
 * stops what was there.
 * @returns {{ work: Work | null, failure: string | null, start: Start, stop: (slot: string) => void, dismiss: () => void }}
 */
export function useWork() {
  const [works, setWorks] = useState(/** @type {Record<string, Work>} */ ({}));
  const [failure, setFailure] = useState(/** @type {string | null} */ (null));
  const running = useRef(/** @type {Record<string, Running>} */ ({})).current;
  /** @param {string} slot */
  const stop = (slot) => {
    running[slot]?.stop();
    delete running[slot];
    setWorks(({ [slot]: _, ...others }) => others);
  };
  /** @type {Start} */
  const start = async (slot, text, run) => {
    stop(slot);
    setFailure(null);
    const mine = (running[slot] = new Running());
    /** @param {string} said @param {number | null} share */
    const say = (said, share) => setWorks((all) => ({ ...all, [slot]: { text: said, share, cancel: () => stop(slot) } }));
    say(text, null);
    try {
      const answer = await run(mine.following((job) => say(`${text}: ${stateOf(job)}`, shareOf(job))));
      return mine.isStopped ? null : answer;
    } catch (error) {
      if (!mine.isStopped) setFailure(sentenceOf(error));
      return null;
    } finally {
      if (running[slot] === mine) stop(slot);
    }
  };
  useEffect(() => () => Object.values(running).forEach((one) => one.abort.abort()), []);
  return { work: Object.values(works).at(-1) ?? null, failure, start, stop, dismiss: () => setFailure(null) };
}

/** One thing that is waited for. */
class Running {
  abort = new AbortController();
  /** @type {Job | null} */
  latest = null;

  get isStopped() {
    return this.abort.signal.aborted;
  }

  /** @param {(job: Job) => void} say @returns {Following} */
  following(say) {
    /** @param {Job} job */
    const onJob = (job) => {
      this.latest = job;
      if (!this.isStopped) say(job);
    };
    return { signal: this.abort.signal, onJob };
  }

  /** Wait no longer, and cancel the job if it has not ended. */
  stop() {
    this.abort.abort();
    if (this.latest && !this.latest.ended_at) cancelJob(this.latest.id).catch(() => {});
  }
}

/** @param {any} error @returns {string} for people. */
export function sentenceOf(error) {
  return error?.sentence ?? error?.message ?? String(error);
}

/** @param {Job} job */
function stateOf(job) {
  if (job.state === "running") return STAGES[job.progress?.stage ?? "decode"];
  if (job.ended_at) return "opening the answer";
  if (job.waiting_for === "worker") return "waiting for a worker";
  const ahead = (job.queue_position ?? 1) - 1;
  return ahead > 0 ? `waiting, ${ahead} ahead` : "waiting for its turn";
}

/** @param {Job} job */
function shareOf({ progress }) {
  return progress?.total ? progress.done / progress.total : null;
}

