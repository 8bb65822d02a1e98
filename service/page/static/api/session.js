/** Who uses the page, where the service has API keys. */

import { call, Problem } from "./client.js";

/** @typedef {{ owner: string | null, expires_at: string | null, keys_required: boolean }} Session no owner without keys. */

/** @returns {Promise<Session | null>} null if the service needs a key, or the session has ended. */
export async function whoAmI() {
  try {
    return await call("v1/session");
  } catch (error) {
    if (error instanceof Problem && error.status === 401) return null;
    throw error;
  }
}

/**
 * Exchange a key for a cookie, which scripts cannot read.
 *
 * @param {string} key
 * @returns {Promise<Session>}
 * @throws {Problem} `unauthorized`: the service does not know the key.
 */
export async function logIn(key) {
  const text = key.trim();
  if (!/^[\x21-\x7e]+$/.test(text)) {
    // Such a text cannot stand in a header, so no service has it as a key.
    throw new Problem({ status: 401, code: "unauthorized", title: "This cannot be a key" });
  }
  return call("v1/session", { method: "POST", headers: { Authorization: `Bearer ${text}` } });
}

/** @returns {Promise<null>} */
export function logOut() {
  return call("v1/session", { method: "DELETE" });
}
