/** An error of the service, as people and code read it. */

import { OFFLINE, sentenceOf } from "./sentences.js";

/** The service refused a call, or did not answer. `code` is stable; `sentence` is for people. */
export class Problem extends Error {
  /**
   * @param {object} told
   * @param {number} [told.status] 0 if there was no answer.
   * @param {string} [told.code]
   * @param {string} [told.title]
   * @param {string | null} [told.detail]
   * @param {boolean} [told.offline] whether the service did not answer.
   * @param {number | null} [told.retryAfterSeconds]
   * @param {string} [told.requestId] if the service is at fault: by it the operator finds the cause.
   */
  constructor({
    status = 0,
    code = "",
    title = "",
    detail = "",
    offline = false,
    retryAfterSeconds = null,
    requestId = "",
  }) {
    super(title || code || "no answer");
    this.name = "Problem";
    this.status = status;
    this.code = code;
    this.title = title;
    this.detail = detail ?? "";
    this.offline = offline;
    this.retryAfterSeconds = retryAfterSeconds;
    /** One sentence: what happened, and what to do. */
    this.sentence = offline ? OFFLINE : sentenceOf({ code, title, detail });
    if (requestId && code === "internal") this.sentence += ` The request was ${requestId}.`;
  }
}

/** @returns {Problem} that says that the service did not answer. */
export function noAnswer() {
  return new Problem({ offline: true, code: "offline", title: "The service does not answer" });
}

/**
 * @param {number} status
 * @param {string} text the body of the answer.
 * @param {string | null} retryAfter the header `Retry-After`.
 * @returns {Problem} of an answer that is an error. An error of a proxy counts as no answer.
 */
export function problemOf(status, text, retryAfter = null) {
  const told = parsed(text);
  if (typeof told?.code === "string") {
    const { code, title, detail, request_id: requestId } = told;
    const seconds = Number.parseInt(retryAfter ?? "", 10);
    const retryAfterSeconds = seconds >= 0 ? seconds : null;
    return new Problem({ status, code, title, detail, retryAfterSeconds, requestId });
  }
  if ([502, 503, 504].includes(status)) {
    return noAnswer();
  }
  return new Problem({ status, code: "unexpected_answer", title: `The service answered with error ${status}` });
}

/**
 * @param {{ code?: string, title?: string, detail?: string | null } | null} error of a failed job.
 * @returns {string} one sentence.
 */
export function failureSentence(error) {
  return sentenceOf(error ?? { title: "The job failed" });
}

/** @param {string} text @returns {any} */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
