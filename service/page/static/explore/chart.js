/** Curves of a probability, drawn as SVG. */

import { html } from "../vendor/preact-htm.js";

const WIDTH = 260;
const HEIGHT = 110;
const LEFT = 30;
const BOTTOM = 18;
const TOP = 6;

/**
 * @param {{ most: number[], least: number[], random: number[][], name: string }} props one value for
 *   each step from 0 to all patches; `name`: what the chart shows, for those who do not see it.
 */
export function Chart({ most, least, random, name }) {
  const low = most.map((_, step) => Math.min(...random.map((curve) => curve[step])));
  const high = most.map((_, step) => Math.max(...random.map((curve) => curve[step])));
  return html`<svg class="chart" viewBox=${`0 0 ${WIDTH} ${HEIGHT}`} role="img" aria-label=${name}>
    ${[0, 0.5, 1].map((value) => html`<line key=${value} class="grid" x1=${LEFT} x2=${WIDTH} y1=${yOf(value)} y2=${yOf(value)} />
      <text key=${`t${value}`} x=${LEFT - 4} y=${yOf(value) + 3} text-anchor="end">${100 * value}%</text>`)}
    <path class="band" d=${`${lineOf(high)} ${lineOf(low, true)} Z`} />
    <path class="least" d=${lineOf(least)} />
    <path class="most" d=${lineOf(most)} />
    <text x=${LEFT} y=${HEIGHT - 4}>none</text>
    <text x=${WIDTH} y=${HEIGHT - 4} text-anchor="end">all patches</text>
  </svg>`;
}

/** @param {number[]} curve @param {boolean} [backwards] continues a path from its end to its start. */
function lineOf(curve, backwards = false) {
  const points = curve.map((value, step) => `${xOf(step, curve.length).toFixed(1)} ${yOf(value).toFixed(1)}`);
  return backwards ? `L${points.reverse().join(" L")}` : `M${points.join(" L")}`;
}

/** @param {number} step @param {number} count */
function xOf(step, count) {
  return LEFT + ((WIDTH - LEFT) * step) / (count - 1);
}

/** @param {number} value */
function yOf(value) {
  return TOP + (HEIGHT - TOP - BOTTOM) * (1 - value);
}
