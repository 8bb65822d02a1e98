/** Calls that do not give up: they wait for a service that is away, and for a key that is missing. */

import { Problem } from "../api/client.js";
import { pause } from "../api/pause.js";
import { whoAmI } from "../api/session.js";
import { makeStore } from "./store.js";

/** @typedef {NonNullable<Awaited<ReturnType<typeof whoAmI>>>} Session */

/** Codes of a service that cannot work for a moment. */
const SHORT_OF_TIME = new Set([
  "redis_unavailable",
  "service_busy",
  "shutting_down",
  "store_not_counted",
  "store_unavailable",
  "too_many_connections",
]);

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 4000;

/** Whether the service answered the latest call. */
export const reachable = makeStore(true);

/** Who is logged in; null while a key is needed; undefined until the service has told. */
export const session = makeStore(/** @type {Session | null | undefined} */ (undefined));

/**
 * Repeats a call until it has an answer that another try would not change.
 *
 * @template T
 * @param {() => Promise<T>} work
 * @param {{ signal?: AbortSignal }} [options]
 * @returns {Promise<T>}
 */
export async function insist(work, { signal } = {}) {
  for (let wait = FIRST_WAIT_MS; ; ) {
    try {
      const answer = await work();
      reachable.set(true);
      return answer;
    } catch (problem) {
      signal?.throwIfAborted();
      if (!(problem instanceof Problem)) throw problem;
      if (isPassing(problem)) {
        reachable.set(false);
        await pause(wait, signal);
        wait = Math.min(1.5 * wait, LONGEST_WAIT_MS);
        continue;
      }
      reachable.set(true);
      if (problem.status !== 401) throw problem;
      await keyGiven(signal);
    }
  }
}

/** Asks the service who this browser is, until it answers. */
export async function startSession() {
  session.set(await insist(whoAmI));
}

/** @param {Problem} problem */
function isPassing(problem) {
  return problem.offline || (problem.status === 503 && SHORT_OF_TIME.has(problem.code));
}

/**
 * Shows the form for the key, and resolves when a right one was given.
 *
 * @param {AbortSignal} [signal]
 * @returns {Promise<void>}
 */
function keyGiven(signal) {
  session.set(null);
  return new Promise((resolve, reject) => {
    const leave = session.follow(() => {
      if (!session.get()) return;
      leave();
      resolve();
    });
    signal?.addEventListener("abort", () => (leave(), reject(signal.reason)), { once: true });
  });
}
