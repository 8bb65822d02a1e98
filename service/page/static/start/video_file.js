/** Tells at once, before a byte is sent, what the service would refuse. */

import { address } from "../api/address.js";
import { shownName, size } from "./words.js";

const HEAD_BYTES = 204;

/** First bytes, from the fourth on, of MP4 and MOV. */
const BOXES = new Set(
  "ftyp moov mdat moof styp sidx emsg wide free skip pnot junk uuid udta prfl pict".split(" "),
);

/** @type {Promise<number> | null} */
let limit = null;

/**
 * @param {File} file
 * @returns {Promise<string | null>} what is wrong with it, as a sentence; null if it may be a video.
 */
export async function objection(file) {
  const name = shownName(file.name);
  if (file.size === 0) return `“${name}” is empty. Choose another file.`;
  try {
    if (!mayBeVideo(new Uint8Array(await file.slice(0, HEAD_BYTES).arrayBuffer()))) {
      return `“${name}” is not a video. Choose an MP4, MOV, MKV, WebM, AVI or TS file.`;
    }
  } catch {
    return `“${name}” cannot be read. If it is a folder, choose a video in it.`;
  }
  const most = await largest();
  if (file.size > most) return `“${name}” has ${size(file.size)}. This service takes videos of up to ${size(most)}.`;
  return null;
}

/** @param {Uint8Array} head A packet of MPEG-TS may begin anywhere in it: the service looks closer. */
function mayBeVideo(head) {
  const text = String.fromCharCode(...head.subarray(0, 12));
  const isMatroska = text.startsWith("\x1a\x45\xdf\xa3");
  return isMatroska || BOXES.has(text.slice(4, 8)) || /^RIFF....AVI/s.test(text) || head.includes(0x47);
}

/** @returns {Promise<number>} bytes of the largest video that the service takes. */
function largest() {
  limit ??= fetch(address("v1/uploads"), { method: "OPTIONS" })
    .then((answer) => Number(answer.headers.get("Tus-Max-Size")) || Infinity)
    .catch(() => ((limit = null), Infinity));
  return limit;
}
