/** Reads `rollout.npz`, a zip of numpy arrays, array by array. */

import { ArchiveError, ZipFile } from "./zip.js";

export { ArchiveError } from "./zip.js";

/**
 * @typedef {object} NumpyArray
 * @property {number[]} shape
 * @property {string} dtype as numpy writes it, such as `<f4`.
 * @property {any} data flat, in C order. float16 comes as Uint16Array: see `decodeHalf`; int64 as
 *   Float64Array; text as an array of strings.
 */

/**
 * @typedef {object} Archive
 * @property {string[]} names
 * @property {(name: string) => Promise<number[]>} shape reads only the start of an array.
 * @property {(name: string) => Promise<NumpyArray>} read fetches an array once.
 */

const SUFFIX = ".npy";
const MAGIC = "NUMPY"; // after a byte that is no character in ASCII
const HEADER_BYTES = 1024;

/** @type {Record<string, (bytes: ArrayBuffer) => any>} */
const READERS = {
  "<f2": (bytes) => new Uint16Array(bytes),
  "<f4": (bytes) => new Float32Array(bytes),
  "<f8": (bytes) => new Float64Array(bytes),
  "<i8": (bytes) => Float64Array.from(new BigInt64Array(bytes), Number),
};

/**
 * @param {string} url
 * @param {{ signal?: AbortSignal }} [options]
 * @returns {Promise<Archive>} whose arrays are fetched when they are read.
 * @throws {ArchiveError} the file is damaged.
 * @throws {import("../api/problem.js").Problem} the service refused, or did not answer.
 */
export async function openArchive(url, { signal } = {}) {
  const zip = await ZipFile.open(url, signal);
  /** @type {Map<string, Promise<NumpyArray>>} */
  const arrays = new Map();
  return {
    names: [...zip.entries.keys()].map((name) => name.replace(/\.npy$/, "")),
    shape: async (name) => headerOf(await zip.readStart(name + SUFFIX, HEADER_BYTES, signal), name).shape,
    read(name) {
      const array = arrays.get(name) ?? zip.read(name + SUFFIX, signal).then((bytes) => arrayOf(bytes, name));
      arrays.set(name, array);
      array.catch(() => arrays.delete(name));
      return array;
    },
  };
}

/**
 * @param {Uint16Array} halves float16.
 * @param {number} [begin]
 * @param {number} [end]
 * @returns {Float32Array}
 */
export function decodeHalf(halves, begin = 0, end = halves.length) {
  return Float32Array.from(halves.subarray(begin, end), halfToNumber);
}

/** @param {number} half the bits of a float16. */
function halfToNumber(half) {
  const sign = half & 0x8000 ? -1 : 1;
  const exponent = (half >> 10) & 31;
  const fraction = half & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** @param {Uint8Array<ArrayBuffer>} bytes @param {string} name @returns {NumpyArray} */
function arrayOf(bytes, name) {
  const { shape, dtype, begin } = headerOf(bytes, name);
  const count = shape.reduce((product, length) => product * length, 1);
  const width = Number(/\d+$/.exec(dtype)?.[0]) * (dtype.startsWith("<U") ? 4 : 1);
  if (bytes.length - begin !== count * width) {
    throw new ArchiveError(`The result's arrays are damaged: ${name} has a wrong size.`);
  }
  const values = bytes.slice(begin).buffer;
  return { shape, dtype, data: dtype.startsWith("<U") ? textsOf(values, count) : READERS[dtype](values) };
}

/** @param {Uint8Array<ArrayBuffer>} bytes @param {string} name */
function headerOf(bytes, name) {
  const text = new TextDecoder("latin1").decode(bytes.subarray(0, HEADER_BYTES));
  const found = /'descr': '([^']+)', 'fortran_order': False, 'shape': \(([\d, ]*)\)/.exec(text);
  const isLong = bytes[6] > 1;
  if (bytes[0] !== 0x93 || !text.startsWith(MAGIC, 1) || !found || bytes.length < 12) {
    throw new ArchiveError(`The result's arrays are damaged: ${name} is not an array of numpy.`);
  }
  const [, dtype, lengths] = found;
  if (!(dtype in READERS) && !/^<U\d+$/.test(dtype)) {
    throw new ArchiveError(`${name} has values of an unknown type, ${dtype}.`);
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const begin = isLong ? 12 + view.getUint32(8, true) : 10 + view.getUint16(8, true);
  return { shape: lengths.split(",").filter((part) => part.trim()).map(Number), dtype, begin };
}

/** @param {ArrayBuffer} bytes UTF-32. @param {number} count */
function textsOf(bytes, count) {
  const points = new Uint32Array(bytes);
  const length = count ? points.length / count : 0;
  return Array.from({ length: count }, (_, n) => {
    let text = "";
    for (const point of points.subarray(n * length, (n + 1) * length)) {
      if (point) text += String.fromCodePoint(point);
    }
    return text;
  });
}
