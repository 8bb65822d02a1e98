/** How the heat is shown. All of it changes at once, without a job. */

import { html } from "../vendor/preact-htm.js";
import { COLORMAPS, cssGradient } from "../data/colormaps.js";
import { percent } from "./words.js";

/** @typedef {import("../types.d.ts").HeatStyle} HeatStyle */
/** @typedef {import("../types.d.ts").View} View */

/** @param {{ style: View, change: (changes: Partial<View>) => void }} props */
export function Look({ style, change }) {
  return html`<section aria-labelledby="look">
    <h2 id="look">How it is shown</h2>
    <${Slider} name="Opacity" value=${style.opacity} most=${1} text=${percent(style.opacity)}
      set=${(/** @type {number} */ opacity) => change({ opacity })} />
    <${Slider} name="Hide below" value=${style.threshold} most=${0.95} text=${percent(style.threshold)}
      set=${(/** @type {number} */ threshold) => change({ threshold })} />
    <${Slider} name="Smoothing" value=${style.smoothing} most=${2} text=${style.smoothing === 0 ? "Patches" : style.smoothing.toFixed(2)}
      set=${(/** @type {number} */ smoothing) => change({ smoothing })} />
    <${Slider} name="Video colour" value=${style.saturation} most=${1} text=${percent(style.saturation)}
      set=${(/** @type {number} */ saturation) => change({ saturation })} />
    <div class="scale" role="group" aria-label="Hottest is">
      <span class="small muted">Hottest of</span>
      ${scaleButton(style, change, "frame", "each frame")} ${scaleButton(style, change, "video", "the video")}
    </div>
    <div class="colormap">
      <label class="small muted" for="colormap">Colours</label>
      <select class="select" id="colormap" value=${style.colormap}
        onChange=${(/** @type {Event} */ event) => change({ colormap: /** @type {HTMLSelectElement} */ (event.currentTarget).value })}>
        ${COLORMAPS.map((name) => html`<option key=${name} value=${name} selected=${name === style.colormap}>${name}</option>`)}
      </select>
      <span class="legend" style=${{ background: cssGradient(style.colormap) }} aria-hidden="true"></span>
      <span class="legend-ends small muted" aria-hidden="true"><span>little</span><span>most</span></span>
    </div>
  </section>`;
}

/** @param {{ name: string, value: number, most: number, text: string, set: (value: number) => void }} props */
function Slider({ name, value, most, text, set }) {
  return html`<label class="slider">
    <span class="small muted">${name}</span>
    <input type="range" min="0" max=${most} step="0.05" value=${value} aria-valuetext=${text}
      onInput=${(/** @type {Event} */ event) => set(Number(/** @type {HTMLInputElement} */ (event.currentTarget).value))} />
    <output class="small">${text}</output>
  </label>`;
}

/** @param {HeatStyle} style @param {(changes: Partial<HeatStyle>) => void} change @param {HeatStyle["scale"]} scale @param {string} name */
function scaleButton(style, change, scale, name) {
  return html`<button
    class="button quiet small"
    type="button"
    aria-pressed=${String(style.scale === scale)}
    onClick=${() => change({ scale })}
  >
    ${name}
  </button>`;
}
