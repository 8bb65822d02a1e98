/** Remembers the uploads of files, so that they go on after a reload of the page. */

const KEY = "rollout.uploads";
const MOST = 20;

/** @param {File} file @returns {string | null} the id of its upload. */
export function rememberedUpload(file) {
  return read().find(([name]) => name === nameOf(file))?.[1] ?? null;
}

/** @param {File} file @param {string} id */
export function rememberUpload(file, id) {
  write([[nameOf(file), id], ...without(file)]);
}

/** @param {File} file */
export function forgottenUpload(file) {
  write(without(file));
}

/** @param {File} file */
function nameOf({ name, size, lastModified }) {
  return `${name}:${size}:${lastModified}`;
}

/** @param {File} file */
function without(file) {
  return read().filter(([name]) => name !== nameOf(file));
}

/** @returns {[string, string][]} name and id, newest first. */
function read() {
  try {
    const known = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    return Array.isArray(known) ? known : [];
  } catch {
    return [];
  }
}

/** @param {[string, string][]} uploads A browser may refuse to store; then nothing is remembered. */
function write(uploads) {
  try {
    localStorage.setItem(KEY, JSON.stringify(uploads.slice(0, MOST)));
  } catch {
    return;
  }
}
