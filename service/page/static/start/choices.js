/** How the next video is explained: what the options say, kept for the next visit. */

import { explorationRequest } from "../data/requests.js";
import { METHODS } from "../methods.js";
import { makeStore } from "./store.js";

/** @typedef {import("../types.d.ts").Method} Method */
/** @typedef {import("../types.d.ts").ServedModel} ServedModel */
/** @typedef {{ model: string | null, method: Method, from: number | null, to: number | null }} Choices */

const NAME = "rollout.choices";

/** @type {Choices} */
const DEFAULTS = { model: null, method: "rollout", from: null, to: null };

export const choices = makeStore({ ...DEFAULTS, ...remembered() });

/** @param {Partial<Choices>} changes The part of the video is for one video only: it is not kept. */
export function choose(changes) {
  const next = { ...choices.get(), ...changes };
  choices.set(next);
  try {
    localStorage.setItem(NAME, JSON.stringify({ model: next.model, method: next.method }));
  } catch {
    // A browser that keeps nothing shows the defaults next time.
  }
}

/**
 * @param {ServedModel[]} models
 * @param {string | null} name
 * @returns {ServedModel | null} the model of this name, else the first one that is ready, else the first.
 */
export function modelOf(models, name) {
  return models.find((model) => model.name === name) ?? models.find((model) => model.ready) ?? models[0] ?? null;
}

/**
 * @param {ServedModel} model
 * @param {Choices} choices
 * @returns {import("../types.d.ts").ExplainRequest}
 */
export function requestFor(model, { method, from, to }) {
  const request = explorationRequest(model, { method });
  if (from !== null) request.start_seconds = from;
  if (to !== null) request.end_seconds = to;
  return request;
}

/** @returns {Partial<Choices>} */
function remembered() {
  try {
    const { model, method } = JSON.parse(localStorage.getItem(NAME) ?? "{}");
    return method in METHODS ? { model: model ?? null, method } : {};
  } catch {
    return {};
  }
}
