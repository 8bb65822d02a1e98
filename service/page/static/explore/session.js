/** What is open and what can be done with it: all parts of the view read from here. */

import { useEffect, useMemo, useRef, useState } from "../vendor/preact-htm.js";
import { jobAddress, readRoute } from "../route.js";
import { METHOD_NAMES } from "../methods.js";
import { idOf, methodOf, nameOfMap } from "./titles.js";
import { playerActions, usePlayback } from "./playback.js";
import { Results } from "./results.js";
import { sharesOf, useTrack } from "./track.js";
import { readView, useView, ViewState } from "./view_state.js";
import { useWork } from "./work.js";

/** @typedef {import("../types.d.ts").Exploration} Exploration */
/** @typedef {import("../types.d.ts").Method} Method */
/** @typedef {import("../types.d.ts").Patch} Patch */
/** @typedef {import("./work.js").Start} Start */
/** @typedef {ReturnType<typeof useSession>} Session */

const OPACITY_STEP = 0.1;

/** @param {Exploration} first @param {URLSearchParams} query of its address. */
export function useSession(first, query) {
  const state = useMemo(() => new ViewState(readView(first.job.id, query)), []);
  const results = useMemo(() => new Results(first), []);
  const view = useView(state);
  const working = useWork();
  const [exploration, setExploration] = useState(first);
  const player = usePlayback(first, state);
  const whole = () => {
    working.stop("patch");
    working.stop("other patch");
    state.set({ patch: null });
  };
  useEffect(() => {
    if (view.target) first.ofTarget(view.target).then(show, () => state.set({ target: 0 }));
  }, []);
  const patch = checkedPatch(view.patch, exploration);
  const track = useTrack(exploration, view.layer, patch, results, working.start, "patch", whole);
  const shares = useMemo(() => sharesOf(exploration, track), [exploration, track]);
  const other = useOther(results, state, view.compare, patch, working.start);
  useAddress(results, state, setExploration, player);
  usePrefetch(exploration);
  /** @param {Exploration | null} found */
  const show = (found) => {
    if (!found) return;
    const isAlike = (methodOf(found) === "attention") === (methodOf(exploration) === "attention");
    setExploration(found);
    const { layer, patch } = state.current;
    state.set({ job: found.job.id, target: found.target, layer: isAlike ? layer : null, patch: found.isOfTokens ? patch : null });
  };
  const heat = useRef(/** @type {import("./heat_canvas.js").HeatCanvas | null} */ (null));
  const base = { first, state, results, view, exploration, player, patch, track, shares, other, whole, heat, ...working };
  return { ...base, ...abilities(base, show), canCompute: results.upload !== null, method: methodOf(exploration) };
}

/**
 * @typedef {{
 *   state: ViewState, results: Results, view: import("../types.d.ts").View, exploration: Exploration,
 *   player: import("./player.js").Player, start: Start, whole: () => void,
 * }} Base
 */

/** @param {Base} base @param {(found: Exploration | null) => void} show */
function abilities(base, show) {
  const { state, results, exploration, start } = base;
  const explaining = explainingOf(base, show);
  return {
    ...explaining,
    actions: actionsOf(base, explaining),
    closeCompare: () => state.set({ compare: null }),
    ask: exploration.isOfTokens && (exploration.hasFullRollout || results.upload) ? (/** @type {Patch} */ patch) => state.set({ patch, layer: null }) : null,
    measure: () => start("measure", "Measuring", (following) => results.measureFaithfulness(exploration, following)),
    /** Make a job that has all that this view needs, and go to it. */
    makeExplorable: async () => {
      const made = await start("answer", "Making it explorable", (following) => results.explainAgain(following));
      if (made) location.hash = jobAddress(made.job.id);
    },
    isReady: (/** @type {Method} */ method) => results.has({ method }) !== null,
  };
}

/** @typedef {ReturnType<typeof explainingOf>} Explaining */

/** @param {Base} base @param {(found: Exploration | null) => void} show */
function explainingOf({ state, results, start }, show) {
  /** @param {string} slot @param {import("./results.js").Asked} asked */
  const find = async (slot, asked) =>
    results.has(asked) ??
    start(slot, nameOfMap(asked.method, asked.target ?? null), (following) => results.explain(asked, following));
  /** @param {string} choice as in `ComparePicker`. */
  const findOther = (choice) => {
    const [kind, value] = choice.split(":");
    if (kind === "job") return start("other", "Opening the other job", () => results.open(value));
    if (kind === "class") return find("other", { method: "contribution_rollout", target: Number(value) });
    return find("other", { method: /** @type {Method} */ (value) });
  };
  return {
    /** @param {Method} method @param {number | null} [target] @param {import("../types.d.ts").Contrast} [contrast] */
    explain: async (method, target = null, contrast = {}) => show(await find("answer", { method, target, contrast })),
    /** @param {string} choice */
    pick: async (choice) => {
      const found = await findOther(choice);
      if (found) state.set({ compare: idOf(found) });
    },
  };
}

/** @param {Base} base @param {Explaining} explaining */
function actionsOf({ state, results, view, exploration, player, whole }, { explain, pick }) {
  const next = METHOD_NAMES[(METHOD_NAMES.indexOf(methodOf(exploration)) + 1) % METHOD_NAMES.length];
  return {
    ...playerActions(player, exploration.frames),
    heat: () => state.set({ shown: !view.shown }),
    lessOpacity: () => state.set({ opacity: stepped(view.opacity, -OPACITY_STEP) }),
    moreOpacity: () => state.set({ opacity: stepped(view.opacity, OPACITY_STEP) }),
    method: () => (results.upload || results.has({ method: next })) && explain(next),
    whole,
    compare: () => {
      state.set({ compare: view.compare === null ? "" : null });
      if (view.compare === null && results.upload) pick(`method:${next}`);
    },
  };
}

/**
 * What is compared with, and its heat.
 * @param {Results} results
 * @param {ViewState} state
 * @param {string | null} id
 * @param {Patch | null} patch
 * @param {Start} start
 */
function useOther(results, state, id, patch, start) {
  const [other, setOther] = useState(/** @type {Exploration | null} */ (null));
  useEffect(() => {
    let current = true;
    if (!id) return setOther(null);
    results.open(id).then(
      (found) => current && setOther(found),
      () => current && state.set({ compare: "" }),
    );
    return () => void (current = false);
  }, [id]);
  const isSame = other !== null && other.job.upload === results.upload;
  const ofPatch = other && isSame ? checkedPatch(patch, other) : null;
  const track = useTrack(other, state.current.layer, ofPatch, results, start, "other patch", () => {});
  return { exploration: id ? other : null, patch: ofPatch, track };
}

/**
 * Follow the address to another view of the same video; leave all others to the page.
 * @param {Results} results
 * @param {ViewState} state
 * @param {(exploration: Exploration) => void} setExploration
 * @param {import("./player.js").Player} player
 */
function useAddress(results, state, setExploration, player) {
  useEffect(() => {
    const follow = () => {
      const { job, query } = readRoute();
      const first = job && results.kept.get(job);
      if (!first) return;
      const view = readView(job, query);
      first.ofTarget(view.target).then(setExploration, () => setExploration(first));
      state.addressed = job;
      state.set(view);
      player.seek(view.seconds);
    };
    addEventListener("hashchange", follow);
    return () => {
      removeEventListener("hashchange", follow);
      state.close();
    };
  }, []);
}

/** Read the rollout of every token before it is asked for. @param {Exploration} exploration */
function usePrefetch(exploration) {
  useEffect(() => {
    if (!exploration.hasFullRollout) return undefined;
    const later = setTimeout(() => void exploration.patchHeat({ frame: 0, row: 0, column: 0 }).catch(() => {}), 800);
    return () => clearTimeout(later);
  }, [exploration]);
}

/** @param {Patch | null} patch @param {Exploration} exploration @returns {Patch | null} null if it has no such patch. */
function checkedPatch(patch, { frames, rows, columns, isOfTokens }) {
  return patch && isOfTokens && patch.frame < frames.length && patch.row < rows && patch.column < columns ? patch : null;
}

/** @param {number} value @param {number} step */
function stepped(value, step) {
  return Math.min(Math.max(Math.round((value + step) * 10) / 10, 0), 1);
}
