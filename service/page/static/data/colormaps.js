/** The colours of heat, and their names. */

import { TABLES } from "./colormap_tables.js";

/** Names of the colormaps, the default one first. */
export const COLORMAPS = Object.keys(TABLES);

/** @type {Map<string, Uint8Array>} */
const decoded = new Map();

/**
 * @param {string} name
 * @returns {Uint8Array} `256 3`, RGB; of the default colormap if there is none of this name.
 */
export function rgbTable(name) {
  const known = Object.hasOwn(TABLES, name) ? name : COLORMAPS[0];
  const table = decoded.get(known) ?? Uint8Array.from(atob(TABLES[known]), (byte) => byte.charCodeAt(0));
  decoded.set(known, table);
  return table;
}

/**
 * @param {string} name
 * @returns {string} a CSS gradient from left (0) to right (1), for a legend.
 */
export function cssGradient(name) {
  const table = rgbTable(name);
  const stops = Array.from({ length: 17 }, (_, n) => {
    const at = 3 * Math.round((n * 255) / 16);
    return `rgb(${table[at]} ${table[at + 1]} ${table[at + 2]})`;
  });
  return `linear-gradient(to right, ${stops.join(", ")})`;
}
