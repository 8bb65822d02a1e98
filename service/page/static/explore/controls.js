/** The controls of the player, and the switches of the stage. */

import { html, useEffect, useRef, useState } from "../vendor/preact-htm.js";
import { Icon } from "../icons.js";
import { frameAt } from "./frames.js";
import { clock } from "./words.js";

/** @typedef {import("../types.d.ts").Exploration} Exploration */
/** @typedef {import("../types.d.ts").View} View */
/** @typedef {import("./player.js").Player} Player */

/**
 * @param {{
 *   exploration: Exploration, player: Player, view: View, actions: import("./keys.js").Actions,
 *   canPlay: boolean, choosing: boolean, outlined: boolean, outline: (on: boolean) => void,
 * }} props
 */
export function Controls({ exploration, player, view, actions, canPlay, choosing, outlined, outline }) {
  const playing = usePlaying(player);
  /**
   * @param {string} name
   * @param {import("../icons.js").IconName} icon
   * @param {boolean} on
   * @param {() => void} act
   * @param {string} key
   */
  const toggle = (name, icon, on, act, key) => html`<button
    class="button quiet"
    type="button"
    disabled=${!canPlay && key !== "C"}
    aria-pressed=${String(on)}
    title=${key ? `${name} (${key})` : name}
    onMouseDown=${keepFocus}
    onClick=${act}
  >
    <${Icon} name=${icon} /><span class="label">${name}</span>
  </button>`;
  return html`<div class="controls" role="group" aria-label="Player">
    <button
      class="button primary icon"
      type="button"
      disabled=${!canPlay}
      aria-label=${playing ? "Pause" : "Play"}
      title=${playing ? "Pause (K)" : "Play (K)"}
      onClick=${() => player.toggle()}
    >
      <${Icon} name=${playing ? "pause" : "play"} />
    </button>
    <${Clock} exploration=${exploration} player=${player} />
    <span class="fill"></span>
    ${toggle("Heat", "heat", view.shown, () => actions.heat(""), "H")}
    ${toggle("Model’s crop", "crop", outlined, () => outline(!outlined), "")}
    ${toggle("Ask a patch", "grid", choosing, () => actions.patches(""), "P")}
    ${toggle("Compare", "compare", view.compare !== null, () => actions.compare(""), "C")}
    <button
      class="button quiet icon"
      type="button"
      aria-label="Keys"
      title="Keys (?)"
      onClick=${() => actions.help("")}
    >
      <${Icon} name="help" />
    </button>
  </div>`;
}

/** Leave the focus where it is, for what would end when it loses it. @param {Event} event */
function keepFocus(event) {
  event.preventDefault();
}

/** Time and frame, without drawing anything else again. @param {{ exploration: Exploration, player: Player }} props */
function Clock({ exploration: { frames }, player }) {
  const text = useRef(/** @type {HTMLElement | null} */ (null));
  useEffect(() => {
    /** @param {number} seconds */
    const follow = (seconds) => {
      const [time, rest] = /** @type {Iterable<HTMLElement>} */ (text.current?.children ?? []);
      time.textContent = clock(seconds);
      rest.textContent = ` / ${clock(player.duration)} · frame ${frameAt(frames, seconds) + 1} of ${frames.length}`;
    };
    follow(player.wanted);
    return player.on("time", follow);
  }, [frames, player]);
  return html`<span class="time small" ref=${text}><span></span><span class="rest"></span></span>`;
}

/** @param {Player} player */
function usePlaying(player) {
  const [playing, setPlaying] = useState(player.playing);
  useEffect(() => {
    setPlaying(player.playing);
    return player.on("state", () => setPlaying(player.playing));
  }, [player]);
  return playing;
}
