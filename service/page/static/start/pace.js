/** How long the rest of an upload takes, by its pace in the last seconds. */

const WINDOW_MS = 6000;
const LEAST_MS = 800;

export class Pace {
  constructor() {
    /** @type {{ at: number, sent: number }[]} */
    this.marks = [];
  }

  /**
   * @param {number} sent bytes so far.
   * @param {number} total bytes.
   * @param {number} [now] milliseconds.
   * @returns {number | null} seconds until the end; null while nothing can be said.
   */
  secondsLeft(sent, total, now = performance.now()) {
    this.marks.push({ at: now, sent });
    while (now - this.marks[0].at > WINDOW_MS) this.marks.shift();
    const { at, sent: before } = this.marks[0];
    return now - at < LEAST_MS || sent <= before ? null : ((total - sent) / (sent - before)) * ((now - at) / 1000);
  }
}
