/** The heat that is shown: of the whole answer, of one layer, or of one patch. */

import { useEffect, useState } from "../vendor/preact-htm.js";

/** @typedef {import("../types.d.ts").Exploration} Exploration */
/** @typedef {import("../types.d.ts").HeatTrack} HeatTrack */
/** @typedef {import("../types.d.ts").Patch} Patch */
/** @typedef {import("./results.js").Results} Results */

/**
 * @param {Exploration | null} exploration
 * @param {number | null} layer
 * @param {Patch | null} patch
 * @param {Results} results
 * @param {import("./work.js").Start} start
 * @param {string} slot of a job that answers.
 * @param {() => void} fail is called if there is no such heat.
 * @returns {HeatTrack | null} the latest that is there.
 */
export function useTrack(exploration, layer, patch, results, start, slot, fail) {
  const [track, setTrack] = useState(/** @type {HeatTrack | null} */ (null));
  useEffect(() => {
    let current = true;
    if (!exploration) return setTrack(null);
    findTrack(exploration, layer, patch, results, start, slot).then(
      (found) => current && (found ? setTrack(found) : fail()),
      () => current && fail(),
    );
    return () => void (current = false);
  }, [exploration, layer, patch]);
  return track;
}

/**
 * @param {Exploration} exploration
 * @param {number | null} layer
 * @param {Patch | null} patch
 * @param {Results} results
 * @param {import("./work.js").Start} start
 * @param {string} slot
 * @returns {Promise<HeatTrack | null>} null if a job for it failed or was stopped.
 */
async function findTrack(exploration, layer, patch, results, start, slot) {
  if (!patch) return exploration.heat(layer !== null && layer < exploration.layers ? layer : null);
  if (exploration.hasFullRollout) return exploration.patchHeat(patch);
  const answer = await start(slot, "Asking about the patch", (following) => results.askPatch(exploration, patch, following));
  return answer && answer.heat(null);
}

/**
 * @param {Exploration} exploration
 * @param {HeatTrack | null} track
 * @returns {number[]} the share of each sampled frame in the track; 0 where the track has no such frame.
 */
export function sharesOf({ frames }, track) {
  if (!track) return frames.map((frame) => frame.share);
  const byTime = new Map(Array.from(track.times, (time, place) => [time, track.shares[place]]));
  return frames.map((frame) => byTime.get(frame.seconds) ?? 0);
}
