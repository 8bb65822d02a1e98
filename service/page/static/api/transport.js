/** Calls with a body whose sending is reported, which `fetch` does not do. */

/**
 * @typedef {object} Request
 * @property {string} method
 * @property {string} url
 * @property {Record<string, string>} headers
 * @property {ArrayBuffer} [body]
 * @property {(sent: number) => void} [onSent] bytes of the body.
 * @property {AbortSignal} [signal]
 */

/** @typedef {{ status: number, header: (name: string) => string | null, text: string }} Answer status 0: none. */
/** @typedef {(request: Request) => Promise<Answer>} Send */

/** A call that sends and gets nothing for this long has lost its connection. */
const STALLED_MILLISECONDS = 45_000;

/** @type {Send} */
export function sendByXhr({ method, url, headers, body, onSent, signal }) {
  return new Promise((resolve) => {
    const call = new XMLHttpRequest();
    const abort = () => call.abort();
    let timer = setTimeout(abort, STALLED_MILLISECONDS);
    const moved = () => {
      clearTimeout(timer);
      timer = setTimeout(abort, STALLED_MILLISECONDS);
    };
    call.open(method, url);
    for (const [name, value] of Object.entries(headers)) call.setRequestHeader(name, value);
    call.upload.onprogress = (event) => {
      moved();
      onSent?.(event.loaded);
    };
    call.onloadend = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
      resolve({ status: call.status, header: (name) => call.getResponseHeader(name), text: call.responseText });
    };
    signal?.addEventListener("abort", abort);
    call.send(body);
    if (signal?.aborted) abort();
  });
}
