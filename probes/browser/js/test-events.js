/**
 * Events of a probe client, without a DOM. `on` can be chained, as users of daily-js expect.
 * @module
 */

import { tell } from "./settle.js";

export class TestEvents {
  /** @type {Map<string, Set<(event: any) => void>>} */
  #listeners = new Map();

  /** @param {string} name @param {(event: any) => void} listener */
  on(name, listener) {
    const known = this.#listeners.get(name) ?? new Set();
    this.#listeners.set(name, known.add(listener));
    return this;
  }

  /** @param {string} name @param {(event: any) => void} listener */
  off(name, listener) {
    this.#listeners.get(name)?.delete(listener);
    return this;
  }

  /** @param {string} name @param {(event: any) => void} listener */
  once(name, listener) {
    const first = (/** @type {any} */ event) => {
      this.off(name, first);
      listener(event);
    };
    return this.on(name, first);
  }

  /** @param {string} name @param {unknown} event @protected */
  emit(name, event) {
    for (const listener of [...(this.#listeners.get(name) ?? [])]) tell(listener, event);
  }
}
