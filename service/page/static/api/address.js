/** Addresses of the service, which may live below a path of its host. */

/**
 * @param {string} path relative to the page, such as `v1/jobs`.
 * @returns {string} the full URL.
 */
export function address(path) {
  return new URL(path, document.baseURI).href;
}

/**
 * @param {string} job
 * @param {string} name
 * @returns {string} the URL of a file of a result.
 */
export function artifactUrl(job, name) {
  return address(`v1/jobs/${encodeURIComponent(job)}/artifacts/${encodeURIComponent(name)}`);
}
