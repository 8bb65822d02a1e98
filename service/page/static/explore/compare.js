/** The second pane: another method, class or job, in step with the first. */

import { html, useEffect, useMemo, useRef, useState } from "../vendor/preact-htm.js";
import { Icon } from "../icons.js";
import { listJobs } from "../api/client.js";
import { CLASS_CONTRIBUTIONS, METHOD_NAMES, METHODS } from "../methods.js";
import { idOf, methodOf, targetOf } from "./titles.js";
import { Pane } from "./pane.js";
import { playerOf } from "./player.js";
import { SameFrame, StillPicture } from "./stage.js";

/** @typedef {import("../types.d.ts").Exploration} Exploration */
/** @typedef {import("../types.d.ts").Job} Job */
/** @typedef {import("./player.js").Player} Player */

/** How far the second video may be away while it plays. */
const SLACK_SECONDS = 0.12;

/**
 * What to compare with: `method:NAME`, `class:INDEX` or `job:ID`.
 * @param {{
 *   exploration: Exploration, other: Exploration | null, canCompute: boolean,
 *   pick: (choice: string) => void, close: () => void,
 * }} props
 */
export function ComparePicker({ exploration, other, canCompute, pick, close }) {
  const jobs = useRecentJobs(exploration.job);
  const chosen = other ? choiceOf(other, exploration.job.upload) : "";
  const classes = exploration.job.result?.predictions ?? [];
  /** @param {Event} event */
  const change = (event) => pick(/** @type {HTMLSelectElement} */ (event.currentTarget).value);
  const isUnlisted = other && chosen === `job:${other.job.id}` && !jobs.some(({ id }) => id === other.job.id);
  /** @param {Job} job */
  const jobOption = (job) => option(`job:${job.id}`, jobName(job), chosen);
  return html`<div class="picker">
    <select class="select" aria-label="Compare with" value=${chosen} onChange=${change}>
      ${!chosen && html`<option value="" disabled selected>Compare with …</option>`}
      ${isUnlisted && jobOption(other.job)}
      <optgroup label="This video" disabled=${!canCompute}>
        ${METHOD_NAMES.map((name) => option(`method:${name}`, METHODS[name].name, chosen))}
        ${classes.map(({ index, label }) => option(`class:${index}`, `${CLASS_CONTRIBUTIONS}: ${label}`, chosen))}
      </optgroup>
      ${jobs.length > 0 && html`<optgroup label="Other jobs">${jobs.map(jobOption)}</optgroup>`}
    </select>
    <button class="button quiet icon" type="button" aria-label="Close the comparison" onClick=${close}><${Icon} name="cross" /></button>
  </div>`;
}

/**
 * @param {{
 *   exploration: Exploration, player: Player, hasVideo: boolean, other: Exploration | null, caption: unknown, pane: any,
 * }} props `other`: null until it is chosen and loaded; `pane`: how heat and patches are shown.
 */
export function ComparePane({ exploration, player, hasVideo, other, caption, pane }) {
  /** @param {unknown} content */
  const still = (content) => html`<figure class="pane">
    <figcaption>${caption}</figcaption>
    <div class="room">${content}</div>
  </figure>`;
  if (!other) return still(html`<p class="muted">The second picture appears here.</p>`);
  const isSame = other.job.upload !== null && other.job.upload === exploration.job.upload;
  if (isSame && hasVideo) {
    const picture = html`<${SameFrame} player=${player} />`;
    return html`<${Pane}
      key=${idOf(other)}
      exploration=${other}
      player=${player}
      picture=${picture}
      caption=${caption}
      ...${pane}
    />`;
  }
  if (!other.previewUrl) return still(html`<${StillPicture} exploration=${other} />`);
  return html`<${Follower} key=${other.job.id} leader=${player} other=${other} caption=${caption} pane=${pane} />`;
}

/** @param {{ leader: Player, other: Exploration, caption: unknown, pane: any }} props */
function Follower({ leader, other, caption, pane }) {
  const follower = useMemo(() => playerOf(other), [other]);
  const video = useRef(/** @type {HTMLVideoElement | null} */ (null));
  useEffect(() => {
    if (!video.current) return undefined;
    video.current.muted = true;
    follower.attach(video.current);
    return () => follower.detach();
  }, [follower]);
  useFollowing(leader, follower);
  const picture = html`<video
    class="frame"
    ref=${video}
    src=${other.previewUrl}
    crossorigin="anonymous"
    muted
    playsinline
    preload="auto"
    tabindex="-1"
    aria-hidden="true"
  ></video>`;
  return html`<${Pane}
    exploration=${other}
    player=${follower}
    picture=${picture}
    caption=${caption}
    ...${pane}
    ask=${null}
    patch=${null}
  />`;
}

/** One clock: the second video is where the first is, or at its own end. @param {Player} leader @param {Player} follower */
function useFollowing(leader, follower) {
  useEffect(() => {
    const follow = () => {
      const seconds = leader.wanted;
      const isOver = seconds > follower.duration - follower.frameSeconds;
      if (leader.playing && !isOver) {
        if (Math.abs((follower.video?.currentTime ?? seconds) - seconds) > SLACK_SECONDS) follower.seek(seconds);
        if (!follower.playing) follower.play();
      } else {
        follower.pause();
        if (Math.abs(follower.wanted - seconds) > 0.001) follower.seek(seconds);
      }
    };
    follow();
    const ends = [leader.on("time", follow), leader.on("state", follow)];
    return () => ends.forEach((end) => end());
  }, [leader, follower]);
}

/** @param {Job} job @returns {Job[]} other jobs that have succeeded, the newest first. */
function useRecentJobs(job) {
  const [jobs, setJobs] = useState(/** @type {Job[]} */ ([]));
  useEffect(() => {
    let current = true;
    listJobs({ state: "succeeded", limit: 20 }).then(
      (page) => current && setJobs(page.jobs.filter((one) => one.id !== job.id && one.result?.artifacts.length)),
      () => {},
    );
    return () => void (current = false);
  }, [job.id]);
  return jobs.filter((one) => one.upload === null || one.upload !== job.upload);
}

/** @param {Exploration} other @param {string | null} upload */
function choiceOf(other, upload) {
  if (other.job.upload === null || other.job.upload !== upload) return `job:${other.job.id}`;
  const target = targetOf(other);
  const method = methodOf(other);
  return target && method === "contribution_rollout" ? `class:${target.index}` : `method:${method}`;
}

/** @param {string} value @param {string} name @param {string} chosen */
function option(value, name, chosen) {
  return html`<option key=${value} value=${value} selected=${value === chosen}>${name}</option>`;
}

/** @param {Job} job */
function jobName(job) {
  const method = METHODS[job.request.method ?? "rollout"].name;
  const time = new Date(job.created_at).toLocaleString(undefined, { dateStyle: "short", timeStyle: "short" });
  return `${job.filename ?? "A video"} · ${method} · ${time}`;
}

