/** The view of a job that has succeeded. */

import { html, useEffect, useState } from "../vendor/preact-htm.js";
import { loadExploration } from "../data/exploration.js";
import { Exploring } from "./exploring.js";
import { sentenceOf } from "./work.js";

/** @typedef {import("../types.d.ts").Exploration} Exploration */

const EXPIRED = "The files of this job have been removed, because they were old. Explain the video again to see them.";

/** The style of this view comes with it, so that the first view need not wait for it. */
const styled = new Promise((resolve) => {
  const link = document.createElement("link");
  link.rel = "stylesheet";
  link.href = new URL("../style/explore.css", import.meta.url).href;
  link.onload = link.onerror = resolve;
  document.head.append(link);
});

/**
 * Reads what the view shows at first, so that it can replace another view at once.
 *
 * @param {import("../types.d.ts").Job} job
 * @param {{ signal?: AbortSignal }} [options]
 * @returns {Promise<Exploration>}
 */
export async function openExploration(job, { signal } = {}) {
  const [exploration] = await Promise.all([loadExploration(job, { signal }), styled]);
  return exploration;
}

/** @param {{ job: import("../types.d.ts").Job, query: URLSearchParams, exploration?: Exploration | null }} props */
export function Explore({ job, query, exploration = null }) {
  const [found, setFound] = useState(/** @type {{ exploration?: Exploration, failure?: string }} */ (exploration ? { exploration } : {}));
  const isExpired = job.result?.artifacts.length === 0;
  useEffect(() => {
    if (exploration?.job.id === job.id) return undefined;
    const abort = new AbortController();
    setFound({});
    if (isExpired) return undefined;
    openExploration(job, { signal: abort.signal }).then(
      (exploration) => setFound({ exploration }),
      (error) => abort.signal.aborted || setFound({ failure: sentenceOf(error) }),
    );
    return () => abort.abort();
  }, [job.id]);
  if (isExpired) return html`<${Message} text=${EXPIRED} />`;
  if (found.failure) return html`<${Message} text=${found.failure} />`;
  if (!found.exploration || found.exploration.job.id !== job.id) return html`<${Loading} />`;
  return html`<${Exploring} key=${job.id} first=${found.exploration} query=${query} />`;
}

function Loading() {
  return html`<main class="explore loading" aria-busy="true">
    <div class="stage"><p class="muted" role="status"><span class="spinner" aria-hidden="true"></span>Opening the answer</p></div>
  </main>`;
}

/** @param {{ text: string }} props */
function Message({ text }) {
  return html`<main class="explore loading">
    <div class="stage"><p role="alert">${text}</p><a class="button primary" href="#">Explain a video</a></div>
  </main>`;
}
