/** A job that has no result to show: what happened, and what to do. */

import { createJob, failureSentence, Problem } from "../api/client.js";
import { jobAddress } from "../route.js";
import { html, useState } from "../vendor/preact-htm.js";
import { Seconds, spanObjection } from "./options.js";
import { Said } from "./said.js";
import { insist } from "./service.js";

/** @typedef {import("../types.d.ts").Job} Job */
/** @typedef {import("../types.d.ts").ExplainRequest} ExplainRequest */

/** Failures that a shorter part of the video avoids. */
const SPAN = new Set(["deadline_exceeded", "out_of_memory", "too_much_work", "video_span_empty", "video_too_long"]);

/** Failures that may be over the next time. */
const PASSING = new Set(["internal", "no_worker", "store_full", "store_unavailable", "worker_crashed"]);

/** @param {{ job: Job }} properties */
export function Ended({ job }) {
  const { again, failure, isBusy } = useAgain(job);
  const { title, words, isFailed } = sayingOf(job);
  const code = job.error?.code ?? "";
  return html`<${Said} title=${title} words=${words} isFailed=${isFailed} />
    ${job.result && html`<${Predictions} predictions=${job.result.predictions} />`}
    ${job.upload && SPAN.has(code) && html`<${Span} job=${job} again=${again} isBusy=${isBusy} />`}
    <div class="ways">
      ${job.upload &&
      code === "video_incomplete" &&
      !job.request.allow_incomplete &&
      html`<button class="button primary" disabled=${isBusy} onClick=${() => again({ allow_incomplete: true })}>
        Explain the part that is there
      </button>`}
      ${job.upload &&
      (PASSING.has(code) || !job.error) &&
      html`<button class="button primary" disabled=${isBusy} onClick=${() => again({})}>Explain it again</button>`}
      <a class="button" href="#">Choose another video</a>
    </div>
    <p class="error-text small" role="alert">${failure}</p>
    ${job.error && html`<${Details} error=${job.error} />`}`;
}

/**
 * A job that the service does not have, or does not show.
 *
 * @param {{ problem: unknown }} properties
 */
export function NoJob({ problem }) {
  const isGone = problem instanceof Problem && [404, 422].includes(problem.status);
  const title = isGone ? "There is no such job" : "This job cannot be shown";
  const words = isGone
    ? "It was deleted, it is too old, or it belongs to another key."
    : problem instanceof Problem
      ? problem.sentence
      : "Something failed in this page. Reload it.";
  return html`<main class="no-job">
    <div class="said">
      <h1>${title}</h1>
      <p class="muted">${words}</p>
    </div>
    <a class="button primary" href="#">Choose a video</a>
  </main>`;
}

/** @param {{ predictions: import("../types.d.ts").Prediction[] }} properties What is kept of an expired result. */
function Predictions({ predictions }) {
  return html`<dl class="kept">
    ${predictions.map(
      ({ label, index, probability }) => html`<div key=${index}>
        <dt class="clip">${label}</dt>
        <dd>${(100 * probability).toFixed(1)} %</dd>
      </div>`,
    )}
  </dl>`;
}

/** @param {{ job: Job, again: (changes: Partial<ExplainRequest>) => void, isBusy: boolean }} properties */
function Span({ job, again, isBusy }) {
  const [span, setSpan] = useState({ from: job.request.start_seconds ?? null, to: job.request.end_seconds ?? null });
  const wrong = spanObjection(span);

  /** @param {Event} event */
  function submit(event) {
    event.preventDefault();
    again({ start_seconds: span.from, end_seconds: span.to });
  }
  const isWhole = span.from === null && span.to === null;
  return html`<form class="shorter" onSubmit=${submit}>
    <fieldset class="span">
      <legend>Part of the video, in seconds</legend>
      <${Seconds} label="From" empty="start" value=${span.from}
        onValue=${(/** @type {number | null} */ from) => setSpan({ ...span, from })} />
      <${Seconds} label="To" empty="end" value=${span.to}
        onValue=${(/** @type {number | null} */ to) => setSpan({ ...span, to })} />
    </fieldset>
    <p class="error-text small" role="alert">${wrong}</p>
    <button class="button primary" disabled=${isBusy || Boolean(wrong) || isWhole}>Explain this part</button>
  </form>`;
}

/** @param {{ error: NonNullable<Job["error"]> }} properties For the person who is told about it. */
function Details({ error }) {
  return html`<details class="details small">
    <summary>Details</summary>
    <p>${error.title}${error.detail && `: ${error.detail}`}</p>
    <p><code>${error.code}</code></p>
  </details>`;
}

/** @param {Job} job @returns {{ title: string, words: string, isFailed?: boolean }} */
function sayingOf(job) {
  if (job.state === "failed") return { title: "This did not work", words: failureSentence(job.error), isFailed: true };
  if (job.state === "canceled") return { title: "Canceled", words: "This job was stopped before its end." };
  const more = job.upload ? "The video is still there: it can be explained again." : "To see more, choose the video again.";
  return { title: "The result has expired", words: `Its files were removed because of their age. What the model said is kept. ${more}` };
}

/**
 * Makes another job of the same video, and goes to it.
 *
 * @param {Job} job
 */
function useAgain(job) {
  const [failure, setFailure] = useState(/** @type {string | null} */ (null));
  const [isBusy, setBusy] = useState(false);

  /** @param {Partial<ExplainRequest>} changes */
  async function again(changes) {
    setBusy(true);
    setFailure(null);
    try {
      const { webhook, ...request } = job.request;
      const next = await insist(() => createJob({ ...request, ...changes, upload: /** @type {string} */ (job.upload) }));
      location.hash = jobAddress(next.id);
    } catch (problem) {
      setFailure(problem instanceof Problem ? problem.sentence : "That did not work. Try again.");
      setBusy(false);
    }
  }
  return { again, failure, isBusy };
}
