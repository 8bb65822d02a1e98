/** Asks for the API key, once: the service gives a cookie for it. */

import { Problem } from "../api/client.js";
import { logIn } from "../api/session.js";
import { Icon } from "../icons.js";
import { html, useEffect, useRef, useState } from "../vendor/preact-htm.js";
import { session } from "./service.js";

/** The view of a person who has not been here before. */
export function KeyPage() {
  return html`<main class="key-page"><${KeyForm} title="This service needs a key" /></main>`;
}

/** Asks again, above a view whose session has ended; the view then goes on. */
export function KeyDialog() {
  const dialog = useRef(/** @type {HTMLDialogElement | null} */ (null));
  useEffect(() => dialog.current?.showModal(), []);
  return html`<dialog class="key-dialog" ref=${dialog} aria-labelledby="key-title" onCancel=${stay}>
    <${KeyForm} title="Your session has ended" />
  </dialog>`;
}

/** @param {{ title: string }} properties */
function KeyForm({ title }) {
  const field = useRef(/** @type {HTMLInputElement | null} */ (null));
  const [failure, setFailure] = useState(/** @type {string | null} */ (null));
  const [isBusy, setBusy] = useState(false);
  useEffect(() => field.current?.focus(), []);

  /** @param {Event} event */
  async function submit(event) {
    event.preventDefault();
    const key = field.current?.value.trim() ?? "";
    if (isBusy) return;
    setBusy(true);
    setFailure(null);
    try {
      if (!key) throw new Problem({ status: 401 });
      session.set(await logIn(key));
    } catch (problem) {
      setFailure(sentenceOf(problem, key));
      setBusy(false);
      field.current?.select();
    }
  }

  return html`<form class="key-form" onSubmit=${submit}>
    <${Icon} name="key" />
    <h1 id="key-title">${title}</h1>
    <p class="muted">
      Enter your API key. You have it from the people who run this service. This browser then stays logged in until you log out.
    </p>
    <label class="field">
      API key
      <input ref=${field} class="input" type="password" name="key" autocomplete="current-password" spellcheck=${false}
        aria-invalid=${failure ? "true" : "false"} aria-describedby="key-failure" />
    </label>
    <p id="key-failure" class="error-text small" role="alert">${failure}</p>
    <button class="button primary" disabled=${isBusy}>${isBusy ? "Looking…" : "Go on"}</button>
  </form>`;
}

/** @param {unknown} problem @param {string} key */
function sentenceOf(problem, key) {
  if (!key) return "Enter the key first.";
  if (!(problem instanceof Problem)) return "That did not work. Try again.";
  return problem.status === 401 ? "The service does not know this key. Check that you copied all of it." : problem.sentence;
}

/** @param {Event} event Without a key there is nothing to go back to. */
function stay(event) {
  event.preventDefault();
}
