/**
 * Pings, because a half-open connection fires no close event for minutes.
 * @module
 */

import { timedOut, unavailable } from "./errors.js";

const TIMEOUT_MS = 5_000;
/** For a connection that there is reason to doubt. */
const DOUBT_MS = 2_500;

export class Liveness {
  /** Of the last ping. @type {number | null} */
  roundTripMs = null;
  /** @type {Map<number, {resolve: () => void, reject: (error: Error) => void, timer: any}>} */
  #pings = new Map();
  #next = 1;
  #intervalS = 10;
  /** @type {any} */
  #timer = null;
  /** Names the current run, so that a ping of an older one declares nothing dead. */
  #run = 0;
  #send;
  #onDead;

  /**
   * @param {(t: number) => boolean} send
   * @param {() => void} onDead
   */
  constructor(send, onDead) {
    this.#send = send;
    this.#onDead = onDead;
  }

  /** @param {number} intervalS */
  start(intervalS) {
    this.stop();
    this.#intervalS = intervalS;
    this.#later();
  }

  stop() {
    this.#run++;
    clearTimeout(this.#timer);
    const pings = [...this.#pings.values()];
    this.#pings.clear();
    for (const { timer, reject } of pings) {
      clearTimeout(timer);
      reject(unavailable("the connection was lost"));
    }
  }

  /** There is reason to doubt the connection: ask now, and wait for less long. */
  doubt() {
    this.#check(DOUBT_MS);
  }

  /** @param {number} [timeoutMs] */
  #check(timeoutMs) {
    clearTimeout(this.#timer);
    const run = this.#run;
    this.ping(timeoutMs).then(
      () => run === this.#run && this.#later(),
      () => run === this.#run && this.#onDead(),
    );
  }

  /**
   * @param {number} [timeoutMs]
   * @returns {Promise<number>} round trip in milliseconds
   */
  ping(timeoutMs = TIMEOUT_MS) {
    const t = this.#next++;
    const sent = now();
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#pings.delete(t);
        reject(timedOut("ping"));
      }, timeoutMs);
      this.#pings.set(t, { resolve: () => resolve((this.roundTripMs = now() - sent)), reject, timer });
      if (!this.#send(t)) {
        clearTimeout(timer);
        this.#pings.delete(t);
        reject(unavailable("not connected"));
      }
    });
  }

  /** @param {number} t */
  ponged(t) {
    const waiting = this.#pings.get(t);
    this.#pings.delete(t);
    clearTimeout(waiting?.timer);
    waiting?.resolve();
  }

  #later() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#check(), this.#intervalS * 1000);
  }
}

const now = () => globalThis.performance?.now() ?? Date.now();
