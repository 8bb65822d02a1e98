/** The picture of one sampled frame, cut from the sprite. */

import { html } from "../vendor/preact-htm.js";

/**
 * @param {{ exploration: import("../types.d.ts").Exploration, frame: import("../types.d.ts").SampledFrame }} props
 */
export function Thumbnail({ exploration, frame }) {
  const { thumbnails, width, height } = exploration;
  const place = thumbnails?.placeOf.get(frame.index);
  const shape = { aspectRatio: `${width} / ${height}` };
  if (!thumbnails || place === undefined) return html`<span class="tile" style=${shape}></span>`;
  const { columns } = thumbnails;
  const rows = Math.ceil(thumbnails.placeOf.size / columns);
  const column = place % columns;
  const row = Math.floor(place / columns);
  const picture = {
    ...shape,
    backgroundImage: `url("${thumbnails.url}")`,
    backgroundSize: `${100 * columns}% ${100 * rows}%`,
    backgroundPosition: `${columns > 1 ? (100 * column) / (columns - 1) : 0}% ${rows > 1 ? (100 * row) / (rows - 1) : 0}%`,
  };
  return html`<span class="tile" style=${picture}></span>`;
}
