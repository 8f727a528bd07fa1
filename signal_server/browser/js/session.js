/**
 * One signaling session: hello and welcome, requests with ids, and what lets it outlive its
 * connections: numbers, acknowledgements, resume. It knows no rooms, peers or calls; signaling.js
 * builds on it. Needs no DOM.
 * @module
 */

import { Emitter } from "./emitter.js";
import { ParleyError, unavailable } from "./errors.js";
import { Inbox } from "./inbox.js";
import { Liveness } from "./liveness.js";
import { Line } from "./line.js";
import { Opening } from "./opening.js";
import { Platform } from "./platform.js";
import { Posts } from "./posts.js";
import { Receipts } from "./receipts.js";
import { closedBy } from "./reconnect.js";
import { Requests } from "./requests.js";
import { DEFAULT_PING_S, welcomeOf } from "./welcome.js";

/** @typedef {import("./parley.d.ts").SignalingOptions} SignalingOptions */
/** @typedef {import("./parley.d.ts").Welcome} Welcome */
/** @typedef {import("./parley.d.ts").SignalingState} SignalingState */
/** @typedef {import("./parley.d.ts").Transport} Transport */
/** @typedef {import("./parley.d.ts").Ticket} Ticket */

export const REQUEST_MS = 10_000;

const GAP_CODE = 4003;
const SUPERSEDED_CODE = 4502;

/** @extends {Emitter<import("./parley.d.ts").SignalingEvents>} */
export class Session extends Emitter {
  /** @type {SignalingState} */
  state = "idle";
  /** @type {Welcome | null} */
  welcome = null;
  /** What carries the session now. @type {Transport | null} */
  transport = null;
  /** @type {SignalingOptions} */
  #options;
  #line;
  /** The hello on this connection has been answered. */
  #isGreeted = false;
  /** What takes the session up again on the next connection. @type {Ticket | null} */
  #resume = null;
  #nextId = 1;
  #requests = new Requests();
  #inbox = new Inbox(() => this.#write({ type: "ack", seq: this.#inbox.last }));
  #liveness = new Liveness((t) => this.notify("ping", { t }), () => this.#line.lost());
  /** @type {ParleyError | null} */
  #refusal = null;
  /** @type {Opening<Welcome>} */
  #opening = new Opening();
  #receipts;
  #posts = new Posts(
    (type, fields, options) => this.request(type, fields, options),
    (error) => this.#resume && this.emit("error", error),
  );
  #platform;

  /** @param {SignalingOptions} options */
  constructor(options) {
    super();
    this.#options = options;
    this.#platform = new Platform(this, options);
    this.#receipts = new Receipts(options.features?.includes("receipts") === true);
    const getToken = () => (options.getToken ? options.getToken() : this.#options.token);
    this.#line = new Line(options, getToken, {
      opened: () => this.#hello(),
      heard: (text) => this.#receive(text),
      dropped: () => this.#rest(),
      interrupted: (isOtherWay) => {
        if (this.state !== "connecting" || !isOtherWay) this.#setState("reconnecting");
      },
      noToken: (error) => (this.#refusal = error),
      ended: (code, error) => {
        if (code === SUPERSEDED_CODE) this.emit("superseded", {});
        this.#end(error ?? this.#refusal ?? closedBy(code));
      },
    });
  }

  /** @returns {Readonly<SignalingOptions>} */
  get options() {
    return this.#options;
  }

  /** Own peer id while the session lives. @returns {string | null} */
  get peer() {
    return this.welcome?.peer ?? null;
  }

  /** Of the last ping. @returns {number | null} */
  get roundTripMs() {
    return this.#liveness.roundTripMs;
  }

  /**
   * Connect, and keep connected until `close()`. Resolves with the first welcome; rejects when the
   * server says no for good, or after `connectTimeoutMs`.
   * @returns {Promise<Welcome>}
   */
  connect() {
    if (this.state === "open" && this.welcome) return Promise.resolve(this.welcome);
    if (this.#opening.promise) return this.#opening.promise;
    const limit = this.#options.connectTimeoutMs ?? 15_000;
    const late = () =>
      this.#end(this.#refusal ?? unavailable(`no answer from the server within ${limit / 1000} s`));
    const opening = this.#opening.begin(limit, late);
    if (this.state !== "reconnecting") {
      this.#setState("connecting");
      this.#platform.listen();
      this.#line.begin();
    }
    return opening;
  }

  /** Say goodbye and stay disconnected. */
  close() {
    if (this.state === "closed" || this.state === "idle") return;
    this.notify("bye");
    this.#end(null);
  }

  /**
   * The device is on another network: look at once whether the server can still be reached. The
   * platform's `online` event does the same by itself.
   */
  networkChanged() {
    this.checkConnection();
  }

  /** Look at once whether the server can still be reached, and reconnect if it cannot. */
  checkConnection() {
    if (this.state === "idle" || this.state === "closed") return;
    this.#line.hurry();
    if (this.#isGreeted) this.#liveness.doubt();
  }

  /** What another client, after this one is gone, takes this one's place with (`replaces`). @returns {Ticket | null} */
  get ticket() {
    return this.#resume && { ...this.#resume };
  }

  /**
   * Give the session a fresh access token, before the one it has expires.
   * @param {string} token
   * @returns {Promise<void>}
   */
  async refresh(token) {
    this.#options = { ...this.#options, token };
    await this.request("refresh", { token });
  }

  /** @returns {Promise<number>} round trip in milliseconds */
  ping() {
    return this.#liveness.ping();
  }

  /**
   * Send a request and wait for its `ok`. While the connection is lost the request waits for the
   * session to be resumed.
   * @param {string} type
   * @param {Record<string, unknown>} [fields]
   * @param {import("./parley.d.ts").RequestOptions} [options]
   * @returns {Promise<any>} the `ok` message
   */
  async request(type, fields = {}, { timeoutMs = REQUEST_MS, until } = {}) {
    if (!this.#resume) throw unavailable("not connected");
    if (until) this.#receipts.assertOn();
    const id = this.#nextId++;
    const message = { type, id, ...fields };
    const answer = this.#requests.add(message, timeoutMs);
    this.#receipts.follow(message);
    const arrival = until && this.#receipts.reached(id, until);
    if (this.#isGreeted && this.#write(message)) this.#requests.sent(id);
    const [ok] = await Promise.all([answer, arrival]);
    return ok;
  }

  /**
   * Send a message that must arrive, also when the connection is lost meanwhile, and whose answer
   * nobody waits for.
   * @param {string} type
   * @param {Record<string, unknown>} [fields]
   */
  post(type, fields = {}) {
    this.#posts.post(type, fields);
  }

  /**
   * Send without asking for an answer.
   * @param {string} type
   * @param {Record<string, unknown>} [fields]
   * @returns {boolean} false while not connected: the message is gone
   */
  notify(type, fields = {}) {
    return this.#isGreeted && this.#write({ type, ...fields });
  }

  /** A server message that is not the session's own business. @param {any} _message @protected */
  onMessage(_message) {}

  /** A session begins; `message` is the welcome as it came. @param {any} _message @protected */
  onWelcome(_message) {}

  /** The session goes on; what it missed follows. @param {any} _message @protected */
  onResumed(_message) {}

  /** The session is gone, and all it was part of. @param {ParleyError} _error @protected */
  onSessionLost(_error) {}

  /** The client stays closed. @protected */
  onEnd() {}

  #hello() {
    const { features = [], replaces = this.#platform.left, room, data } = this.#options;
    const successor = replaces && room ? { replaces, room, data } : {};
    const entry = this.#resume ? { resume: { ...this.#resume, last_seq: this.#inbox.last } } : successor;
    this.#inbox.acknowledge();
    this.#write({ type: "hello", id: this.#nextId++, token: this.#line.token, features, ...entry });
  }

  /** @param {Record<string, unknown>} message @returns {boolean} */
  #write(message) {
    const ack = this.#isGreeted ? this.#inbox.acknowledge() : null;
    return this.#line.send(JSON.stringify(ack === null ? message : { ...message, ack }));
  }

  /** @param {string} text */
  #receive(text) {
    /** @type {any} */
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      return;
    }
    if (typeof message?.seq === "number") {
      const taken = this.#inbox.take(message.seq);
      if (taken === "hole") this.#line.lost(GAP_CODE);
      if (taken !== "new") return;
    }
    this.emit("raw", message);
    this.#dispatch(message);
  }

  /** @param {any} message */
  #dispatch(message) {
    switch (message?.type) {
      case "welcome":
        return this.#welcomed(message);
      case "resumed":
        return this.#resumed(message);
      case "new_secret":
        if (this.#resume) this.#resume = { ...this.#resume, secret: message.resume?.secret };
        return undefined;
      case "ok":
        return this.#requests.settle(message.id)?.resolve(message);
      case "error":
        return this.#refused(message);
      case "pong":
        return this.#liveness.ponged(message.t);
      case "go_away":
        return this.#line.sentAway(message.reconnect_after_ms ?? 0, message.url ?? null);
      case "receipt":
        return this.#receipt(message);
      case "token_expiring":
        return this.#tokenExpires(message.expires_in_s);
      default:
        return this.onMessage(message);
    }
  }

  /** @param {any} message */
  #welcomed(message) {
    if (this.#resume) this.#loseSession("resume_expired");
    this.#inbox.reset();
    this.welcome = welcomeOf(message);
    this.#greeted(message);
    this.onWelcome(message);
    this.#connected();
  }

  /** @param {any} message */
  #resumed(message) {
    this.welcome = welcomeOf(message);
    this.#greeted(message);
    this.onResumed(message);
    for (const request of this.#requests.unanswered()) {
      if (this.#write(request)) this.#requests.sent(request.id);
    }
    this.emit("resumed", { replayed: message.replayed ?? 0 });
    this.#connected();
  }

  /** @param {any} message welcome or resumed */
  #greeted({ session, resume }) {
    this.#line.settled();
    this.#isGreeted = true;
    this.#refusal = null;
    this.#resume = { session, secret: resume?.secret };
    const { kind } = this.#line;
    const isOther = this.transport !== kind;
    this.transport = kind;
    this.#setState("open");
    if (isOther) this.emit("transport", kind);
    this.#liveness.start(this.welcome?.pingIntervalS ?? DEFAULT_PING_S);
  }

  #connected() {
    if (this.welcome) this.#opening.done(this.welcome);
  }

  /** @param {any} message */
  #receipt(message) {
    const receipt = this.#receipts.take(message);
    if (receipt) this.emit("receipt", receipt);
  }

  /** @param {any} message */
  #refused(message) {
    const error = ParleyError.fromWire(message);
    const waiting = this.#requests.settle(message.id);
    if (waiting) {
      this.#receipts.forget(message.id);
      return waiting.reject(error);
    }
    // An offer that was taken at first has lost to another one, which is on its way.
    if (error.code === "glare") return undefined;
    if (this.#isGreeted) return this.emit("error", error);
    if (this.#resume && (error.code === "resume_expired" || error.code === "resume_gap")) {
      this.#loseSession(error.code);
      return this.#hello();
    }
    this.#refusal = error;
    this.#line.minimumDelayMs = error.retryAfterMs ?? 0;
    return undefined;
  }

  /** @param {"resume_expired" | "resume_gap"} reason */
  #loseSession(reason) {
    const error = new ParleyError(reason, "the session is gone", { retryable: true });
    this.#resume = null;
    this.#inbox.reset();
    this.#requests.failAll(error);
    this.#receipts.clear();
    this.onSessionLost(error);
    this.emit("session_lost", { reason });
  }

  /** @param {number} expiresInS */
  async #tokenExpires(expiresInS) {
    this.emit("token_expiring", { expiresInS });
    if (!this.#options.getToken) return;
    try {
      await this.refresh(await this.#options.getToken());
    } catch (error) {
      if (this.#resume) this.emit("error", /** @type {Error} */ (error));
    }
  }

  /** Nothing can be said or answered until the next hello. */
  #rest() {
    this.#isGreeted = false;
    this.#requests.pause();
    this.#inbox.rest();
    this.#liveness.stop();
  }

  /** @param {ParleyError | null} error */
  #end(error) {
    this.#setState("closed", error);
    this.#line.drop(1000);
    this.#resume = null;
    this.#inbox.reset();
    this.#requests.failAll(error ?? unavailable("closed"));
    this.onEnd();
    this.welcome = null;
    this.transport = null;
    this.#platform.stop();
    this.#receipts.clear();
    const isOpening = this.#opening.fail(error ?? unavailable("closed"));
    if (error && !isOpening) this.emit("error", error);
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
