/** Finds sampled frames by their time. */

import { useEffect, useState } from "../vendor/preact-htm.js";
import { nearestFrame } from "../data/frames.js";

/** @typedef {import("../types.d.ts").SampledFrame} SampledFrame */

/** So that the time of a frame that was rounded is not taken for the time before it. */
const MOMENT = 0.001;

/**
 * @param {SampledFrame[]} frames Increasing in time.
 * @param {number} seconds
 * @returns {number} the place of the frame nearest in time.
 */
export function frameAt(frames, seconds) {
  return nearestFrame(frames.map((frame) => frame.seconds), seconds);
}

/**
 * @param {SampledFrame[]} frames
 * @param {number} seconds
 * @param {1 | -1} direction
 * @returns {SampledFrame | undefined} the next sampled frame, or the one before.
 */
export function neighbour(frames, seconds, direction) {
  return direction > 0
    ? frames.find((frame) => frame.seconds > seconds + MOMENT)
    : frames.findLast((frame) => frame.seconds < seconds - MOMENT);
}

/**
 * @param {SampledFrame[]} frames
 * @param {import("./player.js").Player} player
 * @returns {number} the place of the frame nearest to the playhead; draws again only when it changes.
 */
export function useNearest(frames, player) {
  const [nearest, setNearest] = useState(frameAt(frames, player.wanted));
  useEffect(() => {
    setNearest(frameAt(frames, player.wanted));
    return player.on("time", (seconds) => setNearest(frameAt(frames, seconds)));
  }, [frames, player]);
  return nearest;
}
