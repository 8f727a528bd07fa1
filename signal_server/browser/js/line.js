/**
 * The way to the server, kept open: one connection at a time, when to try the next one and over
 * which transport, and back to the better transport. It knows nothing of what is said on it.
 * @module
 */

import { ParleyError, timedOut } from "./errors.js";
import { reconnectDelay, shouldReconnect } from "./reconnect.js";
import { SILENCE_MS, Transports } from "./transports.js";

/** @typedef {import("./parley.d.ts").SignalingOptions} SignalingOptions */

/**
 * @typedef {object} Owner
 * @property {() => void} opened a connection is there: say hello
 * @property {(text: string) => void} heard
 * @property {() => void} dropped there is no connection now
 * @property {(isOtherWay: boolean) => void} interrupted the next one is being tried
 * @property {(error: ParleyError) => void} noToken
 * @property {(code: number, error: ParleyError | null) => void} ended no other one will be tried
 */

const SETTLED_MS = 10_000;
const TOKEN_MS = 10_000;
const CLIMB_MS = 30_000;
const CLIMB_CAP_MS = 300_000;
const LOST = 1006;
const GO_AWAY = 4000;
const SILENT = 4001;
const TOKEN_EXPIRED = 4005;

export class Line {
  /** For the hello on this connection. @type {string | undefined} */
  token;
  /** The server's wish: not to come back sooner. */
  minimumDelayMs = 0;
  /** Where the server wants its clients to go. @type {string | null} */
  #elsewhere = null;
  #options;
  #getToken;
  #owner;
  #transports;
  /** @type {any} */
  #socket = null;
  #hasHeard = false;
  #isSettled = false;
  /** Names the current attempt, so that what belongs to an older one is ignored. */
  #dial = 0;
  #attempt = 0;
  #settledAt = 0;
  /** @type {any} */
  #timer = null;
  #climbMs = CLIMB_MS;
  /** @type {any} */
  #climbTimer = null;

  /**
   * @param {SignalingOptions} options
   * @param {() => string | undefined | Promise<string | undefined>} getToken
   * @param {Owner} owner
   */
  constructor(options, getToken, owner) {
    this.#options = options;
    this.#getToken = getToken;
    this.#owner = owner;
    this.#transports = new Transports(options);
  }

  get kind() {
    return this.#transports.kind;
  }

  /** Connect now, for the first time or after a pause. */
  begin() {
    this.#attempt = 0;
    void this.#open();
  }

  /** Another network: what is waited for may work now. */
  hurry() {
    this.#climbMs = CLIMB_MS;
    if (!this.#socket) void this.#open();
  }

  /**
   * @param {string} text
   * @returns {boolean}
   */
  send(text) {
    if (this.#socket?.readyState !== 1) return false;
    this.#socket.send(text);
    return true;
  }

  /** The hello has been answered: this connection is good. */
  settled() {
    clearTimeout(this.#timer);
    this.#isSettled = true;
    this.#elsewhere = null;
    this.#settledAt = now();
    this.minimumDelayMs = 0;
    this.#climbLater();
  }

  /**
   * The server is about to close; move before it does.
   * @param {number} afterMs
   * @param {string | null} elsewhere
   */
  sentAway(afterMs, elsewhere) {
    this.minimumDelayMs = afterMs;
    this.#elsewhere = elsewhere;
    clearTimeout(this.#timer);
    // Not all at the very moment that the server named.
    const jitter = reconnectDelay(0, this.#options.random);
    this.#timer = setTimeout(() => this.lost(GO_AWAY, true), afterMs + jitter);
  }

  /**
   * The connection is gone or cannot be trusted: try the next one, if there is any sense in it.
   * @param {number} [code]
   * @param {boolean} [atOnce]
   */
  lost(code = SILENT, atOnce = false) {
    const isSilent = !this.#hasHeard;
    const isGood = this.#isSettled;
    const isTried = this.#socket !== null;
    this.drop(code);
    if (isGood) this.#transports.again(code === GO_AWAY, this.#elsewhere);
    // Whatever closed a connection that brought nothing, it may not have been the server.
    const mayMove = isTried && !isGood && (isSilent || shouldReconnect(code));
    const isOtherWay = mayMove && this.#transports.failed(isSilent);
    const isStale = code === TOKEN_EXPIRED && !this.#options.getToken;
    if (!isOtherWay && (!shouldReconnect(code) || isStale)) return this.#owner.ended(code, null);
    if (this.#settledAt && now() - this.#settledAt > SETTLED_MS) this.#attempt = 0;
    this.#settledAt = 0;
    this.#owner.interrupted(isOtherWay);
    if (isOtherWay || atOnce) {
      this.minimumDelayMs = 0;
      void this.#open();
      return;
    }
    const jitter = reconnectDelay(this.#attempt++, this.#options.random);
    this.#timer = setTimeout(() => void this.#open(), this.minimumDelayMs + jitter);
  }

  /** @param {number} code with 1000 the session is over, with any other it waits to be resumed */
  drop(code) {
    clearTimeout(this.#timer);
    clearTimeout(this.#climbTimer);
    const socket = this.#socket;
    this.#socket = null;
    this.#hasHeard = false;
    this.#isSettled = false;
    this.#dial++;
    if (socket && socket.readyState < 2) socket.close(code >= 4000 && code < 5000 ? code : 1000);
    this.#owner.dropped();
  }

  async #open() {
    clearTimeout(this.#timer);
    const dial = ++this.#dial;
    try {
      this.token = await inTime(this.#getToken());
    } catch (error) {
      if (dial !== this.#dial) return;
      this.#owner.noToken(new ParleyError("unauthenticated", `no access token: ${words(error)}`));
      // No word about the transport.
      this.#hasHeard = true;
      this.lost(LOST);
      return;
    }
    if (dial !== this.#dial) return;
    await this.#transports.measure();
    if (dial !== this.#dial) return;
    try {
      this.#use(this.#transports.open());
    } catch (error) {
      this.drop(LOST);
      this.#owner.ended(LOST, new ParleyError("bad_request", words(error)));
    }
  }

  /** @param {any} socket */
  #use(socket) {
    this.#socket = socket;
    const isCurrent = () => socket === this.#socket;
    const wait = () => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.lost(SILENT), SILENCE_MS);
    };
    wait();
    socket.onopen = () => {
      if (!isCurrent()) return;
      wait();
      this.#owner.opened();
    };
    socket.onmessage = (/** @type {{data: unknown}} */ event) => {
      if (!isCurrent()) return;
      this.#hasHeard = true;
      this.#owner.heard(String(event.data));
    };
    socket.onclose = (/** @type {{code: number}} */ event) => {
      if (!isCurrent()) return;
      // A code of the protocol is an answer, too.
      if (event.code >= 4000) this.#hasHeard = true;
      this.lost(event.code);
    };
  }

  #climbLater() {
    clearTimeout(this.#climbTimer);
    if (!this.#transports.canClimb) return;
    this.#climbTimer = setTimeout(() => void this.#climb(), this.#climbMs);
    this.#climbMs = Math.min(this.#climbMs * 2, CLIMB_CAP_MS);
  }

  /** Back to the better transport, once it gets through. */
  async #climb() {
    const socket = this.#socket;
    const works = await this.#transports.probe();
    if (socket !== this.#socket || !this.#isSettled) return;
    if (!works) {
      this.#climbLater();
      return;
    }
    this.drop(GO_AWAY);
    this.#transports.kind = "websocket";
    this.#climbMs = CLIMB_MS;
    void this.#open();
  }
}

const now = () => globalThis.performance?.now() ?? Date.now();

/**
 * @template T
 * @param {T | Promise<T>} token
 * @returns {Promise<T>}
 */
async function inTime(token) {
  let timer;
  const late = new Promise((_, reject) => (timer = setTimeout(() => reject(timedOut("getToken")), TOKEN_MS)));
  try {
    return await Promise.race([token, /** @type {Promise<never>} */ (late)]);
  } finally {
    clearTimeout(timer);
  }
}

/** @param {unknown} error */
const words = (error) => (error instanceof Error ? error.message : String(error));
