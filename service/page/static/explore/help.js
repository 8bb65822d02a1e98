/** The list of keys. */

import { html, useEffect, useRef } from "../vendor/preact-htm.js";
import { Icon } from "../icons.js";
import { KEYS } from "./keys.js";

/** @param {{ close: () => void }} props */
export function Help({ close }) {
  const dialog = useRef(/** @type {HTMLDialogElement | null} */ (null));
  useEffect(() => dialog.current?.showModal(), []);
  /** @param {MouseEvent} event */
  const besides = (event) => event.target === dialog.current && dialog.current?.close();
  return html`<dialog class="help" ref=${dialog} aria-labelledby="help-title" onClose=${close} onClick=${besides}>
    <header>
      <h2 id="help-title">Keys</h2>
      <button class="button quiet icon" type="button" aria-label="Close" onClick=${() => dialog.current?.close()}>
        <${Icon} name="cross" />
      </button>
    </header>
    <dl>
      ${KEYS.map(
        ({ shown, text }) => html`<div key=${text}>
          <dt>${shown.map((key) => (key === "–" ? " – " : html`<kbd key=${key}>${key}</kbd> `))}</dt>
          <dd>${text}</dd>
        </div>`,
      )}
    </dl>
  </dialog>`;
}
