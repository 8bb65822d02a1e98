/**
 * The patches of the crop: a click, or Enter, asks what one attended to. The arrows belong to the
 * player until patches are being chosen.
 */

import { html, useLayoutEffect, useRef, useState } from "../vendor/preact-htm.js";
import { useNearest } from "./frames.js";

/** @typedef {import("../types.d.ts").Exploration} Exploration */
/** @typedef {import("../types.d.ts").Patch} Patch */
/** @typedef {{ row: number, column: number }} Place */

/**
 * @param {{
 *   exploration: Exploration, player: import("./player.js").Player, patch: Patch | null,
 *   ask: ((patch: Patch) => void) | null, choosing: boolean, choose: (on: boolean) => void,
 * }} props
 */
export function Patches({ exploration, player, patch, ask, choosing, choose }) {
  const { rows, columns, frames } = exploration;
  const frame = useNearest(frames, player);
  const layer = useRef(/** @type {HTMLElement | null} */ (null));
  const [pointed, setPointed] = useState(/** @type {Place | null} */ (null));
  const [cursor, setCursor] = useState({ row: rows >> 1, column: columns >> 1 });
  useLayoutEffect(() => void (choosing && layer.current?.focus()), [choosing]);
  if (!ask) return patch && html`<${Outline} kind="asked" place=${patch} exploration=${exploration} />`;
  /** @param {Place} place */
  const askAbout = (place) => {
    setCursor(place);
    ask({ frame, ...place });
  };
  const keys = patchKeys({ rows, columns, cursor, setCursor, askAbout, choose, choosing });
  /** @param {PointerEvent | MouseEvent} event */
  const at = (event) => placeAt(event, rows, columns);
  return html`<div class=${choosing ? "patches choosing" : "patches"} ref=${layer}
      role="application" tabindex="0" aria-roledescription="patches"
      aria-label=${choosing ? describe(cursor, frame) : "What the model saw. Press Enter to choose a patch with the arrow keys."}
      onPointerMove=${(/** @type {PointerEvent} */ event) => setPointed(event.pointerType === "touch" ? null : at(event))}
      onPointerLeave=${() => setPointed(null)} onClick=${(/** @type {MouseEvent} */ event) => askAbout(at(event))}
      onKeyDown=${keys} onBlur=${() => choose(false)}></div>
    ${pointed && !choosing && html`<${Outline} kind="pointed" place=${pointed} exploration=${exploration} />`}
    ${patch && html`<${Outline} kind=${patch.frame === frame ? "asked" : "asked elsewhere"} place=${patch} exploration=${exploration} />`}
    ${choosing && html`<${Outline} kind="cursor" place=${cursor} exploration=${exploration} />
      <p class="unseen" aria-live="polite">${describe(cursor, frame)}</p>`}`;
}

/** @param {{ kind: string, place: Place, exploration: Exploration }} props */
function Outline({ kind, place, exploration: { rows, columns } }) {
  const where = {
    left: `${(100 * place.column) / columns}%`,
    top: `${(100 * place.row) / rows}%`,
    width: `${100 / columns}%`,
    height: `${100 / rows}%`,
  };
  return html`<span class=${`patch ${kind}`} style=${where}></span>`;
}

/** @param {Place} place @param {number} frame */
function describe({ row, column }, frame) {
  return `Row ${row + 1}, column ${column + 1} of frame ${frame + 1}. Arrows move, Enter asks, Escape leaves.`;
}

/** @param {MouseEvent} event @param {number} rows @param {number} columns @returns {Place} */
function placeAt(event, rows, columns) {
  const { left, top, width, height } = /** @type {HTMLElement} */ (event.currentTarget).getBoundingClientRect();
  const row = Math.floor(((event.clientY - top) / height) * rows);
  const column = Math.floor(((event.clientX - left) / width) * columns);
  return { row: bounded(row, rows), column: bounded(column, columns) };
}

/**
 * @param {{
 *   rows: number, columns: number, cursor: Place, setCursor: (moved: (place: Place) => Place) => void,
 *   askAbout: (place: Place) => void, choose: (on: boolean) => void, choosing: boolean,
 * }} about
 */
function patchKeys({ rows, columns, cursor, setCursor, askAbout, choose, choosing }) {
  /** @param {number} down @param {number} right */
  const move = (down, right) =>
    setCursor(({ row, column }) => ({ row: bounded(row + down, rows), column: bounded(column + right, columns) }));
  /** @type {Record<string, () => void>} */
  const whileChoosing = {
    ArrowUp: () => move(-1, 0),
    ArrowDown: () => move(1, 0),
    ArrowLeft: () => move(0, -1),
    ArrowRight: () => move(0, 1),
    Enter: () => askAbout(cursor),
    Escape: () => choose(false),
  };
  /** @type {Record<string, () => void>} */
  const before = { Enter: () => choose(true) };
  /** @param {KeyboardEvent} event */
  return (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const act = (choosing ? whileChoosing : before)[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  };
}

/** @param {number} value @param {number} count */
function bounded(value, count) {
  return Math.min(Math.max(value, 0), count - 1);
}
