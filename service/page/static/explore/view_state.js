/**
 * What is shown, in one place. It is mirrored to the address, so that a link reopens all of it.
 * The clock of a playing video is the player's; here stands the time at which it was stopped.
 */

import { useEffect, useState } from "../vendor/preact-htm.js";
import { jobAddress, readRoute } from "../route.js";
import { COLORMAPS } from "../data/colormaps.js";

/** @typedef {import("../types.d.ts").View} View */
/** @typedef {import("../types.d.ts").Patch} Patch */

/**
 * At first each frame shows its own hottest patches: in a video of which one moment has most of the
 * relevance, all others would seem empty. The timeline has the share of each frame. The video keeps
 * little of its colour, so that the heat stands out.
 * @type {Omit<View, "job">}
 */
const FIRST_VIEW = {
  shown: true,
  opacity: 0.6,
  colormap: "plasma",
  threshold: 0,
  smoothing: 0.5,
  scale: "frame",
  saturation: 0.15,
  target: 0,
  seconds: 0,
  layer: null,
  patch: null,
  compare: null,
};

/** Browsers refuse more than about 100 changes of the address in 30 s. */
const MIRROR_MILLISECONDS = 400;

export class ViewState {
  /** @param {View} view */
  constructor(view) {
    this.current = view;
    this.addressed = view.job;
    /** @type {Set<(view: View) => void>} */
    this.listeners = new Set();
    this.timer = 0;
  }

  /** @param {Partial<View>} changes */
  set(changes) {
    this.current = { ...this.current, ...changes };
    this.listeners.forEach((listener) => listener(this.current));
    this.mirrorSoon();
  }

  /** Keep what is drawn already: the time at which the player stands. @param {number} seconds */
  remember(seconds) {
    this.current = { ...this.current, seconds };
    this.mirrorSoon();
  }

  mirrorSoon() {
    if (!this.timer) this.timer = setTimeout(() => this.mirror(), MIRROR_MILLISECONDS);
  }

  /** Write the view to the address, unless the address has gone to another job meanwhile. */
  mirror() {
    clearTimeout(this.timer);
    this.timer = 0;
    if (readRoute().job !== this.addressed) return;
    this.addressed = this.current.job;
    history.replaceState(history.state, "", addressOf(this.current));
  }

  /** Forget what is not mirrored yet: the address belongs to another view from now on. */
  close() {
    clearTimeout(this.timer);
    this.listeners.clear();
  }
}

/**
 * @param {ViewState} state
 * @returns {View} which is drawn again when it changes.
 */
export function useView(state) {
  const [view, setView] = useState(state.current);
  useEffect(() => {
    setView(state.current);
    state.listeners.add(setView);
    return () => void state.listeners.delete(setView);
  }, [state]);
  return view;
}

/**
 * @param {View} view
 * @returns {string} an address that `readView` reads. What is as at first is left out.
 */
export function addressOf(view) {
  const query = new URLSearchParams();
  for (const [name, first] of Object.entries(FIRST_VIEW)) {
    const value = view[/** @type {keyof View} */ (name)];
    if (value !== first && value !== null) query.set(name, writeValue(value));
  }
  return jobAddress(view.job, query);
}

/**
 * @param {string} job
 * @param {URLSearchParams} query
 * @returns {View} A value that cannot be read is as at first.
 */
export function readView(job, query) {
  const scale = query.get("scale");
  const colormap = query.get("colormap") ?? "";
  return {
    job,
    target: /^\d$/.test(query.get("target") ?? "") ? Number(query.get("target")) : FIRST_VIEW.target,
    shown: query.get("shown") !== "no",
    opacity: readNumber(query, "opacity", 1),
    threshold: readNumber(query, "threshold", 1),
    smoothing: readNumber(query, "smoothing", 2),
    saturation: readNumber(query, "saturation", 1),
    seconds: readNumber(query, "seconds", Infinity),
    colormap: COLORMAPS.includes(colormap) ? colormap : FIRST_VIEW.colormap,
    scale: scale === "video" ? scale : FIRST_VIEW.scale,
    layer: /^\d{1,3}$/.test(query.get("layer") ?? "") ? Number(query.get("layer")) : null,
    patch: readPatch(query.get("patch")),
    compare: query.get("compare"),
  };
}

/** @param {boolean | number | string | Patch} value */
function writeValue(value) {
  if (typeof value === "object") return `${value.frame}:${value.row}:${value.column}`;
  if (typeof value === "boolean") return value ? "yes" : "no";
  return typeof value === "number" ? String(Number(value.toFixed(3))) : value;
}

/**
 * @param {URLSearchParams} query
 * @param {"opacity" | "threshold" | "smoothing" | "saturation" | "seconds"} name
 * @param {number} most
 */
function readNumber(query, name, most) {
  const value = Number(query.get(name) ?? NaN);
  return value >= 0 && value <= most ? value : FIRST_VIEW[name];
}

/** @param {string | null} text */
function readPatch(text) {
  const match = /^(\d{1,4}):(\d{1,4}):(\d{1,4})$/.exec(text ?? "");
  if (!match) return null;
  const [frame, row, column] = match.slice(1).map(Number);
  return { frame, row, column };
}
