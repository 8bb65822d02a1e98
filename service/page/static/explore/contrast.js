/** What the map of a class compares with: another clip, or another class. */

import { html } from "../vendor/preact-htm.js";
import { REFERENCES } from "../methods.js";
import { contrastOf, methodOf, targetOf } from "./titles.js";

/** @typedef {import("../types.d.ts").Contrast} Contrast */
/** @typedef {import("../types.d.ts").Exploration} Exploration */
/** @typedef {{ name: string, contrast: Contrast }} Choice */

/**
 * Shown for `difference`, and for class contributions.
 *
 * @param {{ exploration: Exploration, canCompute: boolean, choose: (contrast: Contrast) => void }} props
 */
export function ContrastChoice({ exploration, canCompute, choose }) {
  const choices = choicesFor(exploration);
  if (choices.length === 0) return null;
  const chosen = JSON.stringify(contrastOf(exploration));
  /** @param {Event} event */
  const change = (event) => choose(JSON.parse(/** @type {HTMLSelectElement} */ (event.currentTarget).value));
  return html`<div class="colormap">
    <label class="small muted" for="against">Against</label>
    <select class="select" id="against" disabled=${!canCompute} onChange=${change}>
      ${choices.map(({ name, contrast }) => {
        const value = JSON.stringify(contrast);
        return html`<option key=${value} value=${value} selected=${value === chosen}>${name}</option>`;
      })}
    </select>
  </div>`;
}

/** @param {Exploration} exploration @returns {Choice[]} the default first; none where there is no choice. */
function choicesFor(exploration) {
  const method = methodOf(exploration);
  if (method === "difference") {
    return Object.entries(REFERENCES).map(([reference, name]) => ({
      name,
      contrast: reference === "still" ? {} : { reference: /** @type {any} */ (reference) },
    }));
  }
  const target = targetOf(exploration);
  if (method !== "contribution_rollout" || !target) return [];
  const others = (exploration.job.result?.predictions ?? []).filter(({ index }) => index !== target.index);
  return [{ name: "all classes", contrast: {} }, ...others.map(({ index, label }) => ({ name: label, contrast: { against: index } }))];
}
