/** Says above any view that a file was not accepted. */

import { Icon } from "../icons.js";
import { html } from "../vendor/preact-htm.js";
import { refusal } from "./sending.js";
import { useStore } from "./store.js";

export function Refused() {
  const sentence = useStore(refusal);
  return html`<div class="refused" role="alert">
    ${sentence &&
    html`<p>${sentence}</p>
      <button class="button quiet" aria-label="Close" onClick=${() => refusal.set(null)}><${Icon} name="cross" /></button>`}
  </div>`;
}
