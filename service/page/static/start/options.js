/** How the next video is explained, for those who want to choose. */

import { Icon } from "../icons.js";
import { html } from "../vendor/preact-htm.js";
import { METHOD_NAMES, METHODS } from "../methods.js";
import { choices, choose, modelOf } from "./choices.js";
import { readiness } from "./models.js";
import { useStore } from "./store.js";

/** @typedef {import("../types.d.ts").ServedModel} ServedModel */

/** @param {{ models: ServedModel[] | null }} properties */
export function Options({ models }) {
  const now = useStore(choices);
  const model = modelOf(models ?? [], now.model);
  const method = METHODS[now.method];
  return html`<details class="options">
    <summary>
      <${Icon} name="chevron" />
      <span>Options</span>
      <span class="muted clip">${[model?.name, method.name, spanWords(now)].filter(Boolean).join(" · ")}</span>
    </summary>
    <div class="fields">
      <label class="field">
        Model
        <select class="select" disabled=${!models?.length} value=${model?.name}
          onChange=${(/** @type {any} */ event) => choose({ model: event.target.value })}>
          ${(models ?? []).map(
            (each) => html`<option key=${each.name} value=${each.name} selected=${each === model}>
              ${each.name} (${readiness(each)})
            </option>`,
          )}
        </select>
      </label>
      <label class="field">
        Method
        <select class="select" value=${now.method} onChange=${(/** @type {any} */ event) => choose({ method: event.target.value })}>
          ${METHOD_NAMES.map(
            (name) => html`<option key=${name} value=${name} selected=${name === now.method}>${METHODS[name].name}</option>`,
          )}
        </select>
      </label>
      <fieldset class="span">
        <legend>Part of the video, in seconds</legend>
        <${Seconds} label="From" empty="start" value=${now.from} onValue=${(/** @type {number | null} */ from) => choose({ from })} />
        <${Seconds} label="To" empty="end" value=${now.to} onValue=${(/** @type {number | null} */ to) => choose({ to })} />
      </fieldset>
      <p class="says muted small">${method.line}</p>
    </div>
  </details>`;
}

/**
 * A time in the video; null if it is left open.
 *
 * @param {{ label: string, empty: string, value: number | null, onValue: (seconds: number | null) => void }} properties
 */
export function Seconds({ label, empty, value, onValue }) {
  /** @param {any} event */
  function read(event) {
    const seconds = event.target.valueAsNumber;
    onValue(seconds >= 0 ? seconds : null);
  }
  return html`<label class="seconds">
    <span>${label}</span>
    <input class="input" type="number" min="0" step="any" inputmode="decimal" placeholder=${empty} value=${value ?? ""} onInput=${read} />
  </label>`;
}

/**
 * @param {{ from: number | null, to: number | null }} span
 * @returns {string | null} why nothing can lie in it.
 */
export function spanObjection({ from, to }) {
  return to !== null && to <= (from ?? 0) ? "The end must come after the start." : null;
}

/** @param {import("./choices.js").Choices} choices */
function spanWords({ from, to }) {
  if (from === null && to === null) return "whole video";
  if (to === null) return `from ${from} s`;
  return `${from ?? 0} to ${to} s`;
}
