/** The models that can be asked now. */

import { listModels } from "../api/client.js";
import { pause } from "../api/pause.js";
import { useEffect, useState } from "../vendor/preact-htm.js";
import { insist } from "./service.js";

/** @typedef {import("../types.d.ts").ServedModel} ServedModel */

const AGAIN_MS = 3000;

/** @returns {ServedModel[] | null} null until the service has told; asked again until all are ready. */
export function useModels() {
  const [models, setModels] = useState(/** @type {ServedModel[] | null} */ (null));
  useEffect(() => {
    const stop = new AbortController();
    watch(setModels, stop.signal).catch(() => null);
    return () => stop.abort();
  }, []);
  return models;
}

/**
 * @param {ServedModel} model
 * @returns {string} such as `2 workers ready`.
 */
export function readiness({ ready, workers }) {
  if (ready) return ready === 1 ? "1 worker ready" : `${ready} workers ready`;
  return workers ? "is being loaded" : "no worker";
}

/**
 * @param {(models: ServedModel[]) => void} onModels
 * @param {AbortSignal} signal
 */
async function watch(onModels, signal) {
  for (;;) {
    const models = await insist(() => listModels({ signal }), { signal });
    onModels(models);
    if (models.length && models.every((model) => model.ready)) return;
    await pause(AGAIN_MS, signal);
  }
}
