/** How numbers and times read. */

/** @param {number} share 0 to 1. @returns {string} as “21 %”; a decimal only where it matters. */
export function percent(share) {
  const value = 100 * share;
  if (value > 0 && value < 0.05) return "<\u00a00.1\u00a0%";
  const text = value === 0 || value >= 10 ? value.toFixed(0) : value.toFixed(1);
  return `${text}\u00a0%`;
}

/** @param {number} seconds @returns {string} as 0:03.24 */
export function clock(seconds) {
  const minutes = Math.floor(seconds / 60);
  return `${minutes}:${(seconds - 60 * minutes).toFixed(2).padStart(5, "0")}`;
}

/** @param {number} bytes @returns {string} as “1.2 MB”. */
export function size(bytes) {
  if (bytes < 1000) return `${bytes} bytes`;
  if (bytes < 1e6) return `${(bytes / 1e3).toFixed(0)} kB`;
  return `${(bytes / 1e6).toFixed(1)} MB`;
}
