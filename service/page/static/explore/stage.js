/** What the stage shows: the video that leads, its frame once more, or what there is without one. */

import { html, useEffect, useRef } from "../vendor/preact-htm.js";
import { Icon } from "../icons.js";
import { artifactUrl } from "../api/client.js";

/** @typedef {import("../types.d.ts").Exploration} Exploration */
/** @typedef {import("../types.d.ts").Patch} Patch */
/** @typedef {import("./player.js").Player} Player */

/**
 * The video that leads. It is muted, and repeats. `crossorigin` lets a picture be saved of it if it comes from a bucket.
 * @param {{ url: string, player: Player, autoplay: boolean }} props
 */
export function LeadingVideo({ url, player, autoplay }) {
  const video = useRef(/** @type {HTMLVideoElement | null} */ (null));
  useEffect(() => {
    const element = /** @type {HTMLVideoElement} */ (video.current);
    element.muted = true;
    player.attach(element);
    if (autoplay) player.play();
    return () => player.detach();
  }, [url, player]);
  return html`<video class="frame" ref=${video} src=${url} crossorigin="anonymous" muted loop playsinline preload="auto" disablepictureinpicture
    tabindex="-1" aria-hidden="true"></video>`;
}

/** The frame of the leading video once more. @param {{ player: Player }} props */
export function SameFrame({ player }) {
  const canvas = useRef(/** @type {HTMLCanvasElement | null} */ (null));
  useEffect(() => {
    const draw = () => void (player.video && canvas.current && copyFrame(player.video, canvas.current));
    draw();
    return player.on("frame", draw);
  }, [player]);
  return html`<canvas class="frame" ref=${canvas} aria-hidden="true"></canvas>`;
}

/** A picture in place of a video. @param {{ exploration: Exploration }} props */
export function StillPicture({ exploration: { job } }) {
  const hasSheet = job.result?.artifacts.some(({ name }) => name === "sheet.png");
  return hasSheet
    ? html`<img class="sheet" src=${artifactUrl(job.id, "sheet.png")} alt="The sampled frames and their heat maps" />`
    : html`<p class="muted">There is no picture of this video.</p>`;
}

/** @param {{ exploration: Exploration, canCompute: boolean, isBusy: boolean, make: () => void }} props */
export function NoPreview({ exploration, canCompute, isBusy, make }) {
  return html`<figure class="pane still">
    <div class="room"><${StillPicture} exploration=${exploration} /></div>
    <figcaption>
      ${canCompute
        ? html`<span>This job was made without a video to play.</span>
            <button class="button primary" type="button" disabled=${isBusy} onClick=${make}>Make it explorable</button>`
        : html`<span>
            This job was made without a video to play, and its upload is gone. <a href="#">Upload it again</a> to explore it.
          </span>`}
    </figcaption>
  </figure>`;
}

/** Says that a patch is asked about, and leads back. @param {{ patch: Patch, whole: () => void }} props */
export function AskedLine({ patch, whole }) {
  return html`<div class="asked-line small" role="status">
    <span>What this patch of frame ${patch.frame + 1} looked at</span>
    <button class="button quiet small" type="button" title="Back to the whole answer (Esc)" onClick=${whole}>
      <${Icon} name="cross" />Whole answer
    </button>
  </div>`;
}

/** @param {HTMLVideoElement} video @param {HTMLCanvasElement} canvas */
function copyFrame(video, canvas) {
  if (!video.videoWidth) return;
  if (canvas.width !== video.videoWidth) canvas.width = video.videoWidth;
  if (canvas.height !== video.videoHeight) canvas.height = video.videoHeight;
  canvas.getContext("2d")?.drawImage(video, 0, 0);
}
