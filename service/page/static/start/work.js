/** A video from its upload until its result is shown: one frame, in which only the words change. */

import { cancelJob, getJob, Problem } from "../api/client.js";
import { followJob } from "../api/follow.js";
import { html, useEffect, useRef, useState } from "../vendor/preact-htm.js";
import { Ended, NoJob } from "./ended.js";
import { cancelSending, retry, sentFor } from "./sending.js";
import { Said } from "./said.js";
import { hasFiles, useResult } from "./result.js";
import { insist, reachable } from "./service.js";
import { Stages } from "./stages.js";
import { Screen } from "./screen.js";
import { placeInLine, shownName } from "./words.js";

/** @typedef {import("../types.d.ts").Job} Job */
/** @typedef {import("./sending.js").Sending} Sending */

/**
 * @param {object} properties
 * @param {string | null} properties.id of the job; null while there is only a video.
 * @param {Sending | null} properties.sending the video on its way, if that is what is shown.
 * @param {URLSearchParams} properties.query
 * @param {(title: string) => void} properties.onTitle gets the name of the video; nothing if there is no job.
 */
export function Work({ id, sending, query, onTitle }) {
  const { job, problem } = useJob(id);
  const { view, failure } = useResult(job);
  const isThere = hasFiles(job);
  const watched = useRef(/** @type {string | null} */ (null));
  if (job && !job.ended_at) watched.current = id;
  const title = problem ? "" : sending ? shownName(sending.file.name) : job ? shownName(job.filename) : "Opening…";
  useEffect(() => onTitle(title), [title]);
  if (problem) return html`<${NoJob} problem=${problem} />`;
  if (view) return html`<${view.Explore} key=${view.job.id} job=${view.job} exploration=${view.exploration} query=${query} />`;
  return html`<main class="under-way">
    <${Screen} url=${sending?.url ?? (id && sentFor(id)?.url) ?? null} isStill=${Boolean(job?.ended_at && !isThere)} />
    <section class="side" aria-label="Progress">
      ${failure
        ? html`<${Said} title="The result is there" words="Its view could not be loaded. Reload the page." isFailed=${true} />`
        : job?.ended_at && !isThere
          ? html`<${Ended} job=${job} />`
          : html`<${Running} sending=${sending} job=${job} isWatched=${Boolean(sending) || watched.current === id} />`}
    </section>
    <div class="timeline"></div>
  </main>`;
}

/**
 * @param {{ sending: Sending | null, job: Job | null, isWatched: boolean }} properties
 *   `isWatched`: false for a job that had ended before; its stages are not shown.
 */
function Running({ sending, job, isWatched }) {
  if (sending?.failure) return html`<${NotSent} sentence=${sending.failure} />`;
  const { title, words } = sayingOf(sending, job);
  const isOver = job?.state === "succeeded";
  return html`<${Said} title=${title} words=${words} />
    ${isWatched && html`<${Stages} sending=${sending} job=${job} />`}
    ${(sending || job) && !isOver && html`<${Cancel} job=${job} />`}`;
}

/** @param {{ sentence: string }} properties */
function NotSent({ sentence }) {
  return html`<${Said} title="The video was not sent" words=${sentence} isFailed=${true} />
    <div class="ways">
      <button class="button primary" onClick=${retry}>Try again</button>
      <a class="button" href="#">Choose another video</a>
    </div>`;
}

/** @param {{ job: Job | null }} properties */
function Cancel({ job }) {
  const [isAsked, setAsked] = useState(false);
  async function cancel() {
    setAsked(true);
    if (job) return insist(() => cancelJob(job.id)).catch(() => setAsked(false));
    location.hash = "";
    return cancelSending();
  }
  return html`<div class="ways">
    <button class="button" disabled=${isAsked} onClick=${cancel}>${isAsked ? "Stopping…" : "Cancel"}</button>
  </div>`;
}

/**
 * @param {Sending | null} sending
 * @param {Job | null} job
 * @returns {{ title: string, words: string | null }}
 */
function sayingOf(sending, job) {
  if (!job) return { title: sending ? "Sending the video" : "Opening", words: null };
  if (job.state === "succeeded") return { title: "Opening the result", words: null };
  if (job.state === "running") {
    const words = job.attempt > 1 ? "The first try was cut short. The service tries again by itself." : null;
    return { title: "Explaining the video", words };
  }
  if (job.waiting_for === "worker") {
    const words = "No worker for this model is running right now. The video is kept, and starts by itself when one comes.";
    return { title: "Waiting for a worker", words: `${words} You can close this page.` };
  }
  if (job.waiting_for === "store") {
    return { title: "Waiting for room", words: "The service cannot store results right now. The video is kept, and starts by itself." };
  }
  const place = job.queue_position ?? 1;
  return { title: placeInLine(place), words: place > 1 ? "Other videos are before this one. You can close this page." : null };
}

/**
 * @param {string | null} id
 * @returns {{ job: Job | null, problem: Problem | null }} of the job as it is now.
 */
function useJob(id) {
  const [found, setFound] = useState({ id: "", job: /** @type {Job | null} */ (null), problem: /** @type {Problem | null} */ (null) });
  useEffect(() => {
    if (!id) return;
    const stop = new AbortController();
    const { signal } = stop;
    /** @param {Job} job */
    const show = (job) => {
      if (signal.aborted) return;
      const sent = sentFor(id);
      if (sent) sent.job = job;
      setFound({ id, job, problem: null });
    };
    const first = sentFor(id)?.job;
    if (first) show(first);
    follow(id, show, signal).catch((problem) => {
      if (!signal.aborted) setFound({ id, job: null, problem });
    });
    return () => stop.abort();
  }, [id]);
  return found.id === id ? found : { job: (id && sentFor(id)?.job) || null, problem: null };
}

/**
 * @param {string} id
 * @param {(job: Job) => void} show
 * @param {AbortSignal} signal
 */
async function follow(id, show, signal) {
  const job = await insist(() => getJob(id, { signal }), { signal });
  show(job);
  if (!job.ended_at) await insist(() => followJob(id, show, { signal, onConnection: reachable.set }), { signal });
}
