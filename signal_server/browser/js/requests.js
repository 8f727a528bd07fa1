/**
 * The requests that have no answer yet, in the order in which they were made. They outlive a
 * connection: a resumed session gets them again with the same ids, and the server executes none of
 * them twice. A request's time runs only while it could be answered.
 * @module
 */

import { ParleyError, timedOut } from "./errors.js";

const LIMIT = 1000;

/**
 * @typedef {object} Waiting
 * @property {{type: string, id: number}} message
 * @property {number} timeoutMs
 * @property {any} timer
 * @property {(ok: any) => void} resolve
 * @property {(error: Error) => void} reject
 */

export class Requests {
  /** @type {Map<string | number, Waiting>} */
  #waiting = new Map();

  /**
   * @param {{type: string, id: number}} message
   * @param {number} timeoutMs
   * @returns {Promise<any>} the `ok` message
   */
  add(message, timeoutMs) {
    if (this.#waiting.size >= LIMIT) {
      return Promise.reject(new ParleyError("buffer_full", "too many requests wait", { retryable: true }));
    }
    return new Promise((resolve, reject) => {
      this.#waiting.set(message.id, { message, timeoutMs, timer: null, resolve, reject });
    });
  }

  /** The request is on its way. @param {number} id */
  sent(id) {
    const waiting = this.#waiting.get(id);
    if (!waiting) return;
    clearTimeout(waiting.timer);
    waiting.timer = setTimeout(() => {
      this.#waiting.delete(id);
      waiting.reject(timedOut(waiting.message.type));
    }, waiting.timeoutMs);
  }

  /**
   * @param {string | number | null | undefined} id
   * @returns {Waiting | undefined} whom the answer with this id is for
   */
  settle(id) {
    if (id === undefined || id === null) return undefined;
    const waiting = this.#waiting.get(id);
    this.#waiting.delete(id);
    clearTimeout(waiting?.timer);
    return waiting;
  }

  /** The connection is lost: no answer can come until the session is resumed. */
  pause() {
    for (const { timer } of this.#waiting.values()) clearTimeout(timer);
  }

  /** @returns {{type: string, id: number}[]} */
  unanswered() {
    return [...this.#waiting.values()].map(({ message }) => message);
  }

  /** @param {Error} error */
  failAll(error) {
    this.pause();
    const waiting = [...this.#waiting.values()];
    this.#waiting.clear();
    for (const { reject } of waiting) reject(error);
  }
}
