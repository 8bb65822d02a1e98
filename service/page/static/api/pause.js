/** Waiting that can be ended. */

/**
 * @param {number} milliseconds
 * @param {AbortSignal} [signal]
 * @returns {Promise<void>} after the time, or as soon as the browser is online again.
 * @throws the reason of the signal, when it is aborted.
 */
export function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const ended = new AbortController();
    const end = () => {
      clearTimeout(timer);
      ended.abort();
      signal?.aborted ? reject(signal.reason) : resolve();
    };
    const timer = setTimeout(end, milliseconds);
    globalThis.addEventListener?.("online", end, { signal: ended.signal });
    signal?.addEventListener("abort", end, { signal: ended.signal });
    if (signal?.aborted) end();
  });
}
