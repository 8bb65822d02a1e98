/**
 * The address of a view: `#` for the start, `#/jobs/ID?…` for a job. What stands after `?` is read
 * by the view itself.
 */

/** @typedef {{ job: string | null, query: URLSearchParams }} Route */

/** @returns {Route} of the address that the browser shows. */
export function readRoute() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [room, id] = path.split("/");
  return { job: room === "jobs" && id ? decodeURIComponent(id) : null, query: new URLSearchParams(query) };
}

/**
 * @param {string} job
 * @param {URLSearchParams} [query]
 * @returns {string} the address of a job, for a link.
 */
export function jobAddress(job, query) {
  const text = query?.toString();
  return `#/jobs/${encodeURIComponent(job)}${text ? `?${text}` : ""}`;
}
