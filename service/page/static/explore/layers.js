/** The layer slider: at its end stands the answer of all layers. */

import { html } from "../vendor/preact-htm.js";

/**
 * A rollout has at layer l what is known from the last layer down to it; attention has each layer alone.
 * @param {{
 *   count: number, isAlone: boolean, layer: number | null, choose: (layer: number | null) => void, isPatch: boolean,
 * }} props `isPatch`: a patch is asked about, of which there are no layers.
 */
export function Layers({ count, isAlone, layer, choose, isPatch }) {
  if (count < 2) return null;
  const last = count - 1;
  const place = layer === null ? last : isAlone ? layer : last - layer;
  /** @param {Event} event */
  const move = (event) => {
    const chosen = Number(/** @type {HTMLInputElement} */ (event.currentTarget).value);
    choose(chosen === last ? null : isAlone ? chosen : last - chosen);
  };
  const text = describe(place, count, isAlone);
  return html`<section aria-labelledby="layers">
    <header><h2 id="layers">Layers</h2><output class="small">${text}</output></header>
    <input
      type="range"
      min="0"
      max=${last}
      step="1"
      value=${place}
      disabled=${isPatch}
      aria-labelledby="layers"
      aria-valuetext=${text}
      onInput=${move}
    />
    ${isPatch && html`<p class="small muted">A patch is answered for all layers.</p>`}
  </section>`;
}

/** @param {number} place @param {number} count @param {boolean} isAlone */
function describe(place, count, isAlone) {
  if (isAlone) return place === count - 1 ? `Layer ${count}, the last` : `Layer ${place + 1} alone`;
  if (place === count - 1) return "All layers";
  return place === 0 ? `Layer ${count} alone` : `Layers ${count - place} to ${count}`;
}
