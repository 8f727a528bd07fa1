/**
 * What the platform tells of its network, where it does.
 * @module
 */

export class NetworkEvents {
  #platform = /** @type {any} */ (globalThis);
  #listeners;

  /** @param {{online: () => void, offline: () => void}} listeners */
  constructor(listeners) {
    this.#listeners = Object.entries(listeners);
  }

  listen() {
    for (const [name, listener] of this.#listeners) this.#platform.addEventListener?.(name, listener);
  }

  stop() {
    for (const [name, listener] of this.#listeners) this.#platform.removeEventListener?.(name, listener);
  }
}
