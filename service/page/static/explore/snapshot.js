/** The present picture as a file: the frame and its heat, in the size of the preview. */

import { patchRectangle } from "../data/geometry.js";
import { saturationOf } from "./pane.js";

/** @typedef {import("../types.d.ts").Exploration} Exploration */
/** @typedef {import("../types.d.ts").Rectangle} Rectangle */
/** @typedef {import("../types.d.ts").View} View */

/**
 * @param {Exploration} exploration
 * @param {HTMLVideoElement} video
 * @param {HTMLCanvasElement} heat over the crop.
 * @param {import("../types.d.ts").Patch | null} patch to outline.
 * @param {View} view
 * @returns {HTMLCanvasElement}
 */
export function takePicture(exploration, video, heat, patch, view) {
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const across = canvas.width / exploration.width;
  const down = canvas.height / exploration.height;
  /** @param {Rectangle} place @returns {[number, number, number, number]} in pixels of the picture. */
  const scaled = ({ x, y, width, height }) => [x * across, y * down, width * across, height * down];
  context.filter = `saturate(${saturationOf(view)})`;
  context.drawImage(video, 0, 0);
  context.filter = "none";
  dimOutside(context, scaled(exploration.crop));
  context.imageSmoothingEnabled = view.smoothing > 0;
  context.drawImage(heat, ...scaled(exploration.crop));
  if (patch) {
    context.strokeStyle = "white";
    context.lineWidth = 2;
    context.strokeRect(...scaled(patchRectangle(exploration, patch.row, patch.column)));
  }
  return canvas;
}

/** @param {HTMLCanvasElement} canvas @param {string} name */
export function savePicture(canvas, name) {
  canvas.toBlob((blob) => {
    if (!blob) return;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  });
}

/** As dark as on the stage. @param {CanvasRenderingContext2D} context @param {[number, number, number, number]} inside */
function dimOutside(context, inside) {
  const { width, height } = context.canvas;
  const outside = new Path2D();
  outside.rect(0, 0, width, height);
  outside.rect(...inside);
  context.fillStyle = "rgb(0 0 0 / 0.45)";
  context.fill(outside, "evenodd");
}
