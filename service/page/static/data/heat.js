/** Heat maps: relevance scaled to 0..1 and interpolated in time, as in the overlay video at its default scale. */

import { distinctFrames, firstAtLeast } from "./frames.js";

export { drawHeat } from "./drawing.js";

/** @typedef {import("../types.d.ts").HeatTrack} HeatTrack */

/** Share of the patches of a video that are below the hottest colour. */
const HOT_SHARE = 0.99;

/**
 * Scale the positive part of relevance to 0..1 by its minimum and its 99th percentile over the whole video.
 *
 * A frame that was sampled more than once gets the mean of its maps and the sum of its shares. If
 * all relevance is equal, all heat is 0.
 *
 * @param {ArrayLike<number>} relevance `clip t h w`.
 * @param {object} of
 * @param {number} of.rows
 * @param {number} of.columns
 * @param {ArrayLike<number>} of.seconds `clip t`, of the sampled frames.
 * @param {ArrayLike<number>} of.frameIndex `clip t`.
 * @returns {HeatTrack}
 */
export function heatTrack(relevance, { rows, columns, seconds, frameIndex }) {
  const frames = distinctFrames(frameIndex);
  const means = meanMaps(relevance, frames, rows * columns);
  const totals = frames.counts.map((count, n) => count * sum(means, n * rows * columns, rows * columns));
  const total = totals.reduce((a, b) => a + b, 0);
  return {
    times: Float64Array.from(frames.first, (place) => seconds[place]),
    rows,
    columns,
    heat: new Float32Array(scaled(means, HOT_SHARE)),
    shares: Float64Array.from(totals, (part) => (total > 0 ? part / total : 1 / totals.length)),
  };
}

/**
 * @param {HeatTrack} track
 * @param {number} seconds
 * @param {Float32Array} [out] `h w`.
 * @returns {Float32Array} the heat map at a time: linear between frames, constant outside.
 */
export function heatAt(track, seconds, out = new Float32Array(track.rows * track.columns)) {
  const { times, heat } = track;
  const size = track.rows * track.columns;
  const after = firstAtLeast(times, seconds);
  if (after === 0 || after === times.length) {
    const frame = Math.min(after, times.length - 1);
    out.set(heat.subarray(frame * size, (frame + 1) * size));
    return out;
  }
  const weight = Math.fround((seconds - times[after - 1]) / (times[after] - times[after - 1]));
  for (let n = 0, before = (after - 1) * size; n < size; n++) {
    out[n] = (1 - weight) * heat[before + n] + weight * heat[before + size + n];
  }
  return out;
}

/**
 * Scale one map to 0..1 by its own minimum and maximum, in place. An even map becomes 0.
 *
 * @param {Float32Array} map
 * @returns {Float32Array} `map`.
 */
export function scaleToFrame(map) {
  map.set(scaled(map));
  return map;
}

/** @param {ArrayLike<number>} relevance @param {import("./frames.js").DistinctFrames} frames @param {number} size */
function meanMaps(relevance, { index, counts, frameOf }, size) {
  const means = new Float64Array(index.length * size);
  frameOf.forEach((frame, place) => {
    for (let n = 0; n < size; n++) means[frame * size + n] += Math.max(relevance[place * size + n], 0);
  });
  return means.map((value, n) => value / counts[Math.floor(n / size)]);
}

/**
 * @param {Float32Array | Float64Array} values
 * @param {number} share of the values that are at most 1.
 * @returns {Float64Array}
 */
function scaled(values, share = 1) {
  const sorted = values.slice().sort();
  const low = sorted[0];
  const most = sorted[sorted.length - 1];
  const high = quantile(sorted, share);
  const range = (high > low ? high : most) - low;
  return Float64Array.from(values, (value) => (range > 0 ? Math.min((value - low) / range, 1) : 0));
}

/** @param {ArrayLike<number>} sorted @param {number} share @returns {number} linear between values. */
function quantile(sorted, share) {
  const place = share * (sorted.length - 1);
  const before = Math.floor(place);
  const after = Math.min(before + 1, sorted.length - 1);
  const weight = place - before;
  const step = sorted[after] - sorted[before];
  return weight < 0.5 ? sorted[before] + step * weight : sorted[after] - step * (1 - weight);
}

/** @param {Float64Array} values @param {number} begin @param {number} count */
function sum(values, begin, count) {
  let total = 0;
  for (let n = begin; n < begin + count; n++) total += values[n];
  return total;
}
