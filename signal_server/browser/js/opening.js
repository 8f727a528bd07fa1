/**
 * One `connect()` that has not been answered yet: everybody who asks meanwhile gets the same.
 * @module
 */

/** @template T */
export class Opening {
  /** @type {{promise: Promise<T>, resolve: (value: T) => void, reject: (error: Error) => void, timer: any} | null} */
  #current = null;

  /** @returns {Promise<T> | null} */
  get promise() {
    return this.#current?.promise ?? null;
  }

  /**
   * @param {number} limitMs
   * @param {() => void} onLate
   * @returns {Promise<T>}
   */
  begin(limitMs, onLate) {
    /** @type {any} */
    const current = { timer: setTimeout(onLate, limitMs) };
    current.promise = new Promise((resolve, reject) => Object.assign(current, { resolve, reject }));
    this.#current = current;
    return current.promise;
  }

  /** @param {T} value */
  done(value) {
    this.#take()?.resolve(value);
  }

  /**
   * @param {Error} error
   * @returns {boolean} whether anybody waited
   */
  fail(error) {
    const current = this.#take();
    current?.reject(error);
    return current !== null;
  }

  #take() {
    const current = this.#current;
    this.#current = null;
    clearTimeout(current?.timer);
    return current;
  }
}
