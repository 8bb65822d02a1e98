/**
 * The results for one video: each method and class is computed once, by a job on the same upload, and
 * kept.
 */

import { createJob, failureSentence, getJob } from "../api/client.js";
import { followJob } from "../api/follow.js";
import { loadExploration } from "../data/exploration.js";
import { explorationRequest } from "../data/requests.js";
import { contrastOf, idOf, methodOf, targetOf } from "./titles.js";

/** @typedef {import("../types.d.ts").Exploration} Exploration */
/** @typedef {import("../types.d.ts").ExplainRequest} ExplainRequest */
/** @typedef {import("../types.d.ts").Job} Job */
/** @typedef {import("../types.d.ts").Method} Method */
/** @typedef {import("../types.d.ts").Patch} Patch */
/** @typedef {import("../types.d.ts").Contrast} Contrast */
/** @typedef {{ signal?: AbortSignal, onJob?: (job: Job) => void }} Following */
/**
 * @typedef {object} Asked
 * @property {Method} method
 * @property {number | null} [target] null: the class that is predicted.
 * @property {Contrast} [contrast]
 */

/** What of a request says which part of the video is explained, and how it is read. */
const READING = ["sampling", "clips", "start_seconds", "end_seconds", "stream", "allow_incomplete"];

export class Results {
  /** @param {Exploration} first */
  constructor(first) {
    this.upload = first.job.upload;
    this.first = first;
    /** By what was asked, and by id. @type {Map<string, Exploration>} */
    this.kept = new Map();
    this.keep(first);
  }

  /** @param {Exploration} exploration */
  keep(exploration) {
    const asked = { method: methodOf(exploration), contrast: contrastOf(exploration) };
    if (isOfWhole(exploration.job.request)) {
      this.kept.set(nameOf({ ...asked, target: targetOf(exploration)?.index ?? null }), exploration);
      if ((exploration.job.request.target ?? null) === null) this.kept.set(nameOf(asked), exploration);
    }
    this.kept.set(idOf(exploration), exploration);
  }

  /** @param {Asked} asked */
  has(asked) {
    return this.kept.get(nameOf(asked)) ?? null;
  }

  /** @param {string} id as in `idOf`, of a job on this upload or another. @returns {Promise<Exploration>} */
  async open(id) {
    const kept = this.kept.get(id);
    if (kept) return kept;
    const [job, place = "0"] = id.split(":");
    const first = this.kept.get(job) ?? (await loadExploration(await getJob(job)));
    const exploration = await first.ofTarget(Number(place));
    this.kept.set(job, first);
    this.kept.set(id, exploration);
    return exploration;
  }

  /**
   * @param {Asked} asked
   * @returns {Promise<Exploration | null>} the map of a class that a job has beside others; null if none has.
   */
  async amongOthers(asked) {
    for (const kept of this.kept.values()) {
      const place = kept.targets.findIndex(({ index }) => index === asked.target);
      if (place < 0 || !isOfWhole(kept.job.request) || kept.job.upload !== this.upload) continue;
      if (nameOf({ ...asked, method: methodOf(kept), contrast: contrastOf(kept) }) !== nameOf(asked)) continue;
      const exploration = await kept.ofTarget(place);
      this.keep(exploration);
      return exploration;
    }
    return null;
  }

  /**
   * @param {Asked} asked
   * @param {Following} following
   */
  async explain(asked, following) {
    const kept = this.has(asked) ?? (await this.amongOthers(asked));
    if (kept) return kept;
    const { method, target = null, contrast = {} } = asked;
    const explained = target === null ? {} : { target: this.targets(method, target, contrast.against) };
    // Without the overlay video, which takes most of the time of a job; the page draws the same.
    const options = { ...reading(this.first), method, overlay: null, ...explained, ...contrast };
    const exploration = await this.run(explorationRequest(modelOf(this.first), options), following);
    this.keep(exploration);
    if (target === null) this.kept.set(nameOf(asked), exploration);
    return exploration;
  }

  /**
   * Class contributions of all predicted classes cost as much as those of one.
   * @param {Method} method
   * @param {number} target
   * @param {number | string} [against] which cannot be explained against itself.
   */
  targets(method, target, against) {
    if (method !== "contribution_rollout") return target;
    const predicted = this.first.job.result?.predictions.map(({ index }) => index) ?? [];
    return [target, ...predicted.filter((index) => index !== target && index !== against)];
  }

  /**
   * What one patch attended to, by a job.
   * @param {Exploration} exploration
   * @param {Patch} patch
   * @param {Following} following
   */
  async askPatch(exploration, { frame, row, column }, following) {
    const { clip, t } = exploration.frames[frame];
    const name = `${exploration.job.id} ${frame}:${row}:${column}`;
    const kept = this.kept.get(name);
    if (kept) return kept;
    const query = { clip, frame: t, row, column };
    const answer = await this.run({ ...sameAs(exploration), query, overlay: null }, following);
    this.kept.set(name, answer);
    return answer;
  }

  /** @param {Exploration} exploration @param {Following} following */
  async measureFaithfulness(exploration, following) {
    if (exploration.result.faithfulness && !exploration.target) return exploration.result.faithfulness;
    const name = `${idOf(exploration)} faithfulness`;
    const target = targetOf(exploration);
    const request = { ...sameAs(exploration), ...(target && { target: target.index }), query: "cls", faithfulness: true, overlay: null };
    const kept = this.kept.get(name) ?? (await this.run(request, following));
    this.kept.set(name, kept);
    return kept.result.faithfulness;
  }

  /** The same request once more, with all that this view needs. @param {Following} following */
  explainAgain(following) {
    const { query } = this.first.job.request;
    return this.run(explorationRequest(modelOf(this.first), { ...sameAs(this.first), query }), following);
  }

  /**
   * @param {ExplainRequest} request
   * @param {Following} following
   * @returns {Promise<Exploration>}
   */
  async run(request, { signal, onJob = () => {} }) {
    if (!this.upload) throw new Error("The video is no longer stored. Upload it again to compute more.");
    const asked = without({ ...request, model: this.first.job.model }, [null, undefined]);
    if (request.overlay === null) asked.overlay = null;
    const made = await createJob({ ...asked, upload: this.upload });
    onJob(made);
    const job = made.ended_at ? made : await followJob(made.id, onJob, { signal });
    if (job.state !== "succeeded") throw new Error(job.state === "canceled" ? "Canceled." : failureSentence(job.error));
    return loadExploration(job);
  }
}

/**
 * What `explorationRequest` reads of a model, from a result: also where no worker serves the model now.
 * @param {Exploration} exploration
 * @returns {any}
 */
function modelOf({ job, rows, columns }) {
  const { frames = 0, clips = 1 } = job.result ?? {};
  const tokens = { frames: frames / clips, height: rows, width: columns, patch_height: 1, patch_width: 1 };
  return { name: job.model, spec: tokens };
}

/** @param {Exploration} exploration @returns {ExplainRequest} with the options of its method. */
function sameAs({ job }) {
  const { per_layer, full_rollout, faithfulness, preview, query, upload, tag, reuse, webhook, ...request } = job.request;
  return request;
}

/** @param {Exploration} exploration @returns {ExplainRequest} */
function reading({ job }) {
  return Object.fromEntries(READING.map((name) => [name, job.request[name]]));
}

/** @param {ExplainRequest} request @param {unknown[]} values @returns {ExplainRequest} */
function without(request, values) {
  return Object.fromEntries(Object.entries(request).filter(([, value]) => !values.includes(value)));
}

/** @param {ExplainRequest} request */
function isOfWhole({ query }) {
  return query === undefined || query === "cls" || (Array.isArray(query) && query[0] === "cls");
}

/** @param {Asked} asked */
function nameOf({ method, target = null, contrast = {} }) {
  const isOfClass = method === "gradient_rollout" || method === "difference" || target !== null;
  const { reference = "still", against = null } = contrast;
  return isOfClass ? `${method} ${target ?? "predicted"} ${reference} ${against}` : method;
}
