/**
 * The clock of the view. It follows the frames that the video presents, so that what is drawn over a
 * frame is drawn for that frame. Without a video it is a clock that can be set.
 */

/** @typedef {(seconds: number) => void} Follow */

export class Player {
  /**
   * @param {number} duration Seconds.
   * @param {number} frameSeconds Between two frames.
   */
  constructor(duration, frameSeconds) {
    this.duration = duration;
    this.frameSeconds = frameSeconds;
    /** Time of the frame that is presented. */
    this.seconds = 0;
    /** Where the playhead is: ahead of `seconds` while the video seeks. */
    this.wanted = 0;
    /** @type {HTMLVideoElement | null} */
    this.video = null;
    /** @type {{ frame: Set<Follow>, time: Set<Follow>, state: Set<Follow> }} */
    this.listeners = { frame: new Set(), time: new Set(), state: new Set() };
    this.detach = () => {};
  }

  get playing() {
    return this.video !== null && !this.video.paused;
  }

  /**
   * Call `follow` for each presented frame (`frame`), each place of the playhead (`time`), or when it
   * starts or stops (`state`).
   * @param {"frame" | "time" | "state"} event
   * @param {Follow} follow
   * @returns {() => void} that ends it.
   */
  on(event, follow) {
    this.listeners[event].add(follow);
    return () => void this.listeners[event].delete(follow);
  }

  /** @param {HTMLVideoElement} video */
  attach(video) {
    this.detach();
    this.video = video;
    const stopFrames = followFrames(video, (seconds) => this.present(seconds));
    const state = () => this.tell("state", this.seconds);
    const seeked = () => this.continueSeek();
    const begin = () => this.seek(this.wanted);
    const events = { play: state, pause: state, seeked, loadeddata: begin };
    for (const [name, listener] of Object.entries(events)) video.addEventListener(name, listener);
    if (video.readyState >= HTMLMediaElement.HAVE_CURRENT_DATA) begin();
    this.detach = () => {
      stopFrames();
      for (const [name, listener] of Object.entries(events)) video.removeEventListener(name, listener);
      this.video = null;
      this.detach = () => {};
    };
  }

  play() {
    // A browser that does not allow it leaves the video paused, and the button says so.
    this.video?.play().catch(() => this.tell("state", this.seconds));
  }

  /** Frames that are still presented do not move the playhead: it stands where the video stopped. */
  pause() {
    const { video } = this;
    if (!video || video.paused) return;
    video.pause();
    this.seek(video.currentTime - this.within(0));
  }

  toggle() {
    this.playing ? this.pause() : this.play();
  }

  /** @param {number} seconds */
  seek(seconds) {
    this.wanted = Math.min(Math.max(seconds, 0), Math.max(this.duration - this.frameSeconds, 0));
    this.tell("time", this.wanted);
    const { video } = this;
    if (!video) this.present(this.wanted);
    else if (!video.seeking) video.currentTime = this.within(this.wanted);
  }

  /** Stop there. @param {number} seconds */
  jump(seconds) {
    this.pause();
    this.seek(seconds);
  }

  /** @param {number} frames */
  step(frames) {
    this.jump(this.wanted + frames * this.frameSeconds);
  }

  /** A time within the frame, so that rounding cannot show the one before. @param {number} seconds */
  within(seconds) {
    return seconds + 0.4 * this.frameSeconds;
  }

  /** Go to where the playhead has been dragged meanwhile. */
  continueSeek() {
    const { video } = this;
    if (!video || !video.paused) return;
    if (Math.abs(video.currentTime - this.within(this.wanted)) > 0.002) this.seek(this.wanted);
  }

  /** @param {number} seconds */
  present(seconds) {
    this.seconds = seconds;
    if (this.playing) {
      this.wanted = seconds;
      this.tell("time", seconds);
    }
    this.tell("frame", seconds);
  }

  /** @param {"frame" | "time" | "state"} event @param {number} seconds */
  tell(event, seconds) {
    this.listeners[event].forEach((follow) => follow(seconds));
  }
}

/**
 * Call `present` with the time of each frame that a video presents.
 * @param {HTMLVideoElement} video
 * @param {Follow} present
 * @returns {() => void} that ends it.
 */
function followFrames(video, present) {
  let handle = 0;
  if ("requestVideoFrameCallback" in video) {
    /** @type {VideoFrameRequestCallback} */
    const frame = (_now, { mediaTime }) => {
      handle = video.requestVideoFrameCallback(frame);
      present(mediaTime);
    };
    handle = video.requestVideoFrameCallback(frame);
    return () => video.cancelVideoFrameCallback(handle);
  }
  /** @type {HTMLVideoElement} */
  const plain = video;
  let last = -1;
  const tick = () => {
    handle = requestAnimationFrame(tick);
    if (plain.currentTime === last || plain.seeking) return;
    last = plain.currentTime;
    present(last);
  };
  handle = requestAnimationFrame(tick);
  return () => cancelAnimationFrame(handle);
}

const USUAL_RATE_HZ = 25;

/** @param {import("../types.d.ts").Exploration} exploration */
export function playerOf({ duration, job }) {
  return new Player(duration, 1 / (job.result?.source?.frame_rate_hz || USUAL_RATE_HZ));
}
