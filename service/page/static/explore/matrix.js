/** Which frame looked at which: rows are the frames asked about, columns where they looked. */

import { html, useEffect, useRef, useState } from "../vendor/preact-htm.js";
import { useNearest } from "./frames.js";
import { percent } from "./words.js";

/** @typedef {import("../types.d.ts").Exploration} Exploration */
/** @typedef {import("../types.d.ts").SampledFrame} SampledFrame */
/** @typedef {import("./player.js").Player} Player */
/** @typedef {{ row: number, column: number }} Cell */

const NAME = "Frames asked about by frames looked at; arrows move, Enter jumps";

/** Of the clip that is shown. @param {{ exploration: Exploration, player: Player }} props */
export function Matrix({ exploration, player }) {
  const { frames } = exploration;
  const now = frames[useNearest(frames, player)];
  const matrix = useTemporal(exploration, now.clip);
  const canvas = useRef(/** @type {HTMLCanvasElement | null} */ (null));
  const size = matrix?.size ?? 0;
  const { cell, handlers } = useCell(size, (t) => player.jump(frames[placeOf(frames, now.clip, t)].seconds));
  useEffect(() => void (matrix && canvas.current && paint(canvas.current, matrix)), [matrix]);
  if (!matrix || size < 2) return null;
  return html`<section class="matrix" aria-label="Which frame looked at which">
    <div class="grid" role="application" tabindex="0" aria-roledescription="matrix" aria-label=${NAME} ...${handlers}>
      <canvas ref=${canvas} width=${size} height=${size}></canvas>
      <span class="row" style=${{ "--at": (cell?.row ?? now.t) / size, "--of": 1 / size }}></span>
      ${cell && html`<span class="at" style=${{ "--at": cell.row / size, "--across": cell.column / size, "--of": 1 / size }}></span>`}
    </div>
    <p class=${cell ? "small told" : "small"} aria-live="polite">
      ${cell
        ? sentence(matrix, cell, (t) => placeOf(frames, now.clip, t) + 1)
        : html`<span class="muted">Which frame looked at which. Rows ask, columns answer.</span>`}
    </p>
  </section>`;
}

/**
 * The cell that is pointed at, or moved to by keys.
 * @param {number} size
 * @param {(column: number) => void} go is called for a cell that is chosen.
 */
function useCell(size, go) {
  const [cell, setCell] = useState(/** @type {Cell | null} */ (null));
  const at = cell ?? { row: 0, column: 0 };
  const handlers = {
    /** @param {PointerEvent} event */
    onPointerMove: (event) => {
      const { left, top, width, height } = /** @type {HTMLElement} */ (event.currentTarget).getBoundingClientRect();
      const row = Math.floor(((event.clientY - top) / height) * size);
      setCell(within({ row, column: Math.floor(((event.clientX - left) / width) * size) }, size));
    },
    onPointerLeave: () => setCell(null),
    onFocus: () => setCell(at),
    onBlur: () => setCell(null),
    onClick: () => cell && go(cell.column),
    /** @param {KeyboardEvent} event */
    onKeyDown: (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const next = moved(at, event.key, size);
      if (next) setCell(next);
      else if (event.key === "Enter" || event.key === " ") go(at.column);
      else return;
      event.preventDefault();
    },
  };
  return { cell, handlers };
}

/** @param {Exploration} exploration @param {number} clip */
function useTemporal(exploration, clip) {
  const [matrix, setMatrix] = useState(/** @type {{ size: number, values: Float32Array } | null} */ (null));
  useEffect(() => {
    let current = true;
    exploration.temporal(clip).then(
      (found) => current && setMatrix(found),
      () => current && setMatrix(null),
    );
    return () => void (current = false);
  }, [exploration, clip]);
  return matrix;
}

/**
 * Paint one pixel for each cell, in the colour of the text, more opaque where more was looked at.
 * @param {HTMLCanvasElement} canvas
 * @param {{ size: number, values: Float32Array }} matrix
 */
function paint(canvas, { size, values }) {
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const most = values.reduce((a, b) => Math.max(a, b), 1e-9);
  context.clearRect(0, 0, size, size);
  context.fillStyle = getComputedStyle(canvas).color;
  values.forEach((value, place) => {
    context.globalAlpha = Math.min(Math.max(value / most, 0), 1);
    context.fillRect(place % size, Math.floor(place / size), 1, 1);
  });
}

/**
 * @param {{ size: number, values: Float32Array }} matrix
 * @param {Cell} cell
 * @param {(t: number) => number} number of a frame of the clip.
 */
function sentence({ size, values }, { row, column }, number) {
  const rowSum = values.subarray(row * size, (row + 1) * size).reduce((a, b) => a + b, 0);
  const share = rowSum > 0 ? values[row * size + column] / rowSum : 0;
  return html`Asked about frame ${number(row)} → looked at frame ${number(column)}: <b>${percent(share)}</b>`;
}

/** @param {Cell} cell @param {string} key @param {number} size */
function moved({ row, column }, key, size) {
  /** @type {Record<string, [number, number]>} */
  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  const step = steps[key];
  return step ? within({ row: row + step[0], column: column + step[1] }, size) : null;
}

/** @param {Cell} cell @param {number} size */
function within({ row, column }, size) {
  /** @param {number} value */
  const bounded = (value) => Math.min(Math.max(value, 0), size - 1);
  return { row: bounded(row), column: bounded(column) };
}

/**
 * @param {SampledFrame[]} frames
 * @param {number} clip
 * @param {number} t
 * @returns {number} the place of the frame that the clip has at `t`. A frame that was sampled before
 *   stands only once, so the closest one that follows or precedes it is taken.
 */
function placeOf(frames, clip, t) {
  const place = frames.findIndex((frame) => frame.clip === clip && frame.t >= t);
  return place >= 0 ? place : frames.findLastIndex((frame) => frame.clip === clip);
}
