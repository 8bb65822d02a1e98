/** A value that several views show, and that lives longer than any of them. */

import { useEffect, useState } from "../vendor/preact-htm.js";

/**
 * @template T
 * @typedef {{ get: () => T, set: (value: T) => void, follow: (listener: () => void) => () => void }} Store
 */

/**
 * @template T
 * @param {T} value
 * @returns {Store<T>}
 */
export function makeStore(value) {
  /** @type {Set<() => void>} */
  const listeners = new Set();
  return {
    get: () => value,
    set(next) {
      if (Object.is(next, value)) return;
      value = next;
      for (const listener of [...listeners]) listener();
    },
    follow(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
}

/**
 * @template T
 * @param {Store<T>} store
 * @returns {T} its value; the view is drawn again when it changes.
 */
export function useStore(store) {
  const [value, setValue] = useState(store.get);
  useEffect(() => {
    const draw = () => setValue(() => store.get());
    draw();
    return store.follow(draw);
  }, [store]);
  return value;
}
