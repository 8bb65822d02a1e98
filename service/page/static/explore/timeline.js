/**
 * The timeline: thumbnails of the sampled frames, their shares of the relevance, and the playhead.
 * Thumbnails stand in equal cells; a line joins each to its place in time.
 */

import { html, useEffect, useLayoutEffect, useRef, useState } from "../vendor/preact-htm.js";
import { frameAt, useNearest } from "./frames.js";
import { Thumbnail } from "./thumbnail.js";
import { clock, percent } from "./words.js";

/** @typedef {import("../types.d.ts").Exploration} Exploration */
/** @typedef {import("./player.js").Player} Player */

/** Least width of a thumbnail in pixels. */
const CELL = 58;

const PAGE_FRAMES = 25;

/**
 * @param {{
 *   exploration: Exploration, player: Player, shares: number[], asked: number | null,
 * }} props `shares` of each sampled frame; `asked`: the frame of the patch that is asked about.
 */
export function Timeline({ exploration, player, shares, asked }) {
  const { frames } = exploration;
  const box = useRef(/** @type {HTMLElement | null} */ (null));
  const width = useWidth(box);
  const shown = thinned(frames.length, Math.max(2, Math.floor(width / CELL)));
  const near = closest(shown, useNearest(frames, player));
  const marked = asked === null ? null : closest(shown, asked);
  usePlayhead(exploration, player, shares, box);
  const most = Math.max(...shares, 1e-9);
  const scrub = useScrubbing(player);
  /** @param {number} seconds */
  const left = (seconds) => `${(100 * seconds) / player.duration}%`;
  return html`<div class="timeline" ref=${box}>
    ${exploration.thumbnails &&
    html`<div class="thumbnails" style=${{ "--cells": shown.length }}>
      ${shown.map(
        (index) => html`<button key=${index} type="button" tabindex="-1" class=${cellClass(index, near, marked)}
          aria-label=${`Frame ${index + 1}, at ${clock(frames[index].seconds)}`} onClick=${() => player.jump(frames[index].seconds)}>
          <${Thumbnail} exploration=${exploration} frame=${frames[index]} />
        </button>`,
      )}
    </div>
    <${Leaders} width=${width} places=${shown.map((index) => frames[index].seconds / player.duration)} />`}
    <div class="track" role="slider" tabindex="0" aria-label="Time" aria-valuemin="0" aria-valuemax=${player.duration.toFixed(2)}
      aria-valuenow="0" ...${scrub}>
      ${frames.map(
        (frame, index) => html`<span key=${index} class=${index === asked ? "share asked" : "share"}
          style=${{ left: left(frame.seconds), "--share": shares[index] / most, "--room": room(frames.length, width) }}></span>`,
      )}
      <span class="playhead"></span>
    </div>
  </div>`;
}

/**
 * Move the playhead and say where it is, without drawing the timeline again for each frame.
 * @param {Exploration} exploration
 * @param {Player} player
 * @param {number[]} shares
 * @param {{ current: HTMLElement | null }} box
 */
function usePlayhead({ frames }, player, shares, box) {
  useEffect(() => {
    const slider = /** @type {HTMLElement} */ (box.current?.querySelector("[role=slider]"));
    /** @param {number} seconds */
    const follow = (seconds) => {
      const now = frameAt(frames, seconds);
      slider.style.setProperty("--place", String(seconds / player.duration));
      slider.setAttribute("aria-valuenow", seconds.toFixed(2));
      slider.setAttribute("aria-valuetext", describe(seconds, now, frames.length, shares[now]));
    };
    follow(player.wanted);
    return player.on("time", follow);
  }, [frames, player, shares]);
}

/** @param {number} seconds @param {number} nearest @param {number} count @param {number} share */
function describe(seconds, nearest, count, share) {
  return `${seconds.toFixed(2)} seconds, near frame ${nearest + 1} of ${count}, which has ${percent(share)} of the relevance`;
}

/** @param {Player} player */
function useScrubbing(player) {
  const dragging = useRef(false);
  /** @param {PointerEvent} event */
  const follow = (event) => {
    const track = /** @type {HTMLElement} */ (event.currentTarget);
    const { left, width } = track.getBoundingClientRect();
    player.seek(((event.clientX - left) / width) * player.duration);
  };
  return {
    /** @param {PointerEvent} event */
    onPointerDown: (event) => {
      if (event.button !== 0) return;
      dragging.current = true;
      player.pause();
      /** @type {HTMLElement} */ (event.currentTarget).setPointerCapture(event.pointerId);
      follow(event);
    },
    /** @param {PointerEvent} event */
    onPointerMove: (event) => dragging.current && follow(event),
    /** The other keys of a slider; the player has the rest. @param {KeyboardEvent} event */
    onKeyDown: (event) => {
      const step = { ArrowUp: 1, ArrowDown: -1, PageUp: PAGE_FRAMES, PageDown: -PAGE_FRAMES }[event.key];
      if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      player.step(step);
    },
    onPointerUp: () => (dragging.current = false),
    onPointerCancel: () => (dragging.current = false),
  };
}

/** @param {number[]} shown @param {number} index @returns {number} that of the shown ones which is closest. */
function closest(shown, index) {
  return shown.reduce((best, one) => (Math.abs(one - index) < Math.abs(best - index) ? one : best));
}

/** @param {number} index @param {number} near @param {number | null} marked */
function cellClass(index, near, marked) {
  return ["cell", index === near && "near", index === marked && "asked"].filter(Boolean).join(" ");
}

/** Lines from the middle of each cell to its place in time. @param {{ width: number, places: number[] }} props */
function Leaders({ width, places }) {
  const cell = width / places.length;
  return html`<svg class="leaders" viewBox=${`0 0 ${Math.max(width, 1)} 8`} preserveAspectRatio="none" aria-hidden="true">
    ${places.map((place, index) => html`<line key=${index} x1=${(index + 0.5) * cell} y1="0" x2=${place * width} y2="8" />`)}
  </svg>`;
}

/** @param {number} count @param {number} width @returns {string} the width of a bar. */
function room(count, width) {
  return `${Math.min(Math.max(width / count - 2, 1), 26)}px`;
}

/**
 * @param {number} count
 * @param {number} most
 * @returns {number[]} at most `most` of `count` places, evenly spread.
 */
export function thinned(count, most) {
  const shown = Math.min(count, most);
  return Array.from({ length: shown }, (_, place) => Math.floor(((place + 0.5) * count) / shown));
}

/** @param {{ current: HTMLElement | null }} box @returns {number} its width in pixels. */
function useWidth(box) {
  const [width, setWidth] = useState(600);
  useLayoutEffect(() => {
    const observer = new ResizeObserver(([entry]) => setWidth(entry.contentRect.width));
    if (box.current) observer.observe(box.current);
    return () => observer.disconnect();
  }, []);
  return width;
}
