/**
 * The ICE servers at hand and those being asked for.
 * @module
 */

import { timedOut } from "./errors.js";

/** @typedef {import("./parley.d.ts").IceServers} Servers */
/** @typedef {{resolve: (servers: Servers) => void, reject: (error: Error) => void, timer: any}} Waiting */

/** A credential with less life than this is not handed to a new connection. */
const MARGIN_MS = 60_000;
const ANSWER_MS = 10_000;

export class IceServers {
  #request;
  /** @type {Waiting[]} */
  #waiting = [];
  /** @type {Servers | null} */
  #known = null;

  /** @param {(wish: object) => Promise<unknown>} request */
  constructor(request) {
    this.#request = request;
  }

  /**
   * @param {{ttl?: number, region?: string}} wish
   * @returns {Promise<Servers>}
   */
  ask({ ttl, region }) {
    return new Promise((resolve, reject) => {
      /** @type {Waiting} */
      const waiting = { resolve, reject, timer: null };
      // The answer is the numbered `ice_servers` message, which carries no id; a refusal does.
      const refuse = (/** @type {Error} */ error) => {
        clearTimeout(waiting.timer);
        this.#waiting = this.#waiting.filter((one) => one !== waiting);
        reject(error);
      };
      waiting.timer = setTimeout(() => refuse(timedOut("ice_servers")), ANSWER_MS);
      this.#waiting.push(waiting);
      this.#request({ ttl, region }).catch((error) => {
        if (error.code !== "timeout") refuse(error);
      });
    });
  }

  /** Those at hand while they are good for another minute. @returns {Promise<RTCIceServer[]>} */
  async fresh() {
    const known = this.#known;
    if (known && known.expiresAt * 1000 > Date.now() + MARGIN_MS) return known.iceServers;
    return (await this.ask({})).iceServers;
  }

  /** @param {Servers} servers asked for, or sent before the former ones expire */
  arrived(servers) {
    this.#known = servers;
    const waiting = this.#waiting.shift();
    clearTimeout(waiting?.timer);
    waiting?.resolve(servers);
  }

  /** @param {Error} error */
  refuseAll(error) {
    for (const waiting of this.#waiting.splice(0)) {
      clearTimeout(waiting.timer);
      waiting.reject(error);
    }
  }
}
