/** The player of the view, and what the keys make it do. */

import { useEffect, useMemo } from "../vendor/preact-htm.js";
import { neighbour } from "./frames.js";
import { playerOf } from "./player.js";

/** @typedef {import("../types.d.ts").Exploration} Exploration */
/** @typedef {import("../types.d.ts").SampledFrame} SampledFrame */
/** @typedef {import("./player.js").Player} Player */

const SKIP_SECONDS = 2;

/**
 * @param {Exploration} exploration
 * @param {import("./view_state.js").ViewState} state
 * @returns {Player} at the time of the view; where it stops, the view has its time.
 */
export function usePlayback(exploration, state) {
  const player = useMemo(() => {
    const made = playerOf(exploration);
    made.seek(state.current.seconds);
    return made;
  }, [exploration]);
  useEffect(() => {
    const remember = () => player.playing || state.remember(player.wanted);
    const ends = [player.on("time", remember), player.on("state", remember)];
    return () => ends.forEach((end) => end());
  }, [player]);
  return player;
}

/** @param {Player} player @param {SampledFrame[]} frames */
export function playerActions(player, frames) {
  /** @param {number} seconds */
  const jump = (seconds) => player.jump(seconds);
  /** @param {1 | -1} direction */
  const sampled = (direction) => jump(neighbour(frames, player.wanted, direction)?.seconds ?? player.wanted);
  return {
    toggle: () => player.toggle(),
    back: () => player.seek(player.wanted - SKIP_SECONDS),
    forward: () => player.seek(player.wanted + SKIP_SECONDS),
    frameBack: () => player.step(-1),
    frameForward: () => player.step(1),
    sampledBack: () => sampled(-1),
    sampledForward: () => sampled(1),
    first: () => player.seek(0),
    last: () => jump(player.duration),
    /** @param {string} key */
    tenth: (key) => player.seek((Number(key) / 10) * player.duration),
  };
}
