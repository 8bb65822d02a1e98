/** What the model says. A click on a class asks what speaks for it. */

import { html } from "../vendor/preact-htm.js";
import { percent } from "./words.js";

/**
 * @param {{
 *   predictions: import("../types.d.ts").Prediction[], target: number | null,
 *   explainClass: ((prediction: import("../types.d.ts").Prediction) => void) | null,
 * }} props `target`: the class that the map is for; `explainClass`: null where it cannot be computed.
 */
export function Predictions({ predictions, target, explainClass }) {
  return html`<section aria-labelledby="says">
    <header><h2 id="says">The model says</h2>${explainClass && html`<span class="small muted">Choose one to see why</span>`}</header>
    <ul class="predictions">
      ${predictions.map(
        (prediction) => html`<li key=${prediction.index}>
          <button type="button" aria-pressed=${String(prediction.index === target)} disabled=${!explainClass}
            title=${`What speaks for “${prediction.label}”?`} onClick=${() => explainClass?.(prediction)}>
            <span class="clip">${prediction.label}</span><span class="number">${percent(prediction.probability)}</span>
            <span class="bar-of" style=${{ "--share": prediction.probability }}></span>
          </button>
        </li>`,
      )}
    </ul>
  </section>`;
}
