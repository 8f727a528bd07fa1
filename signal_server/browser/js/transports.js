/**
 * How the server is reached: over a WebSocket, and where that does not get through, over HTTP. A
 * transport is an object with the part of the WebSocket interface that session.js uses. It does
 * not know sessions.
 * @module
 */

import { HttpSocket } from "./http-socket.js";

/** @typedef {import("./parley.d.ts").SignalingOptions} SignalingOptions */
/** @typedef {import("./parley.d.ts").Transport} Transport */

export const PROTOCOL = "parley.v1.json";
/** A connection that has brought nothing for so long brings nothing. */
export const SILENCE_MS = 5_000;

export class Transports {
  /** What the next connection uses. @type {Transport} */
  kind;
  #options;
  #canFallBack;

  /** @param {SignalingOptions} options */
  constructor(options) {
    this.#options = options;
    const wish = options.transport ?? "auto";
    const hasWebSocket = (options.WebSocket ?? globalThis.WebSocket) !== undefined;
    const hasFetch = (options.fetch ?? globalThis.fetch) !== undefined;
    this.kind = wish === "http" || (wish === "auto" && !hasWebSocket) ? "http" : "websocket";
    this.#canFallBack = wish === "auto" && hasWebSocket && hasFetch;
  }

  /** @returns {any} a connection that is being opened */
  open() {
    if (this.kind === "http") return new HttpSocket(this.#options.url, this.#options);
    return this.#webSocket();
  }

  /**
   * A connection has brought nothing at all; the other transport is next.
   * @returns {boolean} whether to try that one at once
   */
  failed() {
    if (!this.#canFallBack) return false;
    this.kind = this.kind === "websocket" ? "http" : "websocket";
    return this.kind === "http";
  }

  /** @returns {boolean} whether there is something better than what is in use */
  get canClimb() {
    return this.#canFallBack && this.kind === "http";
  }

  /**
   * Whether a WebSocket would bring something. The session is not mentioned on it: a resume that
   * is lost on its way back would cost the secret.
   * @returns {Promise<boolean>}
   */
  probe() {
    return new Promise((resolve) => {
      const socket = this.#webSocket();
      const done = (/** @type {boolean} */ works) => {
        clearTimeout(timer);
        socket.onopen = socket.onmessage = socket.onclose = null;
        if (socket.readyState < 2) socket.close(1000);
        resolve(works);
      };
      const timer = setTimeout(() => done(false), SILENCE_MS);
      // The server turns away whoever does not say hello, and that is an answer.
      socket.onopen = () => socket.send('{"type":"ping"}');
      socket.onmessage = () => done(true);
      socket.onclose = () => done(false);
    });
  }

  #webSocket() {
    const Socket = /** @type {any} */ (this.#options.WebSocket ?? globalThis.WebSocket);
    return new Socket(this.#options.url, [PROTOCOL]);
  }
}
