/** Numbers, times and names as people read them. */

const SIZES = [
  { unit: "GB", bytes: 1e9, digits: 1 },
  { unit: "MB", bytes: 1e6, digits: 1 },
  { unit: "kB", bytes: 1e3, digits: 0 },
  { unit: "bytes", bytes: 1, digits: 0 },
];

const AGES = [
  { unit: "day", seconds: 86400 },
  { unit: "hour", seconds: 3600 },
  { unit: "minute", seconds: 60 },
];

const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
const rank = new Intl.PluralRules("en", { type: "ordinal" });
const ENDINGS = { one: "st", two: "nd", few: "rd", other: "th", zero: "th", many: "th" };

/** Characters that change the direction or the look of the text around them, or cannot be seen. */
const UNSAFE = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Co}\p{Cs}]/gu;

/**
 * @param {number} count
 * @returns {string} such as `12.4 MB`.
 */
export function size(count) {
  const { unit, bytes, digits } = scaleOf(count);
  return `${(count / bytes).toFixed(digits)} ${unit}`;
}

/**
 * @param {number} part
 * @param {number} whole
 * @returns {string} such as `3.1 of 12.4 MB`.
 */
export function sizeOf(part, whole) {
  const { unit, bytes, digits } = scaleOf(whole);
  return `${(part / bytes).toFixed(digits)} of ${(whole / bytes).toFixed(digits)} ${unit}`;
}

/**
 * @param {number} seconds
 * @returns {string} rounded so that it does not flicker while it shrinks.
 */
export function about(seconds) {
  if (seconds < 10) return `about ${Math.max(1, Math.round(seconds))} s`;
  if (seconds < 60) return `about ${5 * Math.round(seconds / 5)} s`;
  if (seconds < 5400) return `about ${Math.round(seconds / 60)} min`;
  return `about ${Math.round(seconds / 3600)} h`;
}

/**
 * @param {number} place
 * @returns {string} `Next in line`, `2nd in line`.
 */
export function placeInLine(place) {
  return place <= 1 ? "Next in line" : `${place}${ENDINGS[rank.select(place)]} in line`;
}

/**
 * @param {string} time RFC 3339.
 * @param {number} [now] milliseconds.
 * @returns {string} such as `2 hours ago`; a date when that is clearer.
 */
export function ago(time, now = Date.now()) {
  const seconds = (now - Date.parse(time)) / 1000;
  if (seconds > 7 * 86400) return new Date(time).toLocaleDateString("en", { dateStyle: "medium" });
  const age = AGES.find((age) => seconds >= age.seconds);
  if (!age) return "just now";
  return relative.format(-Math.floor(seconds / age.seconds), /** @type {Intl.RelativeTimeFormatUnit} */ (age.unit));
}

/**
 * @param {string | null} name
 * @returns {string} the file name with a mark in place of each character that could disguise it.
 */
export function shownName(name) {
  return name?.replace(UNSAFE, "\ufffd") || "Video without a name";
}

/** @param {number} count */
function scaleOf(count) {
  return SIZES.find(({ bytes }) => count >= bytes) ?? SIZES[SIZES.length - 1];
}
