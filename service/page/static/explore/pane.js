/** One picture: a frame of the video, the heat over the model's crop, and its patches. */

import { html, useEffect, useLayoutEffect, useRef } from "../vendor/preact-htm.js";
import { relativeTo } from "../data/geometry.js";
import { HeatCanvas } from "./heat_canvas.js";
import { Patches } from "./patches.js";

/** @typedef {import("../types.d.ts").Exploration} Exploration */
/** @typedef {import("../types.d.ts").HeatTrack} HeatTrack */
/** @typedef {import("../types.d.ts").Patch} Patch */
/** @typedef {import("../types.d.ts").Rectangle} Rectangle */
/** @typedef {import("../types.d.ts").View} View */
/** @typedef {import("./player.js").Player} Player */

/**
 * @param {{
 *   exploration: Exploration, player: Player, view: View, track: HeatTrack | null, picture: unknown,
 *   outlined: boolean, patch: Patch | null, ask: ((patch: Patch) => void) | null,
 *   choosing: boolean, choose: (on: boolean) => void, caption?: unknown, heat?: { current: HeatCanvas | null },
 * }} props `picture`: what shows the frame; `ask`: null where patches cannot be asked about.
 */
export function Pane(props) {
  const { exploration, player, view, track, picture, outlined, caption } = props;
  const canvas = useRef(/** @type {HTMLCanvasElement | null} */ (null));
  useHeat(canvas, player, view, track, props.heat);
  const { width, height } = exploration;
  return html`<figure class="pane">
    ${caption && html`<figcaption>${caption}</figcaption>`}
    <div class="room">
      <div class="picture" style=${{ "--aspect": width / height, "--saturation": saturationOf(view) }}>
        ${picture}
        <div class=${outlined ? "crop outlined" : "crop"} style=${placed(relativeTo(exploration.crop, exploration))}>
          <canvas class=${view.smoothing === 0 ? "heat sharp" : "heat"} ref=${canvas} role="img" aria-label="Heat map"></canvas>
          <${Patches} ...${props} />
        </div>
      </div>
    </div>
  </figure>`;
}

/**
 * Draw the heat of each frame that is presented, and again when it is to look otherwise.
 * @param {{ current: HTMLCanvasElement | null }} canvas
 * @param {Player} player
 * @param {View} view
 * @param {HeatTrack | null} track
 * @param {{ current: HeatCanvas | null }} [given] where others find it.
 */
function useHeat(canvas, player, view, track, given) {
  const own = useRef(/** @type {HeatCanvas | null} */ (null));
  const heat = given ?? own;
  const style = useRef(view);
  style.current = view;
  useLayoutEffect(() => {
    heat.current = new HeatCanvas(/** @type {HTMLCanvasElement} */ (canvas.current));
  }, []);
  useEffect(() => {
    if (track) heat.current?.show(track);
    heat.current?.draw(player.seconds, view);
  }, [track, player, view]);
  useEffect(() => player.on("frame", (seconds) => heat.current?.draw(seconds, style.current)), [player]);
}

/** @param {View} view @returns {number} how much of its colour the video keeps: all of it without heat. */
export function saturationOf({ shown, saturation }) {
  return shown ? saturation : 1;
}

/** @param {Rectangle} share of the picture. */
function placed({ x, y, width, height }) {
  return { left: `${100 * x}%`, top: `${100 * y}%`, width: `${100 * width}%`, height: `${100 * height}%` };
}
