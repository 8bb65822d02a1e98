/** Draws the heat of one moment into a small canvas that lies over the model's crop. */

import { rgbTable } from "../data/colormaps.js";
import { drawHeat, heatAt } from "../data/heat.js";

/** @typedef {import("../types.d.ts").HeatTrack} HeatTrack */
/** @typedef {import("../types.d.ts").HeatStyle} HeatStyle */

/** Pixels along the longer side. The browser scales the canvas up. */
const SIDE = 224;
const MEASURED = 240;

export class HeatCanvas {
  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    this.canvas = canvas;
    this.context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", { willReadFrequently: true }));
    /** @type {HeatTrack | null} */
    this.track = null;
    this.map = new Float32Array(0);
    this.pixels = new ImageData(1, 1);
    /** Milliseconds of the latest drawings. @type {number[]} */
    this.durations = [];
  }

  /** @param {HeatTrack} track */
  show(track) {
    if (track === this.track) return;
    const { rows, columns } = track;
    if (rows !== this.track?.rows || columns !== this.track?.columns) this.resize(rows, columns);
    this.track = track;
  }

  /** Take whole pixels for each patch, so that a patch is a sharp square. @param {number} rows @param {number} columns */
  resize(rows, columns) {
    const each = Math.max(1, Math.floor(SIDE / Math.max(rows, columns)));
    this.map = new Float32Array(rows * columns);
    this.canvas.width = each * columns;
    this.canvas.height = each * rows;
    this.pixels = this.context.createImageData(this.canvas.width, this.canvas.height);
  }

  /** @param {number} seconds @param {HeatStyle} style */
  draw(seconds, style) {
    const { track, map, pixels } = this;
    if (!track || !style.shown) return this.clear();
    const start = performance.now();
    heatAt(track, seconds, map);
    drawHeat(pixels, map, track.rows, track.columns, style, rgbTable(style.colormap));
    this.context.putImageData(pixels, 0, 0);
    this.measure(performance.now() - start);
  }

  clear() {
    this.context.clearRect(0, 0, this.canvas.width, this.canvas.height);
  }

  /** @param {number} milliseconds */
  measure(milliseconds) {
    this.durations.push(milliseconds);
    if (this.durations.length > MEASURED) this.durations.shift();
  }

  /** @returns {number} the median of the latest drawings, in milliseconds. */
  median() {
    const sorted = this.durations.toSorted((a, b) => a - b);
    return sorted[sorted.length >> 1] ?? NaN;
  }
}
