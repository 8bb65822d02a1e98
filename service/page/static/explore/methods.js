/** The methods to choose from. */

import { html } from "../vendor/preact-htm.js";
import { METHOD_NAMES, METHODS } from "../methods.js";

/** @typedef {import("../types.d.ts").Method} Method */

/**
 * @param {{
 *   method: Method, choose: (method: Method) => void, isReady: (method: Method) => boolean, canCompute: boolean, children?: unknown,
 * }} props `children`: what else there is to choose of the method.
 */
export function Methods({ method, choose, isReady, canCompute, children }) {
  return html`<section aria-labelledby="how">
    <h2 id="how">Method</h2>
    <ul class="methods">
      ${METHOD_NAMES.map(
        (name) => html`<li key=${name}>
          <button
            type="button"
            aria-pressed=${String(name === method)}
            disabled=${!canCompute && !isReady(name)}
            onClick=${() => choose(name)}
          >
            <span>${METHODS[name].name}</span><span class="small muted">${METHODS[name].line}</span>
          </button>
        </li>`,
      )}
    </ul>
    ${children}
    ${!canCompute && html`<p class="small muted">The video is no longer stored. Upload it again to compute more.</p>`}
  </section>`;
}
