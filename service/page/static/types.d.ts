/**
 * The values that pass between the modules of the page. The JSON of the API is described in
 * openapi/openapi.json; here stands what the page uses of it.
 */

export type JobState = "queued" | "running" | "succeeded" | "failed" | "canceled";
export type Method = "rollout" | "attention" | "gradient_rollout" | "contribution_rollout" | "difference";

export interface Prediction {
  label: string;
  index: number;
  /** 0 to 1. */
  probability: number;
}

export interface Artifact {
  name: string;
  bytes: number;
  sha256: string;
  url: string;
}

/** What was asked: see ExplainRequest in the API's document. */
export interface ExplainRequest {
  model?: string | null;
  method?: Method;
  target?: number | string | (number | string)[] | null;
  query?: unknown;
  per_layer?: boolean;
  full_rollout?: boolean;
  faithfulness?: boolean;
  preview?: boolean;
  overlay?: object | null;
  clips?: "one" | "tile";
  start_seconds?: number | null;
  end_seconds?: number | null;
  [field: string]: unknown;
}

export interface Progress {
  stage: "decode" | "explain" | "faithfulness" | "render" | "publish";
  done: number;
  total: number;
}

export interface Job {
  id: string;
  state: JobState;
  model: string;
  tag: string | null;
  priority: "low" | "normal";
  upload: string | null;
  filename: string | null;
  reused_from: string | null;
  created_at: string;
  expires_at: string | null;
  started_at: string | null;
  ended_at: string | null;
  attempt: number;
  queue_position: number | null;
  waiting_for: "turn" | "worker" | "store" | null;
  progress: Progress | null;
  request: ExplainRequest;
  result: JobResult | null;
  error: { code: string; title: string; detail: string | null } | null;
}

export interface JobResult {
  predictions: Prediction[];
  clips: number;
  frames: number;
  artifacts: Artifact[];
  timings_seconds: Record<string, number>;
  source: { width: number; height: number; duration_seconds: number; frame_rate_hz: number } | null;
  warnings: { code: string; detail: string }[];
}

export interface ServedModel {
  name: string;
  spec: {
    frames: number;
    height: number;
    width: number;
    patch_height: number;
    patch_width: number;
    depth: number;
    labels: string[] | null;
  };
  ready: number;
  workers: number;
  seconds_per_job: number | null;
}

/** Part of the picture, in pixels of the source as displayed. */
export interface Rectangle {
  x: number;
  y: number;
  width: number;
  height: number;
}

/** A distinct sampled frame. */
export interface SampledFrame {
  /** Index among all frames of the video. */
  index: number;
  /** Seconds since the first frame of the video; the `mediaTime` of the preview. */
  seconds: number;
  /** Share of all relevance, 0 to 1. */
  share: number;
  /** The clip, and the frame in the clip, whose maps it has: the first, if it was sampled more than once. */
  clip: number;
  t: number;
}

/** The relevance of each patch in each distinct sampled frame, scaled to 0..1 as the overlay video is. */
export interface HeatTrack {
  /** Seconds, increasing. */
  times: Float64Array;
  /** Rows and columns of patches. */
  rows: number;
  columns: number;
  /** `t h w`, 0 to 1 over the whole video. */
  heat: Float32Array;
  /** Share of all relevance in each frame; sums to 1. */
  shares: Float64Array;
}

/** A patch of a sampled frame: what a click asks about. `frame` counts the distinct sampled frames. */
export interface Patch {
  frame: number;
  row: number;
  column: number;
}

/** How heat is drawn. */
export interface HeatStyle {
  shown: boolean;
  /** 0 to 1, at the highest heat. */
  opacity: number;
  colormap: string;
  /** Heat below it is not drawn, 0 to 1. */
  threshold: number;
  /** 0 draws each patch as a square; more blurs, in patches. */
  smoothing: number;
  /** Whether 1 is the highest heat of the video, or of each frame. */
  scale: "video" | "frame";
}

/** What is shown: all that a link reopens. */
export interface View extends HeatStyle {
  job: string;
  /** Which of the job's classes, by its place. */
  target: number;
  seconds: number;
  /** How much of its colour the video keeps under the heat, 0 to 1. */
  saturation: number;
  /** A layer of `per_layer`; null shows the method's answer. */
  layer: number | null;
  /** The patch that is asked about; null: the classification token. */
  patch: Patch | null;
  /** The job beside it, as in `idOf`, or null. */
  compare: string | null;
}

/** All that the page knows of a job that has succeeded. Arrays are read when they are needed. */
export type Reference = "still" | "blur" | "mean";

/** What a map of a class compares with: another clip (`difference`), or another class (class contributions). */
export interface Contrast {
  reference?: Reference;
  against?: number | string;
}

export interface Exploration {
  job: Job;
  /** The content of `result.json`. */
  result: Record<string, any>;
  frames: SampledFrame[];
  /** The grid of patches of one frame. */
  rows: number;
  columns: number;
  /** What the model saw. */
  crop: Rectangle;
  /** Size of the picture as displayed, in source pixels. */
  width: number;
  height: number;
  duration: number;
  /** URL of the video that a browser plays; null if the job has none. */
  previewUrl: string | null;
  thumbnails: Thumbnails | null;
  /** The classes that the job explains, in the first clip; empty for methods without a class. */
  targets: { label: string, index: number }[];
  /** The place in `targets` of the class that the maps are for. */
  target: number;
  /** The same job, with the maps of another of its classes. Costs no job. */
  ofTarget(place: number): Promise<Exploration>;
  /** Whether the maps are of tokens, so that a patch can be asked about. Maps of classes are not. */
  isOfTokens: boolean;
  /** Number of layers for which `heatAt` has a map; 0 without `per_layer`. */
  layers: number;
  /** Whether `patchHeat` can answer from this result. */
  hasFullRollout: boolean;
  /** Of the classification token, or at one layer. */
  heat(layer: number | null): Promise<HeatTrack>;
  /** What one patch attended to, in the frames of its clip. */
  patchHeat(patch: Patch): Promise<HeatTrack>;
  /** Rows: the frame asked about; columns: where it looked. `n × n` of one clip. */
  temporal(clip: number): Promise<{ size: number; values: Float32Array }>;
}

/** One picture with a tile per sampled frame. */
export interface Thumbnails {
  url: string;
  tileWidth: number;
  tileHeight: number;
  columns: number;
  /** Place of the tile of each frame, by its index in the video. */
  placeOf: Map<number, number>;
}
