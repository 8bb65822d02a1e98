/** The screen while there is no result yet: the video plays in it, without sound. */

import { Icon } from "../icons.js";
import { html, useEffect, useRef, useState } from "../vendor/preact-htm.js";

/**
 * @param {object} properties
 * @param {string | null} properties.url of the video; null if this browser does not have it.
 * @param {boolean} properties.isStill whether nothing goes on any more.
 */
export function Screen({ url, isStill }) {
  const video = useRef(/** @type {HTMLVideoElement | null} */ (null));
  const [broken, setBroken] = useState(/** @type {string | null} */ (null));
  const isPlayable = url && url !== broken;
  useEffect(() => {
    const player = video.current;
    if (!player) return;
    player.muted = true;
    if (isStill || matchMedia("(prefers-reduced-motion: reduce)").matches) player.pause();
    else player.play().catch(() => null);
  }, [url, isStill, isPlayable]);
  return html`<div class=${isStill ? "screen ended" : "screen"} aria-hidden="true">
    ${isPlayable
      ? html`<video ref=${video} src=${url} muted loop playsinline disablepictureinpicture tabindex="-1"
          onError=${() => setBroken(url)}></video>`
      : html`<${Icon} name="film" />`}
  </div>`;
}
