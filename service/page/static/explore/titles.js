/** What a map shows, in words. */

import { CLASS_CONTRIBUTIONS, METHODS, REFERENCES } from "../methods.js";

/** @typedef {import("../types.d.ts").Method} Method */

/**
 * @param {import("../types.d.ts").Exploration} exploration
 * @returns {Method}
 */
export function methodOf(exploration) {
  return exploration.result.request?.method ?? exploration.job.request.method ?? "rollout";
}

/**
 * @param {import("../types.d.ts").Exploration} exploration
 * @returns {{ label: string, index: number } | null} the class that the map is for.
 */
export function targetOf(exploration) {
  return exploration.targets[exploration.target] ?? null;
}

/**
 * @param {import("../types.d.ts").Exploration} exploration
 * @returns {import("../types.d.ts").Contrast} what the map compares with; only what is not the default.
 */
export function contrastOf({ job }) {
  const { reference, against } = /** @type {import("../types.d.ts").Contrast} */ (job.request);
  const other = job.result?.predictions.find(({ label }) => label === against)?.index ?? against ?? null;
  return { ...(reference && reference !== "still" && { reference }), ...(other !== null && { against: other }) };
}

/**
 * @param {import("../types.d.ts").Exploration} exploration
 * @returns {string} which tells the classes of a job apart: `ID`, or `ID:PLACE` for another than its first.
 */
export function idOf({ job, target }) {
  return target ? `${job.id}:${target}` : job.id;
}

/**
 * @param {import("../types.d.ts").Exploration} exploration
 * @returns {string} as “Gradient rollout: left”.
 */
export function titleOf(exploration) {
  const target = targetOf(exploration);
  const { reference, against } = contrastOf(exploration);
  const other = exploration.job.result?.predictions.find(({ index }) => index === against)?.label ?? against;
  return (
    nameOfMap(methodOf(exploration), target) +
    (target ? `: ${target.label}` : "") +
    (reference ? `, against ${REFERENCES[reference]}` : "") +
    (against === undefined ? "" : `, against ${other}`)
  );
}

/** @param {Method} method @param {unknown} target a class; null if the map is for none. */
export function nameOfMap(method, target) {
  return method === "contribution_rollout" && target !== null ? CLASS_CONTRIBUTIONS : METHODS[method].name;
}
