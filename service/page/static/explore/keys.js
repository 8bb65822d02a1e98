/** The keys of this view: those of video players. One table serves the listener and the help. */

import { useEffect } from "../vendor/preact-htm.js";

/** @typedef {{ keys: string[], shown: string[], text: string, name: string }} Key */

/** Names are those of the actions given to `useKeys`. @type {Key[]} */
export const KEYS = [
  { name: "toggle", keys: [" ", "k"], shown: ["Space", "K"], text: "Play or pause" },
  { name: "back", keys: ["j"], shown: ["J"], text: "Back 2 seconds" },
  { name: "forward", keys: ["l"], shown: ["L"], text: "Forward 2 seconds" },
  { name: "frameBack", keys: ["ArrowLeft"], shown: ["←"], text: "One frame back" },
  { name: "frameForward", keys: ["ArrowRight"], shown: ["→"], text: "One frame forward" },
  { name: "sampledBack", keys: [","], shown: [","], text: "To the frame before that the model saw" },
  { name: "sampledForward", keys: ["."], shown: ["."], text: "To the next frame that the model saw" },
  { name: "first", keys: ["Home"], shown: ["Home"], text: "To the start" },
  { name: "last", keys: ["End"], shown: ["End"], text: "To the end" },
  { name: "tenth", keys: [..."0123456789"], shown: ["0", "–", "9"], text: "To a tenth of the video" },
  { name: "heat", keys: ["h"], shown: ["H"], text: "Heat on or off" },
  { name: "lessOpacity", keys: ["["], shown: ["["], text: "Heat more transparent" },
  { name: "moreOpacity", keys: ["]"], shown: ["]"], text: "Heat more opaque" },
  { name: "method", keys: ["m"], shown: ["M"], text: "Next method" },
  { name: "patches", keys: ["p"], shown: ["P"], text: "Choose a patch: arrows move, Enter asks" },
  { name: "whole", keys: ["Escape"], shown: ["Esc"], text: "Back to the whole answer" },
  { name: "compare", keys: ["c"], shown: ["C"], text: "Compare side by side" },
  { name: "help", keys: ["?"], shown: ["?"], text: "Show these keys" },
];

/** @typedef {Record<string, (key: string) => void>} Actions */

/**
 * Call the action of each key that is pressed, unless the control with the focus needs the key itself.
 * @param {Actions} actions
 */
export function useKeys(actions) {
  useEffect(() => {
    /** @param {KeyboardEvent} event */
    const press = (event) => {
      const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
      const found = KEYS.find((one) => one.keys.includes(key));
      if (!found || !actions[found.name] || isTaken(event, key)) return;
      event.preventDefault();
      actions[found.name](key);
    };
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  });
}

const FIELDS = "textarea, select, [contenteditable], input:not([type=range], [type=checkbox], [type=radio])";
const PRESSED_BY_SPACE = "button, summary, input, [role=button]";
const MOVED_BY_KEYS = "input[type=range], input[type=radio]";

/** @param {KeyboardEvent} event @param {string} key */
function isTaken(event, key) {
  const { target } = event;
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return true;
  if (!(target instanceof Element)) return false;
  if (target.closest("dialog") || target.matches(FIELDS)) return true;
  if (key === " " && target.matches(PRESSED_BY_SPACE)) return true;
  return (key.startsWith("Arrow") || key === "Home" || key === "End") && target.matches(MOVED_BY_KEYS);
}
