/** What a video goes through until its result is there, as a list. */

import { Icon } from "../icons.js";
import { html } from "../vendor/preact-htm.js";
import { about, sizeOf } from "./words.js";

/** @typedef {import("../types.d.ts").Job} Job */
/** @typedef {import("./sending.js").Sending} Sending */
/** @typedef {{ name: string, words: string }} Stage */
/** @typedef {{ at: string, share: number | null, note: string | null }} Now Share: 0 to 1; null: not known. */

/** @type {Stage[]} */
const STAGES = [
  { name: "send", words: "Send the video" },
  { name: "wait", words: "Wait for a turn" },
  { name: "decode", words: "Read the frames" },
  { name: "explain", words: "Ask the model" },
  { name: "faithfulness", words: "Measure how faithful it is" },
  { name: "render", words: "Draw the heat" },
  { name: "publish", words: "Store the result" },
];

/** @param {{ sending: Sending | null, job: Job | null }} properties */
export function Stages({ sending, job }) {
  const now = whereIs(sending, job);
  const shown = STAGES.filter(({ name }) => name !== "faithfulness" || job?.request.faithfulness);
  const reached = job?.state === "succeeded" ? shown.length : shown.findIndex(({ name }) => name === now.at);
  return html`<ol class="stages">
    ${shown.map(({ name, words }, index) => {
      const state = index < reached ? "done" : index === reached ? "now" : "next";
      return html`<li key=${name} class=${state} aria-current=${state === "now" ? "step" : null}>
        <span class="mark">${state === "done" && html`<${Icon} name="check" />`}</span>
        <span class="words">${words}${state === "done" && html`<span class="unseen">: done</span>`}</span>
        <span class="note muted small">${state === "now" && now.note}</span>
        ${state === "now" && html`<${Bar} words=${words} share=${now.share} />`}
      </li>`;
    })}
  </ol>`;
}

/** @param {{ words: string, share: number | null }} properties */
function Bar({ words, share }) {
  return share === null
    ? html`<progress key="open" aria-label=${words}></progress>`
    : html`<progress key="known" aria-label=${words} max="1" value=${share}></progress>`;
}

/**
 * @param {Sending | null} sending
 * @param {Job | null} job
 * @returns {Now}
 */
function whereIs(sending, job) {
  if (job?.state === "queued") return { at: "wait", share: null, note: null };
  if (job) {
    const { stage = "decode", done = 0, total = 0 } = job.progress ?? {};
    return { at: stage, share: total ? done / total : null, note: total > 1 ? `${done} of ${total}` : null };
  }
  if (!sending) return { at: "send", share: null, note: null };
  const { sent, left, file } = sending;
  const note = [sizeOf(sent, file.size), left !== null && `${about(left)} left`].filter(Boolean).join(" · ");
  return { at: "send", share: sent / file.size, note };
}
