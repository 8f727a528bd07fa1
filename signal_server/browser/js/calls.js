/**
 * The calls of one client: which message belongs to which call, and whether this device is busy.
 * @module
 */

import { Call, mediaOf } from "./call.js";

/** @typedef {import("./parley.d.ts").CallOptions} CallOptions */

/** Messages kept of calls that this device has placed and that have no id yet. */
const EARLY = 64;
/** What a resumed session has missed has come by then. */
const REPLAY_MS = 5_000;

export class Calls {
  #client;
  /** @type {Set<Call>} */
  #calls = new Set();
  /** @type {any[]} */
  #early = [];

  /** @param {any} client */
  constructor(client) {
    this.#client = client;
  }

  /** Those that are not over. @returns {Call[]} */
  get current() {
    return [...this.#calls];
  }

  /**
   * @param {string[]} to identities
   * @param {CallOptions} options
   * @returns {Call}
   */
  place(to, options) {
    this.hangupAll();
    const [identity = ""] = to;
    const call = new Call(this.#client, { direction: "outgoing", identity }, options);
    this.#hold(call);
    call.invite(to).then(() => {
      for (const message of this.#early.splice(0)) this.receive(message);
    });
    return call;
  }

  /**
   * @param {any} message of the server about a call
   */
  receive(message) {
    if (message.type === "call_invite") return this.#rung(message);
    const call = this.#find(message.call);
    if (!call) {
      // Over HTTP this may overtake the answer that gives the call its id.
      const isEarly = this.current.some(({ id }) => id === null) && this.#early.length < EARLY;
      if (isEarly) this.#early.push(message);
      return;
    }
    if (message.type === "call_ended" && message.replaced_by && call.direction === "outgoing") {
      return this.#replace(call, message.replaced_by);
    }
    call.receive(message);
  }

  /**
   * What the other party of a call says about its side.
   * @param {{from: string, data: any}} message
   */
  said({ from, data }) {
    const call = this.#find(data.call);
    if (call?.peer === from) call.said(data);
  }

  /**
   * A session goes on. What was missed follows; this catches what is missing even then.
   * @param {{call: string}[]} known to the server
   */
  resumed(known) {
    const ids = new Set(known.map(({ call }) => call));
    const gone = this.current.filter(({ id }) => id !== null && !ids.has(id));
    if (gone.length) setTimeout(() => gone.forEach((call) => call.end("unreachable")), REPLAY_MS);
  }

  /** @param {string} reason */
  endAll(reason) {
    for (const call of this.current) call.end(reason);
  }

  hangupAll() {
    for (const call of this.current) call.hangup();
  }

  /** @param {any} message */
  #rung(message) {
    if (this.#find(message.call)) return;
    const call = new Call(this.#client, {
      direction: "incoming",
      id: message.call,
      peer: message.from,
      identity: message.identity,
      room: message.room,
      media: mediaOf(message.media),
      isWaiting: message.waiting === true,
      data: message.data ?? null,
    }, {});
    if (this.#calls.size > 0 && !this.#client.options.callWaiting) return call.busy();
    this.#hold(call);
    call.ring();
    this.#client.emit("call", call);
  }

  /**
   * Both parties have called each other, and the server has joined them in one call.
   * @param {Call} call
   * @param {string} id of the call that goes on
   */
  #replace(call, id) {
    this.#find(id)?.end("answered_elsewhere");
    call.id = id;
  }

  /** @param {string | null} id */
  #find(id) {
    return this.current.find((call) => call.id === id && id !== null);
  }

  /** @param {Call} call */
  #hold(call) {
    this.#calls.add(call);
    call.once("ended", () => {
      this.#calls.delete(call);
      this.#client.callOver(call);
    });
  }
}
