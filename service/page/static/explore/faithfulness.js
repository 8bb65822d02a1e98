/** Whether the map names the patches on which the model's answer rests: measured on demand. */

import { html, useEffect, useState } from "../vendor/preact-htm.js";
import { Chart } from "./chart.js";

/** @typedef {import("../types.d.ts").Exploration} Exploration */

/** @type {Record<string, string>} */
const FILLS = { blur: "blurred", mean: "of mean colour", still: "held still" };

/** Areas that differ by less than this are alike. */
const CLEAR = 0.03;

/**
 * @param {{ exploration: Exploration, measure: () => Promise<any>, canCompute: boolean, isBusy: boolean }} props
 */
export function Faithfulness({ exploration, measure, canCompute, isBusy }) {
  const [found, setFound] = useState(exploration.result.faithfulness ?? null);
  useEffect(() => setFound(exploration.result.faithfulness ?? null), [exploration]);
  const [fill, setFill] = useState("blur");
  const isOneClip = exploration.job.result?.clips === 1;
  return html`<details class="fold" open=${found !== null}>
    <summary>Does the map tell the truth?</summary>
    ${found
      ? html`<${Findings} found=${found} fill=${fill} setFill=${setFill} />`
      : html`<p class="small muted">
            The model runs again while patches are taken away, the most relevant ones first. If the map is right, its answer falls early.
          </p>
          ${isOneClip
            ? html`<button
                class="button"
                type="button"
                disabled=${!canCompute || isBusy}
                onClick=${async () => setFound(await measure())}
              >
                Measure it
              </button>`
            : html`<p class="small">It can be measured for a job of one clip.</p>`}`}
  </details>`;
}

/** @param {{ found: any, fill: string, setFill: (fill: string) => void }} props */
function Findings({ found, fill, setFill }) {
  const scores = found.fills.find((/** @type {any} */ one) => one.fill === fill) ?? found.fills[0];
  const { most_first_deleted: most, least_first_deleted: least, random_deleted: random } = scores;
  /** @param {number[]} curve */
  const back = (curve) => curve.toReversed();
  return html`<p class="small">${sentence(found.target.label, scores)}</p>
    <div class="fills" role="group" aria-label="Missing patches are">
      ${found.fills.map(
        (/** @type {any} */ one) => html`<button
          key=${one.fill}
          class="button quiet small"
          type="button"
          aria-pressed=${String(one.fill === scores.fill)}
          onClick=${() => setFill(one.fill)}
        >
          ${FILLS[one.fill] ?? one.fill}
        </button>`,
      )}
    </div>
    <p class="small muted">Probability of “${found.target.label}” while patches are taken away</p>
    <${Chart} most=${most} least=${least} random=${random} name=${`Deletion. ${areas(scores.deletion)}`} />
    <p class="small muted">… and while they come back</p>
    <${Chart} most=${back(least)} least=${back(most)} random=${random.map(back)} name=${`Insertion. ${areas(scores.insertion)}`} />
    <ul class="key small">
      <li class="most">Most relevant first</li>
      <li class="least">Least relevant first</li>
      <li class="band">Random orders</li>
    </ul>`;
}

/** @param {string} label @param {any} scores */
function sentence(label, { deletion, insertion }) {
  const fades = timeOf(deletion.random_mean - deletion.most_first);
  const returns = timeOf(insertion.most_first - insertion.random_mean);
  const isRight = [fades, returns].filter((time) => time === "sooner than").length;
  const verdict = ["The map does no better than chance", "The map is partly right", "The map is right about what matters"][isRight];
  const deleted = `Without its hottest patches, “${label}” fades ${fades} without random ones`;
  return `${verdict}. ${deleted}; with only these, it returns ${returns} with random ones.`;
}

/** @param {number} gain over random orders, as an area. */
function timeOf(gain) {
  if (gain > CLEAR) return "sooner than";
  return gain < -CLEAR ? "later than" : "about as soon as";
}

/** @param {any} scores */
function areas({ most_first, least_first, random_mean, random_std }) {
  const [most, least, mean, spread] = [most_first, least_first, random_mean, random_std].map((value) => value.toFixed(2));
  return `Area under the curve: most relevant first ${most}, least relevant first ${least}, random ${mean} ± ${spread}`;
}
