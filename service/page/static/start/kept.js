/**
 * The video that this tab is sending, kept by the browser so that a reload can go on with it.
 *
 * Where the browser keeps nothing, as in a private window, all works but that.
 */

/** @typedef {{ file: File, request: import("../types.d.ts").ExplainRequest }} Kept */

const TAB = "rollout.tab";
const STORE = "sending";
const LONGEST_MS = 24 * 3600 * 1000;

/** @param {Kept} kept */
export async function keep(kept) {
  await inStore("readwrite", (store) => store.put({ ...kept, since: Date.now() }, tabName()));
}

/** Forgets the video of this tab, and those of tabs that were closed long ago. */
export async function forget() {
  await inStore("readwrite", (store) => {
    const walk = store.openCursor();
    walk.onsuccess = () => {
      const cursor = walk.result;
      if (!cursor) return;
      if (cursor.key === tabName() || Date.now() - cursor.value.since > LONGEST_MS) cursor.delete();
      cursor.continue();
    };
    return walk;
  });
}

/** @returns {Promise<Kept | null>} what this tab was sending when it was reloaded. */
export async function findKept() {
  return (await inStore("readonly", (store) => store.get(tabName()))) ?? null;
}

/**
 * @param {IDBTransactionMode} mode
 * @param {(store: IDBObjectStore) => IDBRequest} work
 * @returns {Promise<any>} what the work found; undefined if the browser keeps nothing.
 */
async function inStore(mode, work) {
  try {
    const database = await settled(openDatabase());
    try {
      const transaction = database.transaction(STORE, mode);
      const request = work(transaction.objectStore(STORE));
      await new Promise((resolve, reject) => {
        transaction.oncomplete = resolve;
        transaction.onabort = () => reject(transaction.error);
      });
      return request.result;
    } finally {
      database.close();
    }
  } catch {
    return undefined;
  }
}

function openDatabase() {
  const request = indexedDB.open("rollout", 1);
  request.onupgradeneeded = () => request.result.createObjectStore(STORE);
  return request;
}

/**
 * @template T
 * @param {IDBRequest<T>} request
 * @returns {Promise<T>}
 */
function settled(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** @returns {string} a name that a reload does not change, and that no other tab has. */
function tabName() {
  const name = sessionStorage.getItem(TAB) ?? String(crypto.getRandomValues(new Uint32Array(2)));
  sessionStorage.setItem(TAB, name);
  return name;
}
