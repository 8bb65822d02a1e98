/** What can be taken along: every file, the present picture, and the lines that make this result. */

import { html, useEffect, useState } from "../vendor/preact-htm.js";
import { Icon } from "../icons.js";
import { artifactUrl } from "../api/client.js";
import { whoAmI } from "../api/session.js";
import { curlLines, pythonLines } from "../data/requests.js";
import { size } from "./words.js";

/** @typedef {import("../types.d.ts").Exploration} Exploration */

/** @param {{ exploration: Exploration, savePicture: (() => void) | null, link: () => string }} props */
export function Downloads({ exploration, savePicture, link }) {
  const { job } = exploration;
  const withKey = useKeysRequired();
  return html`<details class="fold">
    <summary>Take it with you</summary>
    <div class="take">
      <button class="button" type="button" disabled=${!savePicture} onClick=${savePicture}><${Icon} name="picture" />This picture</button>
      <${Copy} name="A link" icon="link" text=${link} />
    </div>
    <ul class="files">
      ${job.result?.artifacts.map(
        ({ name, bytes }) => html`<li key=${name}>
          <a href=${artifactUrl(job.id, name)} download=${name}>
            <${Icon} name="download" /><span class="clip">${name}</span><span class="small muted">${size(bytes)}</span>
          </a>
        </li>`,
      )}
    </ul>
    <${Lines} name="curl" text=${curlLines(job, { withKey })} />
    <${Lines} name="Python" text=${pythonLines(job, { withKey })} />
  </details>`;
}

/** @returns {boolean} whether others need a key for the lines. */
function useKeysRequired() {
  const [required, setRequired] = useState(false);
  useEffect(() => {
    whoAmI().then(
      (session) => setRequired(session?.keys_required ?? true),
      () => {},
    );
  }, []);
  return required;
}

/** @param {{ name: string, text: string }} props */
function Lines({ name, text }) {
  return html`<div class="lines">
    <header>
      <h3 class="small muted">The same with ${name}</h3>
      <${Copy} name="Copy" label=${`Copy the ${name} lines`} icon="copy" text=${() => text} />
    </header>
    <pre tabindex="0" aria-label=${`${name} lines`} role="region">${text}</pre>
  </div>`;
}

/** @param {{ name: string, label?: string, icon: import("../icons.js").IconName, text: () => string }} props */
function Copy({ name, label, icon, text }) {
  const [said, setSaid] = useState("");
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text());
      setSaid("Copied");
    } catch {
      // Only pages served over HTTPS, or by this machine, may write to the clipboard.
      prompt("Copy this:", text());
      return;
    }
    setTimeout(() => setSaid(""), 1600);
  };
  return html`<button class="button" type="button" aria-label=${label} onClick=${copy}>
    <${Icon} name=${icon} /><span aria-live="polite">${said || name}</span>
  </button>`;
}
