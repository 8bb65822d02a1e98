/** Which frames were sampled: the same frame may be in several clips, or twice in one. */

/**
 * @typedef {object} DistinctFrames
 * @property {number[]} index of each distinct frame among all frames of the video, increasing.
 * @property {number[]} first place in `clip t` at which it was sampled first.
 * @property {number[]} counts how often it was sampled.
 * @property {number[]} frameOf the distinct frame of each place in `clip t`.
 */

/**
 * @param {ArrayLike<number>} frameIndex `clip t`.
 * @returns {DistinctFrames}
 */
export function distinctFrames(frameIndex) {
  const places = Array.from(frameIndex);
  const index = [...new Set(places)].sort((a, b) => a - b);
  const position = new Map(index.map((frame, n) => [frame, n]));
  const frameOf = places.map((frame) => /** @type {number} */ (position.get(frame)));
  const counts = index.map(() => 0);
  for (const frame of frameOf) counts[frame] += 1;
  return { index, first: index.map((frame) => places.indexOf(frame)), counts, frameOf };
}

/**
 * @param {ArrayLike<number>} times increasing.
 * @param {number} seconds
 * @returns {number} the place of the nearest time; of two that are as near, the earlier one.
 */
export function nearestFrame(times, seconds) {
  const after = firstAtLeast(times, seconds);
  if (after === 0) return 0;
  if (after === times.length) return after - 1;
  return seconds - times[after - 1] <= times[after] - seconds ? after - 1 : after;
}

/**
 * @param {ArrayLike<number>} times increasing.
 * @param {number} seconds
 * @returns {number} the place of the first time that is not before `seconds`; their number if there is none.
 */
export function firstAtLeast(times, seconds) {
  let low = 0;
  let high = times.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (times[middle] < seconds) low = middle + 1;
    else high = middle;
  }
  return low;
}
