/** Puts the stage, the panel and the timeline of an answer together. */

import { html, useEffect, useState } from "../vendor/preact-htm.js";
import { ComparePane, ComparePicker } from "./compare.js";
import { ContrastChoice } from "./contrast.js";
import { Controls } from "./controls.js";
import { Downloads } from "./downloads.js";
import { Faithfulness } from "./faithfulness.js";
import { Help } from "./help.js";
import { useKeys } from "./keys.js";
import { Layers } from "./layers.js";
import { Look } from "./look.js";
import { Matrix } from "./matrix.js";
import { Methods } from "./methods.js";
import { contrastOf, targetOf, titleOf } from "./titles.js";
import { Pane } from "./pane.js";
import { Panel } from "./panel.js";
import { Predictions } from "./predictions.js";
import { useSession } from "./session.js";
import { savePicture, takePicture } from "./snapshot.js";
import { AskedLine, LeadingVideo, NoPreview } from "./stage.js";
import { Timeline } from "./timeline.js";
import { addressOf } from "./view_state.js";
import { WorkLine } from "./work_line.js";

/** @typedef {import("../types.d.ts").Exploration} Exploration */
/** @typedef {import("./session.js").Session} Session */
/** @typedef {ReturnType<typeof useModes>} Modes */

/** @param {{ first: Exploration, query: URLSearchParams }} props */
export function Exploring({ first, query }) {
  const session = useSession(first, query);
  const modes = useModes();
  useKeys({ ...session.actions, patches: modes.togglePatches, help: modes.toggleHelp });
  useHook(session);
  return html`<main class=${session.view.compare === null ? "explore" : "explore comparing"}>
    <${StageArea} session=${session} modes=${modes} />
    <${PanelArea} session=${session} />
    <${Across} session=${session} modes=${modes} />
    ${modes.helping && html`<${Help} close=${modes.toggleHelp} />`}
  </main>`;
}

/** What is on for a moment, and not part of the view that a link reopens. */
function useModes() {
  const [choosing, choose] = useState(false);
  const [outlined, outline] = useState(false);
  const [helping, help] = useState(false);
  return { choosing, choose, outlined, outline, helping, togglePatches: () => choose(!choosing), toggleHelp: () => help(!helping) };
}

/** @param {{ session: Session, modes: Modes }} props */
function StageArea({ session, modes }) {
  const { exploration, player, view, patch, track, other, whole } = session;
  const { choosing, choose, outlined } = modes;
  const pane = { view, choosing, choose, outlined, ask: session.ask };
  const url = session.first.previewUrl;
  const comparing = view.compare !== null;
  const picker = html`<${ComparePicker} exploration=${exploration} other=${other.exploration} canCompute=${session.canCompute}
    pick=${session.pick} close=${session.closeCompare} />`;
  return html`<div class="stage">
    <div class="panes">
      ${url
        ? html`<${Pane} exploration=${exploration} player=${player} track=${track} patch=${patch} ...${pane} heat=${session.heat}
            picture=${html`<${LeadingVideo} url=${url} player=${player} autoplay=${view.seconds === 0 && !prefersStillness()} />`}
            caption=${comparing && html`<span class="clip">${titleOf(exploration)}</span>`} />`
        : html`<${NoPreview} exploration=${exploration} canCompute=${session.canCompute} isBusy=${session.work !== null}
            make=${session.makeExplorable} />`}
      ${comparing &&
      html`<${ComparePane} exploration=${exploration} player=${player} hasVideo=${url !== null} other=${other.exploration} caption=${picker}
        pane=${{ ...pane, choosing: false, track: other.track, patch: other.patch }} />`}
    </div>
    ${patch && html`<${AskedLine} patch=${patch} whole=${whole} />`}
    <${WorkLine} ...${session} />
  </div>`;
}

/** @param {{ session: Session }} props */
function PanelArea({ session }) {
  const { exploration, player, state, canCompute, explain, method } = session;
  return html`<${Panel} exploration=${exploration}>
    <${Predictions} predictions=${exploration.job.result?.predictions ?? []} target=${targetOf(exploration)?.index ?? null}
      explainClass=${canCompute || exploration.targets.length > 1 ? (/** @type {any} */ { index }) => explain(methodForClass(method), index, method === "difference" ? contrastOf(exploration) : {}) : null} />
    <${Methods} method=${method} choose=${explain} isReady=${session.isReady} canCompute=${canCompute}>
      <${ContrastChoice} exploration=${exploration} canCompute=${canCompute}
        choose=${(/** @type {import("../types.d.ts").Contrast} */ contrast) => explain(method, targetOf(exploration)?.index ?? null, contrast)} />
    <//>
    ${session.first.previewUrl && html`<${Heat} session=${session} />`}
    <${Matrix} exploration=${exploration} player=${player} />
    <${Faithfulness} exploration=${exploration} canCompute=${canCompute} isBusy=${session.work !== null} measure=${session.measure} />
    <${Downloads} exploration=${exploration} link=${() => new URL(addressOf(state.current), location.href).href}
      savePicture=${session.first.previewUrl ? () => saveView(session) : null} />
  <//>`;
}

/** @param {import("../types.d.ts").Method} method @returns {import("../types.d.ts").Method} the method for a class that is chosen. */
function methodForClass(method) {
  return method === "difference" || method === "gradient_rollout" ? method : "contribution_rollout";
}

/** Which heat is shown, and how. @param {{ session: Session }} props */
function Heat({ session: { exploration, method, patch, state, view } }) {
  return html`<${Layers} count=${exploration.layers} isAlone=${method === "attention"} layer=${view.layer} isPatch=${patch !== null}
      choose=${(/** @type {number | null} */ layer) => state.set({ layer })} />
    <${Look} style=${view} change=${(/** @type {object} */ changes) => state.set(changes)} />`;
}

/** @param {{ session: Session, modes: Modes }} props */
function Across({ session, modes }) {
  const { exploration, player, view, shares, patch, actions, first } = session;
  return html`<div class="across">
    <${Controls} exploration=${exploration} player=${player} view=${view} canPlay=${first.previewUrl !== null}
      actions=${{ ...actions, patches: modes.togglePatches, help: modes.toggleHelp }} ...${modes} />
    <div class="strip">
      <${Timeline} exploration=${exploration} player=${player} shares=${shares} asked=${patch?.frame ?? null} />
      <${Matrix} exploration=${exploration} player=${player} />
    </div>
  </div>`;
}

/** @param {Session} session */
function saveView({ exploration, player, heat, patch, view }) {
  if (!player.video || !heat.current) return;
  const picture = takePicture(exploration, player.video, heat.current.canvas, patch, view);
  savePicture(picture, `rollout-${exploration.job.id.slice(0, 8)}-${player.seconds.toFixed(2)}s.png`);
}

/** For tests and measurements, in the console too: `__rollout.drawMilliseconds()`. @param {Session} session */
function useHook({ player, heat, state }) {
  useEffect(() => {
    const hook = { player, state, drawMilliseconds: () => heat.current?.median(), heat };
    Object.assign(window, { __rollout: hook });
  }, [player]);
}

function prefersStillness() {
  return matchMedia("(prefers-reduced-motion: reduce)").matches;
}
