/** All that the page knows of a job that has succeeded. */

import { artifactUrl, fetchJson } from "../api/client.js";
import { decodeHalf, openArchive } from "./archive.js";
import { distinctFrames } from "./frames.js";
import { heatTrack } from "./heat.js";

/** @typedef {import("../types.d.ts").Exploration} Exploration */
/** @typedef {import("../types.d.ts").HeatTrack} HeatTrack */
/** @typedef {import("../types.d.ts").Job} Job */
/** @typedef {import("../types.d.ts").Patch} Patch */
/** @typedef {import("../types.d.ts").Rectangle} Rectangle */
/** @typedef {import("../types.d.ts").SampledFrame} SampledFrame */
/** @typedef {import("./archive.js").Archive} Archive */

/**
 * @param {Job} job that has succeeded.
 * @param {{ signal?: AbortSignal }} [options]
 * @returns {Promise<Exploration>}
 * @throws {import("../api/problem.js").Problem} the service refused, for example because the files have
 *   expired, or did not answer.
 * @throws {import("./archive.js").ArchiveError} `rollout.npz` is damaged.
 */
export async function loadExploration(job, { signal } = {}) {
  const [result, archive] = await Promise.all([
    fetchJson(artifactUrl(job.id, "result.json"), { signal }),
    openArchive(artifactUrl(job.id, "rollout.npz"), { signal }),
  ]);
  const maps = await Maps.read(archive);
  const crop = await readCrop(archive);
  /** @type {(place: number) => Promise<Exploration>} */
  const ofTarget = remembered(async (place) => explorationOf(job, result, archive, crop, await maps.ofTarget(place), place, ofTarget));
  return ofTarget(0);
}

/**
 * @param {Job} job
 * @param {Record<string, any>} result
 * @param {Archive} archive
 * @param {Rectangle} crop
 * @param {Maps} maps of the class at `target`.
 * @param {number} target
 * @param {(place: number) => Promise<Exploration>} ofTarget
 * @returns {Promise<Exploration>}
 */
async function explorationOf(job, result, archive, crop, maps, target, ofTarget) {
  const hasLayers = target === 0 && archive.names.includes("layer_relevance");
  return {
    job,
    result,
    frames: maps.frames,
    rows: maps.rows,
    columns: maps.columns,
    crop,
    ...pictureOf(result, crop, maps.frames),
    ...filesOf(job, result),
    targets: result.target_classes?.map((/** @type {any[]} */ [first]) => first) ?? result.targets?.slice(0, 1) ?? [],
    target,
    ofTarget,
    isOfTokens: archive.names.includes("temporal_rollout"),
    layers: hasLayers ? (await archive.shape("layer_relevance"))[1] : 0,
    hasFullRollout: archive.names.includes("full_rollout"),
    heat: remembered((layer) => maps.heat(layer)),
    patchHeat: (patch) => maps.patchHeat(patch),
    temporal: (clip) => maps.temporal(clip),
  };
}

/** The heat maps of an archive. All arrays begin with the axes `clip t`. */
class Maps {
  /**
   * @param {Archive} archive
   * @param {{ shape: number[], data: Float32Array }} relevance
   * @param {Float64Array} seconds
   * @param {Float64Array} frameIndex
   */
  constructor(archive, relevance, seconds, frameIndex) {
    const [, length, rows, columns] = relevance.shape;
    this.rows = rows;
    this.columns = columns;
    this._archive = archive;
    this._length = length;
    this._patches = length * rows * columns;
    this._seconds = seconds;
    this._frameIndex = frameIndex;
    this._overall = heatTrack(relevance.data, this._places());
    this.frames = framesOf(this._overall, frameIndex, length);
  }

  /** @param {Archive} archive */
  static async read(archive) {
    const names = ["relevance", "pts_seconds", "frame_index"];
    const [relevance, seconds, frameIndex] = await Promise.all(names.map(archive.read));
    return new Maps(archive, relevance, seconds.data, frameIndex.data);
  }

  /** @param {number} place of a class. @returns {Promise<Maps>} its maps. */
  async ofTarget(place) {
    if (place === 0) return this;
    const { shape, data } = await this._archive.read("target_relevance");
    if (!(place < shape[0])) throw new RangeError(`there is no target ${place}`);
    const size = data.length / shape[0];
    const relevance = { shape: shape.slice(1), data: data.subarray(place * size, (place + 1) * size) };
    return new Maps(this._archive, relevance, this._seconds, this._frameIndex);
  }

  /** @param {number | null} layer @returns {Promise<HeatTrack>} */
  async heat(layer) {
    if (layer === null) return this._overall;
    const { shape, data } = await this._archive.read("layer_relevance");
    const [clips, layers] = shape;
    if (!(layer >= 0 && layer < layers)) throw new RangeError(`there is no layer ${layer}`);
    const relevance = new Float32Array(clips * this._patches);
    for (let clip = 0; clip < clips; clip++) {
      const begin = (clip * layers + layer) * this._patches;
      relevance.set(data.subarray(begin, begin + this._patches), clip * this._patches);
    }
    return heatTrack(relevance, this._places());
  }

  /** @param {Patch} patch @returns {Promise<HeatTrack>} */
  async patchHeat({ frame, row, column }) {
    const { clip, t } = this.frames[frame];
    const { shape, data } = await this._archive.read("full_rollout");
    const tokens = shape[1];
    const query = 1 + (t * this.rows + row) * this.columns + column;
    const begin = (clip * tokens + query) * tokens;
    // Token 0 is the classification token, which has no place in the picture.
    return heatTrack(decodeHalf(data, begin + 1, begin + tokens), this._places(clip, clip + 1));
  }

  /** @param {number} clip */
  async temporal(clip) {
    const { data } = await this._archive.read("temporal_rollout");
    const size = this._length;
    return { size, values: data.subarray(clip * size * size, (clip + 1) * size * size) };
  }

  /** @param {number} [begin] @param {number} [end] clips. */
  _places(begin = 0, end = this._seconds.length / this._length) {
    return {
      rows: this.rows,
      columns: this.columns,
      seconds: this._seconds.subarray(begin * this._length, end * this._length),
      frameIndex: this._frameIndex.subarray(begin * this._length, end * this._length),
    };
  }
}

/** @param {HeatTrack} track @param {Float64Array} frameIndex @param {number} length @returns {SampledFrame[]} */
function framesOf(track, frameIndex, length) {
  const { index, first } = distinctFrames(frameIndex);
  return index.map((frame, n) => ({
    index: frame,
    seconds: track.times[n],
    share: track.shares[n],
    clip: Math.floor(first[n] / length),
    t: first[n] % length,
  }));
}

/** @param {Archive} archive @returns {Promise<Rectangle>} */
async function readCrop(archive) {
  const [x, y, width, height] = (await archive.read("crop_xywh")).data;
  return { x, y, width, height };
}

/**
 * Results of older versions do not tell of the source. Their crop was in the middle of it.
 *
 * @param {Record<string, any>} result
 * @param {Rectangle} crop
 * @param {SampledFrame[]} frames
 */
function pictureOf({ source }, crop, frames) {
  return {
    width: source?.width ?? crop.width + 2 * crop.x,
    height: source?.height ?? crop.height + 2 * crop.y,
    duration: source?.duration_seconds ?? frames[frames.length - 1].seconds,
  };
}

/** @param {Job} job @param {Record<string, any>} result */
function filesOf(job, { thumbnails: tiles }) {
  const names = new Set(job.result?.artifacts.map((artifact) => artifact.name));
  return {
    previewUrl: names.has("preview.mp4") ? artifactUrl(job.id, "preview.mp4") : null,
    thumbnails:
      tiles && names.has("thumbnails.jpg")
        ? {
            url: artifactUrl(job.id, "thumbnails.jpg"),
            tileWidth: tiles.tile_width,
            tileHeight: tiles.tile_height,
            columns: tiles.columns,
            placeOf: new Map(tiles.frame_index.map((/** @type {number} */ frame, /** @type {number} */ n) => [frame, n])),
          }
        : null,
  };
}

/**
 * @template K, V
 * @param {(key: K) => Promise<V>} make
 * @returns {(key: K) => Promise<V>} which makes each value once. One that failed is made again.
 */
function remembered(make) {
  /** @type {Map<K, Promise<V>>} */
  const known = new Map();
  return (key) => {
    const value = known.get(key) ?? make(key);
    known.set(key, value);
    value.catch(() => known.delete(key));
    return value;
  };
}
