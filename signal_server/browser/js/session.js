/**
 * One signaling session over WebSockets: hello and welcome, requests with ids, liveness, and
 * reconnection. It knows no rooms, peers or calls; signaling.js builds on it. Needs no DOM.
 * @module
 */

import { Emitter } from "./emitter.js";
import { ParleyError, timedOut, unavailable } from "./errors.js";
import { closedBy, reconnectDelay, shouldReconnect } from "./reconnect.js";

/** @typedef {import("./parley.d.ts").SignalingOptions} SignalingOptions */
/** @typedef {import("./parley.d.ts").Welcome} Welcome */
/** @typedef {import("./parley.d.ts").SignalingState} SignalingState */
/** @typedef {{resolve: (value: any) => void, reject: (error: Error) => void, timer: any}} Waiting */

export const PROTOCOL = "parley.v1.json";
export const REQUEST_MS = 10_000;

const SETTLED_MS = 10_000;
const HANDSHAKE_MS = 10_000;
const PING_TIMEOUT_MS = 5_000;
const DEFAULT_PING_S = 10;
const PING_TIMEOUT_CODE = 4001;
const TOKEN_EXPIRED_CODE = 4005;

/** @extends {Emitter<import("./parley.d.ts").SignalingEvents>} */
export class Session extends Emitter {
  /** @type {SignalingState} */
  state = "idle";
  /** @type {Welcome | null} */
  welcome = null;
  /** @type {number | null} */
  roundTripMs = null;
  /** @type {SignalingOptions} */
  #options;
  /** @type {any} */
  #socket = null;
  /** Names the current attempt, so that what belongs to an older one is ignored. */
  #dial = 0;
  #attempt = 0;
  #welcomedAt = 0;
  #nextId = 1;
  #lastSeq = 0;
  /** @type {Map<string | number, Waiting>} */
  #waiting = new Map();
  /** @type {Map<number, Waiting>} */
  #pings = new Map();
  /** @type {ParleyError | null} */
  #refusal = null;
  #minimumDelayMs = 0;
  /** @type {any} */
  #timer = null;
  /** @type {any} */
  #pingTimer = null;
  /** @type {{promise: Promise<Welcome>, resolve: (w: Welcome) => void, reject: (e: Error) => void, timer: any} | null} */
  #connecting = null;
  #onOnline = () => this.#online();

  /** @param {SignalingOptions} options */
  constructor(options) {
    super();
    this.#options = options;
  }

  /** @returns {Readonly<SignalingOptions>} */
  get options() {
    return this.#options;
  }

  /** Own peer id while welcomed. @returns {string | null} */
  get peer() {
    return this.welcome?.peer ?? null;
  }

  /**
   * Connect, and keep connected until `close()`. Resolves with the first welcome; rejects when the
   * server says no for good, or after `connectTimeoutMs`.
   * @returns {Promise<Welcome>}
   */
  connect() {
    if (this.state === "open" && this.welcome) return Promise.resolve(this.welcome);
    if (this.#connecting) return this.#connecting.promise;
    const limit = this.#options.connectTimeoutMs ?? 15_000;
    const late = () =>
      this.#end(this.#refusal ?? unavailable(`no answer from the server within ${limit / 1000} s`));
    /** @type {any} */
    const connecting = { timer: setTimeout(late, limit) };
    connecting.promise = new Promise((resolve, reject) => Object.assign(connecting, { resolve, reject }));
    this.#connecting = connecting;
    if (this.state !== "reconnecting") {
      this.#attempt = 0;
      this.#setState("connecting");
      /** @type {any} */ (globalThis).addEventListener?.("online", this.#onOnline);
      void this.#open();
    }
    return connecting.promise;
  }

  /** Say goodbye and stay disconnected. */
  close() {
    if (this.state === "closed" || this.state === "idle") return;
    this.notify("bye");
    this.#end(null);
  }

  /**
   * A server message that is not the session's own business.
   * @param {any} _message
   * @protected
   */
  onMessage(_message) {}

  /**
   * A session begins; `message` is the welcome as it came.
   * @param {any} _message
   * @protected
   */
  onWelcome(_message) {}

  /**
   * The connection is gone, for now or for good.
   * @param {ParleyError} _error
   * @protected
   */
  onLost(_error) {}

  /** The client stays closed. @protected */
  onEnd() {}

  /**
   * @returns {Promise<number>} round trip in milliseconds
   */
  ping() {
    const t = this.#nextId++;
    const sent = now();
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#pings.delete(t);
        reject(timedOut("ping"));
      }, PING_TIMEOUT_MS);
      this.#pings.set(t, {
        resolve: () => resolve((this.roundTripMs = now() - sent)),
        reject,
        timer,
      });
      if (!this.notify("ping", { t })) {
        clearTimeout(timer);
        this.#pings.delete(t);
        reject(unavailable("not connected"));
      }
    });
  }

  /**
   * Send a request and wait for its `ok`.
   * @param {string} type
   * @param {Record<string, unknown>} [fields]
   * @param {{timeoutMs?: number}} [options]
   * @returns {Promise<any>} the `ok` message
   */
  request(type, fields = {}, { timeoutMs = REQUEST_MS } = {}) {
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      if (this.state !== "open" || !this.#write({ type, id, ...fields })) {
        reject(unavailable("not connected"));
        return;
      }
      const timer = setTimeout(() => {
        this.#waiting.delete(id);
        reject(timedOut(type));
      }, timeoutMs);
      this.#waiting.set(id, { resolve, reject, timer });
    });
  }

  /**
   * Send without asking for an answer.
   * @param {string} type
   * @param {Record<string, unknown>} [fields]
   * @returns {boolean} false while not connected: the message is gone
   */
  notify(type, fields = {}) {
    return this.state === "open" && this.#write({ type, ...fields });
  }

  async #open() {
    const dial = ++this.#dial;
    /** @type {string | undefined} */
    let token;
    try {
      token = this.#options.getToken ? await this.#options.getToken() : this.#options.token;
    } catch (error) {
      if (dial !== this.#dial) return;
      this.#refusal = new ParleyError("unauthenticated", `no access token: ${words(error)}`);
      this.#lost(1006);
      return;
    }
    if (dial !== this.#dial || this.state === "closed") return;
    const Socket = this.#options.WebSocket ?? globalThis.WebSocket;
    /** @type {any} */
    let socket;
    try {
      socket = new Socket(this.#options.url, [PROTOCOL]);
    } catch (error) {
      this.#end(new ParleyError("bad_request", words(error)));
      return;
    }
    this.#socket = socket;
    this.#timer = setTimeout(() => this.#lost(PING_TIMEOUT_CODE), HANDSHAKE_MS);
    socket.onopen = () => {
      const features = this.#options.features ?? [];
      if (socket === this.#socket) this.#write({ type: "hello", id: this.#nextId++, token, features });
    };
    socket.onmessage = (/** @type {{data: unknown}} */ event) => {
      if (socket === this.#socket) this.#receive(event.data);
    };
    socket.onclose = (/** @type {{code: number}} */ event) => {
      if (socket === this.#socket) this.#lost(event.code);
    };
  }

  /**
   * @param {Record<string, unknown>} message
   * @returns {boolean}
   */
  #write(message) {
    if (this.#socket?.readyState !== 1) return false;
    this.#socket.send(JSON.stringify(message));
    return true;
  }

  /** @param {unknown} text */
  #receive(text) {
    /** @type {any} */
    let message;
    try {
      message = JSON.parse(String(text));
    } catch {
      return;
    }
    if (typeof message.seq === "number") {
      if (message.seq <= this.#lastSeq) return;
      this.#lastSeq = message.seq;
    }
    this.emit("raw", message);
    this.#dispatch(message);
  }

  /** @param {any} message */
  #dispatch(message) {
    switch (message.type) {
      case "welcome":
        return this.#welcomed(message);
      case "ok":
        return this.#settle(message.id)?.resolve(message);
      case "error":
        return this.#refused(message);
      case "pong":
        return this.#ponged(message.t);
      case "go_away":
        this.#minimumDelayMs = message.reconnect_after_ms ?? 0;
        return undefined;
      default:
        return this.onMessage(message);
    }
  }

  /** @param {any} message */
  #welcomed(message) {
    clearTimeout(this.#timer);
    this.#welcomedAt = now();
    this.#refusal = null;
    this.#minimumDelayMs = 0;
    this.welcome = welcomeOf(message);
    this.#setState("open");
    this.#pingLater(this.welcome.pingIntervalS);
    this.onWelcome(message);
    const connecting = this.#connecting;
    this.#connecting = null;
    clearTimeout(connecting?.timer);
    connecting?.resolve(this.welcome);
  }

  /** @param {any} message */
  #refused(message) {
    const error = ParleyError.fromWire(message);
    const waiting = this.#settle(message.id);
    if (waiting) return waiting.reject(error);
    if (this.state === "open") return this.emit("error", error);
    this.#refusal = error;
    this.#minimumDelayMs = error.retryAfterMs ?? 0;
    return undefined;
  }

  /**
   * @param {string | number | undefined} id
   * @returns {Waiting | undefined}
   */
  #settle(id) {
    if (id === undefined || id === null) return undefined;
    const waiting = this.#waiting.get(id);
    this.#waiting.delete(id);
    clearTimeout(waiting?.timer);
    return waiting;
  }

  /** @param {number} t */
  #ponged(t) {
    const waiting = this.#pings.get(t);
    this.#pings.delete(t);
    clearTimeout(waiting?.timer);
    waiting?.resolve(undefined);
  }

  /** @param {number} intervalS */
  #pingLater(intervalS) {
    clearTimeout(this.#pingTimer);
    this.#pingTimer = setTimeout(() => this.#checkAlive(intervalS), intervalS * 1000);
  }

  /** @param {number} intervalS */
  #checkAlive(intervalS) {
    const socket = this.#socket;
    this.ping().then(
      () => socket === this.#socket && this.#pingLater(intervalS),
      // A half-open socket fires no close event for minutes.
      () => socket === this.#socket && this.#lost(PING_TIMEOUT_CODE),
    );
  }

  #online() {
    if (this.state === "reconnecting" && !this.#socket) {
      clearTimeout(this.#timer);
      void this.#open();
    } else if (this.state === "open") {
      this.#checkAlive(this.welcome?.pingIntervalS ?? DEFAULT_PING_S);
    }
  }

  /** @param {number} code */
  #lost(code) {
    this.#dropSocket(code);
    const staleToken = code === TOKEN_EXPIRED_CODE && !this.#options.getToken;
    if (!shouldReconnect(code) || staleToken) {
      this.#end(this.#refusal ?? closedBy(code));
      return;
    }
    if (this.#welcomedAt && now() - this.#welcomedAt > SETTLED_MS) this.#attempt = 0;
    this.#welcomedAt = 0;
    this.#setState("reconnecting");
    const jitter = reconnectDelay(this.#attempt++, this.#options.random);
    this.#timer = setTimeout(() => void this.#open(), this.#minimumDelayMs + jitter);
  }

  /** @param {number} code */
  #dropSocket(code) {
    clearTimeout(this.#timer);
    clearTimeout(this.#pingTimer);
    const socket = this.#socket;
    this.#socket = null;
    this.#lastSeq = 0;
    this.#dial++;
    if (socket && socket.readyState < 2) socket.close(code === PING_TIMEOUT_CODE ? code : 1000);
    const gone = unavailable("the connection was lost");
    const waiting = [...this.#waiting.values(), ...this.#pings.values()];
    this.#waiting.clear();
    this.#pings.clear();
    for (const one of waiting) {
      clearTimeout(one.timer);
      one.reject(gone);
    }
    this.onLost(gone);
  }

  /** @param {ParleyError | null} error */
  #end(error) {
    this.#setState("closed", error);
    this.#dropSocket(1000);
    this.onEnd();
    this.welcome = null;
    /** @type {any} */ (globalThis).removeEventListener?.("online", this.#onOnline);
    const connecting = this.#connecting;
    this.#connecting = null;
    clearTimeout(connecting?.timer);
    connecting?.reject(error ?? unavailable("closed"));
    if (error && !connecting) this.emit("error", error);
  }

  /**
   * @param {SignalingState} state
   * @param {ParleyError | null} [error]
   */
  #setState(state, error = null) {
    if (this.state === state) return;
    this.state = state;
    this.emit("state", { state, error });
  }
}

const now = () => globalThis.performance?.now() ?? Date.now();

/** @param {unknown} error */
const words = (error) => (error instanceof Error ? error.message : String(error));

/**
 * @param {any} message
 * @returns {Welcome}
 */
function welcomeOf(message) {
  return {
    session: message.session,
    peer: message.peer,
    identity: message.identity,
    node: message.node,
    region: message.region,
    pingIntervalS: message.ping_interval_s ?? DEFAULT_PING_S,
    limits: message.limits ?? {},
  };
}
