/** The quiet line that says what is being computed, or why it could not be. */

import { html } from "../vendor/preact-htm.js";
import { Icon } from "../icons.js";

/** @param {{ work: import("./work.js").Work | null, failure: string | null, dismiss: () => void }} props */
export function WorkLine({ work, failure, dismiss }) {
  const share = work?.share == null ? "" : ` ${Math.round(100 * work.share)}\u00a0%`;
  return html`<div class="job-line" role="status">
    ${work &&
    html`<p class="small">
        <span class="spinner" aria-hidden="true"></span><span class="clip">${work.text}${share}</span>
        <button class="button quiet small" type="button" onClick=${work.cancel}>Cancel</button>
      </p>
      <span class="done" style=${{ "--done": work.share ?? 0 }}></span>`}
    ${!work &&
    failure &&
    html`<p class="small failed"><span>${failure}</span>
      <button class="button quiet icon" type="button" aria-label="Dismiss" onClick=${dismiss}><${Icon} name="cross" /></button></p>`}
  </div>`;
}
