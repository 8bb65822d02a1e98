/** What goes on, in a few words. */

import { html } from "../vendor/preact-htm.js";

/**
 * A heading that is also read aloud when it changes.
 *
 * @param {{ title: string, words?: string | null, isFailed?: boolean }} properties
 */
export function Said({ title, words = null, isFailed = false }) {
  return html`<div class=${isFailed ? "said failed" : "said"} role=${isFailed ? "alert" : "status"}>
    <h2>${title}</h2>
    ${words && html`<p class="muted">${words}</p>`}
  </div>`;
}
