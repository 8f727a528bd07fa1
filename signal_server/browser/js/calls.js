/**
 * The calls of one client: which message belongs to which call, and who is busy.
 * @module
 */

import { Call, mediaOf } from "./call.js";

/** @typedef {import("./parley.d.ts").CallOptions} CallOptions */

/** The calls of one client: at most one that is not over. */
export class Calls {
  #client;
  /** @type {Call | null} */
  #current = null;

  /** @param {any} client */
  constructor(client) {
    this.#client = client;
  }

  /**
   * @param {string} peer
   * @param {CallOptions} options
   * @returns {Call}
   */
  place(peer, options) {
    this.#current?.hangup();
    const call = new Call(this.#client, peer, callId(), "outgoing", options);
    this.#hold(call);
    call.invite();
    return call;
  }

  /** @param {{from: string, identity: string, data: any}} message */
  receive({ from, data }) {
    const current = this.#current;
    if (data.action !== "invite") {
      if (current?.peer === from && current.id === data.call) current.receive(data);
      return;
    }
    if (typeof data.call !== "string") return;
    if (current?.peer === from && current.state === "calling") {
      // Both ring each other: the lesser id is the call, on both sides.
      if (data.call < current.id) current.yieldTo(data.call);
      return;
    }
    if (current) {
      this.#client.send(from, { parley: "call", action: "busy", call: data.call }).catch(() => {});
      return;
    }
    const call = new Call(this.#client, from, data.call, "incoming", {});
    call.remoteMedia = mediaOf(data.media);
    this.#hold(call);
    this.#client.emit("call", call);
  }

  /**
   * @param {string} reason
   * @param {string} [peer] only with this peer
   */
  endAll(reason, peer) {
    const call = this.#current;
    if (call && (peer === undefined || call.peer === peer)) call.end(reason);
  }

  /** @param {Call} call */
  #hold(call) {
    this.#current = call;
    call.once("ended", () => {
      if (this.#current === call) this.#current = null;
    });
  }
}

/** @returns {string} */
function callId() {
  const digits = Array.from({ length: 4 }, () => Math.floor(Math.random() * 2 ** 32).toString(36));
  return digits.join("").slice(0, 26);
}
