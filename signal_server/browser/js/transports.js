/**
 * How the server is reached: over a WebSocket, and where that does not get through, over HTTP; and
 * at which of several addresses. A transport is an object with the part of the WebSocket interface
 * that session.js uses. It does not know sessions.
 * @module
 */

import { HttpSocket } from "./http-socket.js";
import { nearestFirst } from "./nearest.js";

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
  /** Nearest first. */
  #urls;
  #place = 0;
  /** Where the server wants its clients to go. @type {string | null} */
  #elsewhere = null;
  #canMeasure;
  #isMeasured = false;

  /** @param {SignalingOptions} options */
  constructor(options) {
    this.#options = options;
    const wish = options.transport ?? "auto";
    const hasWebSocket = (options.WebSocket ?? globalThis.WebSocket) !== undefined;
    const hasFetch = (options.fetch ?? globalThis.fetch) !== undefined;
    this.kind = wish === "http" || (wish === "auto" && !hasWebSocket) ? "http" : "websocket";
    this.#canFallBack = wish === "auto" && hasWebSocket && hasFetch;
    this.#urls = [options.url].flat();
    this.#canMeasure = this.#urls.length > 1 && hasFetch;
  }

  /** Find out which address is the nearest, once, and again when none has worked. */
  async measure() {
    if (this.#isMeasured || !this.#canMeasure) return;
    const { fetch = globalThis.fetch } = this.#options;
    this.#urls = await nearestFirst(this.#urls, (to, init) => fetch(to, init));
    this.#isMeasured = true;
  }

  /** @returns {any} a connection that is being opened */
  open() {
    if (this.kind === "http") return new HttpSocket(this.#url, this.#options);
    return this.#webSocket();
  }

  /**
   * A connection did not come to a session: the next address is tried, and after the last one the
   * other transport, if nothing at all was heard.
   * @param {boolean} isSilent
   * @returns {boolean} whether to try that at once
   */
  failed(isSilent) {
    if (this.#elsewhere) {
      this.#elsewhere = null;
      return true;
    }
    if (++this.#place < this.#urls.length) return true;
    this.#place = 0;
    if (isSilent && this.#canFallBack) {
      this.kind = this.kind === "websocket" ? "http" : "websocket";
      if (this.kind === "http") return true;
    }
    this.#isMeasured = false;
    return false;
  }

  /**
   * A good connection is lost: the nearest address is the next, unless that one sends its clients
   * away.
   * @param {boolean} isSentAway
   * @param {string | null} elsewhere
   */
  again(isSentAway, elsewhere) {
    // Whoever came encrypted does not go on in clear.
    const isFit = elsewhere?.startsWith(this.#url.startsWith("wss:") ? "wss:" : "ws");
    this.#elsewhere = isFit ? elsewhere : null;
    this.#place = isSentAway && this.#place === 0 && this.#urls.length > 1 ? 1 : 0;
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

  get #url() {
    return this.#elsewhere ?? this.#urls[this.#place] ?? "";
  }

  #webSocket() {
    const Socket = /** @type {any} */ (this.#options.WebSocket ?? globalThis.WebSocket);
    return new Socket(this.#url, [PROTOCOL]);
  }
}
