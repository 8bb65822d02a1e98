/** The slim panel: what the model says, what is shown, and how. */

import { html } from "../vendor/preact-htm.js";

/** @typedef {import("../types.d.ts").Exploration} Exploration */

/** @param {{ exploration: Exploration, children?: unknown }} props */
export function Panel({ exploration, children }) {
  const { job, result } = exploration;
  const warnings = result.warnings ?? job.result?.warnings ?? [];
  return html`<aside class="panel" aria-label="Answer and settings">
    <header>
      <p class="small muted clip">${job.model} looked at ${describeFrames(exploration)}</p>
      ${warnings.map((/** @type {any} */ warning) => html`<p key=${warning.code} class="warning small">${warning.detail}</p>`)}
    </header>
    ${children}
  </aside>`;
}

/** @param {Exploration} exploration */
function describeFrames({ frames, job }) {
  const clips = job.result?.clips ?? 1;
  return `${frames.length} frames${clips > 1 ? ` in ${clips} clips` : ""}`;
}
