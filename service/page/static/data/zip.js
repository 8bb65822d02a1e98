/** Reads a zip over HTTP: its directory by one Range request, each entry by another. */

import { noAnswer, problemOf } from "../api/problem.js";

/** A file is not what it should be, or a part of it is damaged. */
export class ArchiveError extends Error {}

/**
 * @typedef {object} ZipEntry
 * @property {string} name
 * @property {number} method 0 stored, 8 deflate.
 * @property {number} crc
 * @property {number} bytes of the content.
 * @property {number} packedBytes
 * @property {number} begin of its local header.
 * @property {number} end of its packed bytes, at the latest.
 */

const TAIL_BYTES = 65_536 + 1024;
const END = { signature: 0x06054b50, bytes: 22 };
const END64 = { signature: 0x06064b50, bytes: 56 };
const LOCATOR64 = { signature: 0x07064b50, bytes: 20 };
const CENTRAL = { signature: 0x02014b50, bytes: 46 };
const LOCAL = { signature: 0x04034b50, bytes: 30 };
const ZIP64 = 0x0001;
const FULL_16 = 0xffff;
const FULL_32 = 0xffffffff;

export class ZipFile {
  /**
   * @param {string} url
   * @param {Map<string, ZipEntry>} entries
   * @param {{ bytes: Uint8Array<ArrayBuffer>, offset: number }} tail the end of the file.
   */
  constructor(url, entries, tail) {
    this.entries = entries;
    this._url = url;
    this._tail = tail;
  }

  /**
   * @param {string} url
   * @param {AbortSignal} [signal]
   * @returns {Promise<ZipFile>}
   */
  static async open(url, signal) {
    const tail = await fetchPart(url, `bytes=-${TAIL_BYTES}`, signal);
    const { offset, bytes, count } = endOf(tail);
    const directory =
      offset >= tail.offset
        ? tail.bytes.subarray(offset - tail.offset, offset - tail.offset + bytes)
        : (await fetchPart(url, `bytes=${offset}-${offset + bytes - 1}`, signal)).bytes;
    return new ZipFile(url, entriesOf(directory, count, offset), tail);
  }

  /**
   * @param {string} name
   * @param {AbortSignal} [signal]
   * @returns {Promise<Uint8Array<ArrayBuffer>>} the content, checked by its CRC.
   */
  async read(name, signal) {
    const entry = this._entry(name);
    const content = new Uint8Array(entry.bytes);
    let filled = 0;
    for await (const part of this._unpacked(entry, entry.end, signal)) {
      if (filled + part.length > content.length) throw damaged(name);
      content.set(part, filled);
      filled += part.length;
    }
    if (filled !== content.length || crc32(content) !== entry.crc) throw damaged(name);
    return content;
  }

  /**
   * @param {string} name
   * @param {number} bytes
   * @param {AbortSignal} [signal]
   * @returns {Promise<Uint8Array<ArrayBuffer>>} at most the first bytes of the content. Their CRC is not checked.
   */
  async readStart(name, bytes, signal) {
    const entry = this._entry(name);
    const end = Math.min(entry.end, entry.begin + LOCAL.bytes + 1024 + 4 * bytes);
    const start = new Uint8Array(Math.min(bytes, entry.bytes));
    let filled = 0;
    try {
      for await (const part of this._unpacked(entry, end, signal)) {
        const taken = part.subarray(0, start.length - filled);
        start.set(taken, filled);
        filled += taken.length;
        if (filled === start.length) break;
      }
    } catch (error) {
      if (filled < start.length) throw error;
    }
    return start.subarray(0, filled);
  }

  /** @param {string} name */
  _entry(name) {
    const entry = this.entries.get(name);
    if (!entry) throw new ArchiveError(`The result has no array named ${name}.`);
    return entry;
  }

  /** @param {ZipEntry} entry @param {number} end @param {AbortSignal} [signal] */
  async *_unpacked(entry, end, signal) {
    const raw = await this._part(entry.begin, end, signal);
    if (raw.length < LOCAL.bytes) throw damaged(entry.name);
    const header = new DataView(raw.buffer, raw.byteOffset, raw.length);
    if (header.getUint32(0, true) !== LOCAL.signature) throw damaged(entry.name);
    const begin = LOCAL.bytes + header.getUint16(26, true) + header.getUint16(28, true);
    const packed = raw.subarray(begin, begin + entry.packedBytes);
    if (entry.method === 0) {
      yield packed;
      return;
    }
    if (entry.method !== 8) throw new ArchiveError(`${entry.name} is packed in an unknown way.`);
    try {
      yield* chunksOf(new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate-raw")));
    } catch {
      throw damaged(entry.name);
    }
  }

  /** @param {number} begin @param {number} end @param {AbortSignal} [signal] */
  async _part(begin, end, signal) {
    const { bytes, offset } = this._tail;
    if (begin >= offset) return bytes.subarray(begin - offset, end - offset);
    return (await fetchPart(this._url, `bytes=${begin}-${end - 1}`, signal)).bytes;
  }
}

/**
 * Safari's streams are not iterable.
 *
 * @param {ReadableStream<Uint8Array>} stream
 */
async function* chunksOf(stream) {
  const reader = stream.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/**
 * Past the cache of the browser: Chromium's gives wrong bytes where the same parts are read twice at once.
 *
 * @param {string} url
 * @param {string} range
 * @param {AbortSignal} [signal]
 * @returns {Promise<{ bytes: Uint8Array<ArrayBuffer>, offset: number }>} the whole file, where Range is not supported.
 */
async function fetchPart(url, range, signal) {
  let response;
  let bytes;
  try {
    response = await fetch(url, { headers: { Range: range }, cache: "no-store", signal });
    bytes = new Uint8Array(await response.arrayBuffer());
  } catch {
    signal?.throwIfAborted();
    throw noAnswer();
  }
  if (!response.ok) throw problemOf(response.status, new TextDecoder().decode(bytes));
  const sent = /^bytes (\d+)-/.exec(response.headers.get("Content-Range") ?? "");
  return { bytes, offset: response.status === 206 && sent ? Number(sent[1]) : 0 };
}

/** @param {{ bytes: Uint8Array<ArrayBuffer>, offset: number }} tail @returns {{ offset: number, bytes: number, count: number }} */
function endOf({ bytes, offset }) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  let at = bytes.length - END.bytes;
  while (at >= 0 && view.getUint32(at, true) !== END.signature) at -= 1;
  if (at < 0) throw new ArchiveError("The result's arrays are incomplete: the end of the file is missing.");
  const found = {
    count: view.getUint16(at + 10, true),
    bytes: view.getUint32(at + 12, true),
    offset: view.getUint32(at + 16, true),
  };
  if (found.count === FULL_16 || found.bytes === FULL_32 || found.offset === FULL_32) {
    return end64Of(view, at - LOCATOR64.bytes, offset);
  }
  return inside(found, offset + at);
}

/** @param {DataView} view @param {number} at @param {number} offset */
function end64Of(view, at, offset) {
  if (at < 0 || view.getUint32(at, true) !== LOCATOR64.signature) throw damaged();
  const end = Number(view.getBigUint64(at + 8, true)) - offset;
  if (end < 0 || end > at - END64.bytes || view.getUint32(end, true) !== END64.signature) throw damaged();
  const found = {
    count: Number(view.getBigUint64(end + 32, true)),
    bytes: Number(view.getBigUint64(end + 40, true)),
    offset: Number(view.getBigUint64(end + 48, true)),
  };
  return inside(found, offset + end);
}

/** @param {{ offset: number, bytes: number, count: number }} directory @param {number} limit */
function inside(directory, limit) {
  if (directory.offset + directory.bytes > limit || directory.count === 0) throw damaged();
  return directory;
}

/** @param {Uint8Array<ArrayBuffer>} bytes @param {number} count @param {number} end @returns {Map<string, ZipEntry>} */
function entriesOf(bytes, count, end) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  /** @type {ZipEntry[]} */
  const found = [];
  for (let n = 0, at = 0; n < count; n++) {
    if (at + CENTRAL.bytes > bytes.length || view.getUint32(at, true) !== CENTRAL.signature) throw damaged();
    const nameBytes = view.getUint16(at + 28, true);
    const extraBytes = view.getUint16(at + 30, true);
    const extra = at + CENTRAL.bytes + nameBytes;
    const next = extra + extraBytes + view.getUint16(at + 32, true);
    if (next > bytes.length) throw damaged();
    found.push({
      name: new TextDecoder().decode(bytes.subarray(at + CENTRAL.bytes, extra)),
      method: view.getUint16(at + 10, true),
      crc: view.getUint32(at + 16, true),
      ...placeOf(view, at, extra, extra + extraBytes),
      end,
    });
    at = next;
  }
  return withEnds(found, end);
}

/** Sizes and place of an entry; those that do not fit are in the zip64 field, in this order.
 * @param {DataView} view @param {number} at @param {number} extra @param {number} extraEnd */
function placeOf(view, at, extra, extraEnd) {
  let long = extraEnd;
  for (let field = extra; field + 4 <= extraEnd; field += 4 + view.getUint16(field + 2, true)) {
    if (view.getUint16(field, true) === ZIP64) long = field + 4;
  }
  const [bytes, packedBytes, begin] = [24, 20, 42].map((place) => {
    const short = view.getUint32(at + place, true);
    if (short !== FULL_32) return short;
    if (long + 8 > extraEnd) throw damaged();
    long += 8;
    return Number(view.getBigUint64(long - 8, true));
  });
  return { bytes, packedBytes, begin };
}

/** @param {ZipEntry[]} entries @param {number} directory where the directory begins. */
function withEnds(entries, directory) {
  const inOrder = [...entries].sort((a, b) => a.begin - b.begin);
  inOrder.forEach((entry, n) => {
    entry.end = inOrder[n + 1]?.begin ?? directory;
    if (entry.begin + LOCAL.bytes + entry.packedBytes > entry.end) throw damaged(entry.name);
  });
  return new Map(entries.map((entry) => [entry.name, entry]));
}

/** @param {string} [name] */
function damaged(name) {
  return new ArchiveError(`The result's arrays are damaged${name ? `: ${name} cannot be read` : ""}.`);
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

/** @param {Uint8Array<ArrayBuffer>} bytes */
function crc32(bytes) {
  let crc = FULL_32;
  for (let n = 0; n < bytes.length; n++) crc = CRC_TABLE[(crc ^ bytes[n]) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}
