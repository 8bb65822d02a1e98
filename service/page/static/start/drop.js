/** A video from anywhere: dropped on the window, pasted, or chosen. */

import { useEffect, useState } from "../vendor/preact-htm.js";
import { send } from "./sending.js";

/** @returns {boolean} whether something is held over the window that could be dropped. */
export function useDrop() {
  const [isOver, setOver] = useState(false);
  useEffect(() => {
    const ended = new AbortController();
    const { signal } = ended;
    /** @type {number | undefined} */
    let timer;
    const leave = () => setOver(false);

    addEventListener(
      "dragover",
      (event) => {
        if (!hasFiles(event.dataTransfer)) return;
        event.preventDefault();
        setOver(true);
        // It is told many times a second while something is held; not when it has left the window.
        clearTimeout(timer);
        timer = setTimeout(leave, 300);
      },
      { signal },
    );
    addEventListener(
      "drop",
      (event) => {
        if (!hasFiles(event.dataTransfer)) return;
        event.preventDefault();
        leave();
        take(event.dataTransfer);
      },
      { signal },
    );
    addEventListener("paste", (event) => hasFiles(event.clipboardData) && take(event.clipboardData), { signal });
    return () => ended.abort();
  }, []);
  return isOver;
}

/** @param {DataTransfer | null} data */
function hasFiles(data) {
  return Boolean(data?.types.includes("Files"));
}

/** @param {DataTransfer | null} data */
function take(data) {
  const file = data?.files[0];
  if (file) send(file);
}
