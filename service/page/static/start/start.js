/** The first view: a video in, or a finished job again. */

import { Icon } from "../icons.js";
import { html, useRef } from "../vendor/preact-htm.js";
import { choices } from "./choices.js";
import { useModels } from "./models.js";
import { Options, spanObjection } from "./options.js";
import { RecentJobs } from "./recent.js";
import { refusal, send, SENDING_ADDRESS, sending, sendSample } from "./sending.js";
import { useStore } from "./store.js";
import { shownName } from "./words.js";

const ACCEPTED = "video/*,.mkv,.mov,.avi,.ts,.m2ts,.mts,.webm,.mp4,.m4v";

/** @param {{ isOver: boolean }} properties Whether a file is held over the window. */
export function Start({ isOver }) {
  const models = useModels();
  return html`<main class="start">
    <section class=${isOver ? "drop over" : "drop"} aria-label="A video">
      <div class="hero">
        <h1>What did the model look at?</h1>
        <p class="lead">Drop a video here. The page shows which parts of it the model used to name what it sees.</p>
        <${Buttons} />
        <${Remarks} models=${models} />
      </div>
      <${Options} models=${models} />
    </section>
    <${OnItsWay} />
    <${RecentJobs} />
  </main>`;
}

function Buttons() {
  const input = useRef(/** @type {HTMLInputElement | null} */ (null));
  const wrong = spanObjection(useStore(choices));

  /** @param {any} event */
  function take(event) {
    const [file] = event.target.files;
    event.target.value = "";
    if (file) send(file);
  }

  return html`<div class="buttons">
    <input ref=${input} class="unseen" type="file" accept=${ACCEPTED} tabindex="-1" aria-label="Video" onChange=${take} />
    <button class="button primary large" disabled=${Boolean(wrong)} onClick=${() => input.current?.click()}>
      <${Icon} name="upload" />Choose a video
    </button>
    <button class="button large" disabled=${Boolean(wrong)} onClick=${sendSample}><${Icon} name="play" />Try the sample</button>
  </div>`;
}

/** @param {{ models: import("../types.d.ts").ServedModel[] | null }} properties */
function Remarks({ models }) {
  const wrong = useStore(refusal) ?? spanObjection(useStore(choices));
  const calm = models && remarkOn(models);
  return html`<div class="remarks">
    <p role="alert" class="error-text">${wrong}</p>
    <p role="status" class="muted">${!wrong && calm}</p>
  </div>`;
}

/** The upload that goes on while one looks at something else. */
function OnItsWay() {
  const now = useStore(sending);
  if (!now) return null;
  return html`<a class="on-its-way" href=${SENDING_ADDRESS}>
    <span class="clip"><bdi>${shownName(now.file.name)}</bdi></span>
    <span class="muted small">${now.failure ? "could not be sent" : "is being sent"}</span>
    <progress aria-label="Upload" max=${now.file.size} value=${now.sent}></progress>
  </a>`;
}

/** @param {import("../types.d.ts").ServedModel[]} models */
function remarkOn(models) {
  if (models.length === 0) return "No model is running right now, so no video can be explained. This page looks again by itself.";
  if (models.some((model) => model.ready)) return null;
  return "The model is still being loaded. You can send a video now: it waits until the model is ready.";
}
