/** The jobs of this person, newest first. */

import { deleteJob, listJobs } from "../api/client.js";
import { pause } from "../api/pause.js";
import { Icon } from "../icons.js";
import { jobAddress } from "../route.js";
import { html, useEffect, useRef, useState } from "../vendor/preact-htm.js";
import { insist } from "./service.js";
import { Thumbnail } from "./thumbnail.js";
import { ago, shownName } from "./words.js";

/** @typedef {import("../types.d.ts").Job} Job */

const FIRST = 10;
const MORE = 24;
const LONGEST = 200;
const REFRESH_MS = 2000;

export function RecentJobs() {
  const { jobs, hasMore, showMore, remove } = useRecent();
  const heading = useRef(/** @type {HTMLElement | null} */ (null));
  if (!jobs.length) return null;

  /** @param {Job} job */
  async function removeCard(job) {
    await remove(job);
    heading.current?.focus();
  }

  return html`<section class="recent" aria-labelledby="recent-title">
    <h2 id="recent-title" ref=${heading} tabindex="-1">Recent</h2>
    <ul class="cards">
      ${jobs.map((job) => html`<${Card} key=${job.id} job=${job} onRemove=${removeCard} />`)}
    </ul>
    ${hasMore && html`<button class="button more" onClick=${showMore}>Show more</button>`}
  </section>`;
}

/** The newest jobs; looked at again while one of them has not ended. */
function useRecent() {
  const [jobs, setJobs] = useState(/** @type {Job[]} */ ([]));
  const [limit, setLimit] = useState(FIRST);
  const [hasMore, setMore] = useState(false);
  useEffect(() => {
    const stop = new AbortController();
    const { signal } = stop;
    async function watch() {
      for (;;) {
        const page = await insist(() => listJobs({ limit, signal }), { signal });
        setJobs(page.jobs);
        setMore(Boolean(page.next_cursor) && limit < LONGEST);
        if (page.jobs.every((job) => job.ended_at)) return;
        await pause(REFRESH_MS, signal);
      }
    }
    const start = () => document.hidden || watch().catch(() => null);
    start();
    document.addEventListener("visibilitychange", start, { signal });
    return () => stop.abort();
  }, [limit]);

  /** @param {Job} job */
  async function remove(job) {
    await insist(() => deleteJob(job.id)).catch(() => null);
    setJobs((jobs) => jobs.filter(({ id }) => id !== job.id));
  }
  return { jobs, hasMore, showMore: () => setLimit((limit) => Math.min(LONGEST, limit + MORE)), remove };
}

/** @param {{ job: Job, onRemove: (job: Job) => void }} properties */
function Card({ job, onRemove }) {
  const [isAsking, setAsking] = useState(false);
  const keep = useRef(/** @type {HTMLButtonElement | null} */ (null));
  const name = shownName(job.filename);
  useEffect(() => keep.current?.focus(), [isAsking]);
  return html`<li class="card">
    <a class="open" href=${jobAddress(job.id)}>
      <${Thumbnail} job=${job} />
      <span class="name clip" title=${name}><bdi>${name}</bdi></span>
      <span class="says clip">${saysOf(job)}</span>
      <span class="facts muted small clip">${job.model} · <time datetime=${job.created_at}>${ago(job.created_at)}</time></span>
    </a>
    ${isAsking
      ? html`<div class="asking" role="group" aria-label=${`Delete ${name}?`}>
          <p>Delete this result?</p>
          <button class="button danger" onClick=${() => onRemove(job)}>Delete</button>
          <button ref=${keep} class="button" onClick=${() => setAsking(false)}>Keep</button>
        </div>`
      : html`<button class="button remove" aria-label=${`Delete ${name}`} title="Delete" onClick=${() => setAsking(true)}>
          <${Icon} name="trash" />
        </button>`}
  </li>`;
}

/** @param {Job} job @returns what became of it. */
function saysOf(job) {
  const { state, result } = job;
  if (state === "succeeded" && result) {
    const best = result.predictions[0];
    if (!result.artifacts.length) return html`<span class="muted">Expired</span>`;
    return best && html`${best.label} <span class="muted">${percent(best.probability)}</span>`;
  }
  if (state === "failed") return html`<span class="error-text">Failed</span>`;
  if (state === "canceled") return html`<span class="muted">Canceled</span>`;
  return html`<span class="turning"></span>${state === "running" ? "Running" : "Waiting"}`;
}

/** @param {number} share */
function percent(share) {
  return `${Math.round(100 * share)} %`;
}
