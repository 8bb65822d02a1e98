/** Draws a heat map into a small picture. */

/** @typedef {import("../types.d.ts").HeatStyle} HeatStyle */
/** @typedef {{ width: number, height: number, data: Uint8ClampedArray }} Pixels an ImageData, or alike. */

/** Beyond this many sigmas a patch gives nothing. */
const REACH = 3;

/**
 * Fill a picture of the crop with a heat map. With smoothing 0 each patch is a square; with more, a
 * square blurred by a Gaussian whose sigma is `smoothing` patches.
 *
 * @param {Pixels} pixels RGBA, not premultiplied.
 * @param {ArrayLike<number>} map `h w`, 0 to 1.
 * @param {number} rows
 * @param {number} columns
 * @param {HeatStyle} style
 * @param {Uint8Array} table of the colormap: see `rgbTable`.
 */
export function drawHeat(pixels, map, rows, columns, style, table) {
  const words = new Uint32Array(pixels.data.buffer, pixels.data.byteOffset, pixels.width * pixels.height);
  if (!style.shown) {
    words.fill(0);
    return;
  }
  const colours = palette(style, table);
  const { low, gain } = style.scale === "frame" ? ownScale(map) : { low: 0, gain: 1 };
  const across = spread(columns, pixels.width, style.smoothing);
  const down = spread(rows, pixels.height, style.smoothing);
  const widened = widen(map, rows, columns, across, 255 * gain, low);
  const line = new Float32Array(pixels.width);
  for (let y = 0, at = 0; y < pixels.height; y++) {
    mix(line, widened, down, y);
    for (let x = 0; x < line.length; x++) words[at++] = colours[(line[x] + 0.5) | 0];
  }
}

/**
 * @typedef {object} Spread how much each of `count` patches gives to each of `size` pixels.
 * @property {number} size
 * @property {number} taps patches that give to a pixel.
 * @property {Int32Array} first patch of each pixel.
 * @property {Float32Array} weights `size taps`; those of a pixel sum to 1.
 */

/** @type {Map<string, Spread>} */
const spreads = new Map();

/** @param {number} count @param {number} size @param {number} sigma in patches. @returns {Spread} */
function spread(count, size, sigma) {
  const key = `${count} ${size} ${sigma}`;
  let found = spreads.get(key);
  if (!found) {
    if (spreads.size > 32) spreads.clear();
    found = makeSpread(count, size, sigma);
    spreads.set(key, found);
  }
  return found;
}

/** @param {number} count @param {number} size @param {number} sigma @returns {Spread} */
function makeSpread(count, size, sigma) {
  const taps = Math.min(count, sigma > 0 ? Math.ceil(2 * REACH * sigma) + 1 : 1);
  const first = new Int32Array(size);
  const weights = new Float32Array(size * taps);
  for (let pixel = 0; pixel < size; pixel++) {
    const centre = ((pixel + 0.5) * count) / size;
    const begin = Math.floor(sigma > 0 ? centre - REACH * sigma : centre);
    first[pixel] = Math.max(0, Math.min(begin, count - taps));
    // What lies beyond the first and last tap, also beyond the picture, is theirs.
    for (let tap = 0, below = 0; tap < taps; tap++) {
      const edge = first[pixel] + tap + 1;
      const upTo = tap === taps - 1 ? 1 : normal((edge - centre) / sigma);
      weights[pixel * taps + tap] = upTo - below;
      below = upTo;
    }
  }
  return { size, taps, first, weights };
}

/**
 * @param {ArrayLike<number>} map
 * @param {number} rows
 * @param {number} columns
 * @param {Spread} across
 * @param {number} gain
 * @param {number} low
 * @returns {Float32Array} `rows size`: each row of patches as wide as the picture.
 */
function widen(map, rows, columns, { size, taps, first, weights }, gain, low) {
  const widened = new Float32Array(rows * size);
  for (let row = 0; row < rows; row++) {
    for (let x = 0; x < size; x++) {
      let value = 0;
      for (let tap = 0; tap < taps; tap++) {
        value += weights[x * taps + tap] * map[row * columns + first[x] + tap];
      }
      widened[row * size + x] = (value - low) * gain;
    }
  }
  return widened;
}

/** @param {Float32Array} line @param {Float32Array} widened @param {Spread} down @param {number} y */
function mix(line, widened, { taps, first, weights }, y) {
  line.fill(0);
  for (let tap = 0; tap < taps; tap++) {
    const weight = weights[y * taps + tap];
    const begin = (first[y] + tap) * line.length;
    for (let x = 0; x < line.length; x++) line[x] += weight * widened[begin + x];
  }
}

/**
 * @param {HeatStyle} style
 * @param {Uint8Array} table
 * @returns {Uint32Array} the RGBA of each heat, 0 to 255, as a word; transparent below the threshold.
 */
function palette({ opacity, threshold }, table) {
  const words = new Uint32Array(256);
  const bytes = new Uint8Array(words.buffer);
  for (let heat = 0; heat < 256; heat++) {
    if (heat / 255 < threshold) continue;
    bytes.set(table.subarray(3 * heat, 3 * heat + 3), 4 * heat);
    bytes[4 * heat + 3] = Math.round(opacity * heat);
  }
  return words;
}

/** @param {ArrayLike<number>} map */
function ownScale(map) {
  let low = Infinity;
  let high = -Infinity;
  for (let n = 0; n < map.length; n++) {
    low = Math.min(low, map[n]);
    high = Math.max(high, map[n]);
  }
  return { low, gain: high > low ? 1 / (high - low) : 0 };
}

/** The share of a normal distribution that lies below `z`; to 2e-7. Abramowitz and Stegun, 7.1.26. @param {number} z */
function normal(z) {
  const t = 1 / (1 + (0.3275911 * Math.abs(z)) / Math.SQRT2);
  const tail =
    t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  const erf = 1 - tail * Math.exp((-z * z) / 2);
  return (1 + Math.sign(z) * erf) / 2;
}
