/**
 * What people read when something has failed: what happened, and what to do.
 *
 * `{detail}` stands for the detail of the service. A code without a sentence is told by the title
 * and the detail of the service.
 */

/** @type {Record<string, string>} */
export const SENTENCES = {
  artifact_expired: "The files of this job were removed because of their age. Explain the video again.",
  artifact_not_found: "This result does not have that file.",
  cross_site: "The service refuses calls from this address. Open the page at the service's own address.",
  deadline_exceeded: "The video took too long to explain. Choose a shorter part of it.",
  file_unreadable: "The file cannot be read any more. Choose it again.",
  host_not_allowed: "The service does not answer to this address. Ask its operator to allow it.",
  idempotency_in_progress: "The same job is being created already. Wait a moment and try again.",
  internal: "Something failed in the service. Try again; if it lasts, tell the operator.",
  invalid_request: "This cannot be done: {detail}.",
  job_ended: "The job has ended already.",
  job_not_finished: "The job has not ended yet. Its files come when it has.",
  job_not_found: "This job does not exist any more, or it belongs to another key.",
  job_without_result: "This job has no result, because it failed or was canceled.",
  model_unavailable: "The model is not ready yet. Try again in a moment.",
  checkpoints_differ: "The model is being exchanged. Try again in a few minutes.",
  no_worker: "No worker was there to run the job. Try again later, or tell the operator.",
  out_of_memory: "The job needed more memory than there is. Choose a shorter part of the video.",
  queue_full: "Too many jobs are waiting for this model. Try again in a minute.",
  quota_exceeded: "Too many of your jobs have not ended. Wait for one of them, or cancel one.",
  redis_unavailable: "The service cannot reach its queue. Try again in a moment.",
  request_timeout: "The connection was too slow. Try again.",
  service_busy: "The service is busy. Try again in a moment.",
  session_ended: "You have been logged out. Enter your key again.",
  session_origin_refused: "The service refuses calls from this address. Open the page at the service's own address.",
  shutting_down: "The service is restarting. Try again in a moment.",
  storage_quota_exceeded: "Your storage is full. Delete jobs that you do not need, then try again.",
  store_full: "The service has no room for more videos. Try again later, or tell the operator.",
  store_not_counted: "The service has just started. Try again in a moment.",
  store_unavailable: "The service cannot store files at present. Try again in a moment.",
  too_many_connections: "The service has too many visitors. Try again in a moment.",
  too_much_work: "This is more work than the service does in one job. Choose a shorter part of the video.",
  unauthorized: "The service does not know this key. Enter your key again.",
  unexpected_answer: "Something between you and the service answered in its place. Reload the page, or tell the operator.",
  unknown_format: "The service cannot read this job, because another version stored it. Tell the operator.",
  unknown_model: "The service does not have this model. Choose another one.",
  upload_empty: "The file is empty. Choose another one.",
  upload_expired: "The video was removed because of its age. Choose it again.",
  upload_in_use: "The video is in use by a job that has not ended. Cancel the job, or wait.",
  upload_incomplete: "The video has not arrived completely. Choose it again.",
  upload_locked: "The video is being sent already, perhaps in another tab.",
  upload_not_found: "The service does not have this video any more. Choose it again.",
  upload_too_large: "The video is larger than the service accepts. Choose a smaller one: {detail}.",
  upload_too_slow: "The connection is too slow for this upload. Try again on a faster one.",
  video_container_unsupported: "This is not a video that the service can read. Use MP4, MOV, MKV, WebM, AVI or MPEG-TS.",
  video_encrypted: "The video is encrypted. Choose one without copy protection.",
  video_incomplete: "A part of the video is missing: {detail}. Choose a complete file.",
  video_invalid: "The video is damaged. Choose another file.",
  video_no_stream: "The file has no video in it. Choose another one.",
  video_span_empty: "The video has no frame in the chosen part. Choose another part.",
  video_too_long: "The video is too long: {detail}. Choose a shorter one, or a part of it.",
  video_too_many_pixels: "The picture of the video is too large: {detail}. Scale it down.",
  video_undecodable: "The video cannot be decoded. Convert it to MP4 with H.264 and try again.",
  video_url_failed: "The video cannot be fetched from its address: {detail}.",
  video_url_refused: "The service does not fetch videos from this address. Choose a file instead.",
  worker_crashed: "The worker stopped while it explained the video, each time it tried. Try another video, or tell the operator.",
};

export const OFFLINE = "The service does not answer. Check your connection; the page tries again.";

/**
 * @param {{ code?: string, title?: string, detail?: string | null }} problem
 * @returns {string} of an error of the service or of a failed job.
 */
export function sentenceOf({ code = "", title = "", detail = "" }) {
  const told = (detail ?? "").trim().replace(/[.\s]+$/, "");
  const known = Object.hasOwn(SENTENCES, code) ? SENTENCES[code] : null;
  if (known && (told || !known.includes("{detail}"))) {
    // Where the sentence has its own advice, that of the detail, which is for programs, is left out.
    const what = known.endsWith("{detail}.") ? told : told.split(/\.\s+(?=[A-Z])/)[0];
    return known.replace("{detail}", () => what);
  }
  const heading = title.trim().replace(/[.\s]+$/, "") || "The service could not do this";
  return told && told !== heading ? `${heading}: ${told}.` : `${heading}.`;
}
