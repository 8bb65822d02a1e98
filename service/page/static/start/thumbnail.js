/** A small picture of a job's video: its first sampled frame. */

import { artifactUrl, fetchJson } from "../api/client.js";
import { Icon } from "../icons.js";
import { html, useEffect, useRef, useState } from "../vendor/preact-htm.js";

/** @typedef {import("../types.d.ts").Job} Job */
/** @typedef {{ url: string, x: number, y: number, width: number, height: number }} Part */

/** The margins of `sheet.png`, in pixels: around it, and around its one row of heat maps. */
const SHEET_MARGIN = 24;
const SHEET_ROW_SPACE = 48;

/** @param {{ job: Job }} properties */
export function Thumbnail({ job }) {
  const place = useRef(/** @type {HTMLCanvasElement | null} */ (null));
  const [isDrawn, setDrawn] = useState(false);
  useEffect(() => {
    const canvas = place.current;
    if (!canvas || !job.result?.artifacts.length) return;
    return whenSeen(canvas, () => draw(job, canvas).then(setDrawn, () => null));
  }, [job.id, job.state]);
  return html`<div class="cover">
    ${!isDrawn && html`<${Icon} name="film" />`}
    <canvas ref=${place} width="0" height="0" aria-hidden="true"></canvas>
  </div>`;
}

/**
 * @param {Element} element
 * @param {() => void} act
 * @returns {() => void} stops waiting.
 */
function whenSeen(element, act) {
  const watcher = new IntersectionObserver(
    (entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      watcher.disconnect();
      act();
    },
    { rootMargin: "200px" },
  );
  watcher.observe(element.parentElement ?? element);
  return () => watcher.disconnect();
}

/**
 * @param {Job} job
 * @param {HTMLCanvasElement} canvas
 * @returns {Promise<boolean>} whether there was something to draw.
 */
async function draw(job, canvas) {
  const part = (await firstTile(job)) ?? (await sheetCorner(job));
  if (!part) return false;
  const picture = new Image();
  picture.src = part.url;
  await picture.decode();
  const { x, y, width, height } = part.width ? part : cornerOf(picture, part);
  Object.assign(canvas, { width, height });
  canvas.getContext("2d")?.drawImage(picture, x, y, width, height, 0, 0, width, height);
  return true;
}

/** @param {Job} job @returns {Promise<Part | null>} */
async function firstTile(job) {
  const url = urlOf(job, "thumbnails.jpg");
  const facts = url && urlOf(job, "result.json");
  if (!url || !facts) return null;
  const { thumbnails } = await fetchJson(facts);
  return thumbnails && { url, x: 0, y: 0, width: thumbnails.tile_width, height: thumbnails.tile_height };
}

/** @param {Job} job @returns {Promise<Part | null>} of a job that was not made for this page. */
async function sheetCorner(job) {
  const url = urlOf(job, "sheet.png");
  return url ? { url, x: SHEET_MARGIN, y: SHEET_MARGIN, width: 0, height: 0 } : null;
}

/** @param {HTMLImageElement} sheet @param {Part} part @returns {Part} the first frame: as high as its heat map below. */
function cornerOf(sheet, part) {
  const side = Math.floor((sheet.naturalHeight - 2 * SHEET_MARGIN - SHEET_ROW_SPACE) / 2);
  return { ...part, width: Math.min(side, sheet.naturalWidth - 2 * SHEET_MARGIN), height: side };
}

/** @param {Job} job @param {string} name */
function urlOf(job, name) {
  return job.result?.artifacts.some((artifact) => artifact.name === name) ? artifactUrl(job.id, name) : null;
}
