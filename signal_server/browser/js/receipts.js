/**
 * What becomes of messages after their `ok`: the server tells in stages (feature `receipts`).
 * It knows no connection and no session.
 * @module
 */

import { ParleyError } from "./errors.js";

/** @typedef {import("./parley.d.ts").Receipt} Receipt */

/** Messages followed at once; the oldest one gives way. */
const FOLLOWED = 1000;
const LOST = new Set(["expired", "dropped"]);
const ORDER = ["relayed", "received", "applied"];

export class Receipts {
  /** @type {Map<number, {type: string, to: string | null, listeners: Set<(receipt: Receipt) => void>}>} */
  #followed = new Map();
  #isOn;

  /** @param {boolean} isOn the server has been asked for receipts */
  constructor(isOn) {
    this.#isOn = isOn;
  }

  /** Throws where the server tells nothing. */
  assertOn() {
    if (!this.#isOn) throw new ParleyError("wrong_state", "needs the feature receipts");
  }

  /** @param {{id: number, type: string, to?: unknown}} message that leaves now */
  follow({ id, type, to }) {
    if (!this.#isOn || (to === undefined && type !== "message")) return;
    const oldest = this.#followed.keys().next().value;
    if (this.#followed.size >= FOLLOWED && oldest !== undefined) this.#followed.delete(oldest);
    this.#followed.set(id, { type, to: typeof to === "string" ? to : null, listeners: new Set() });
  }

  /**
   * @param {number} id
   * @param {"relayed" | "received" | "applied"} until
   * @returns {Promise<void>} rejects with `undelivered` when that stage will not be reached
   */
  reached(id, until) {
    return new Promise((resolve, reject) => {
      const followed = this.#followed.get(id);
      if (!followed) return reject(undelivered("limits"));
      followed.listeners.add(({ stage, reason }) => {
        if (LOST.has(stage)) reject(undelivered(reason ?? stage));
        else if (ORDER.indexOf(stage) >= ORDER.indexOf(until)) resolve();
      });
    });
  }

  /**
   * @param {{ref: number, stage: any, reason?: string | null}} message
   * @returns {Receipt | null} null when it is about nothing that is followed
   */
  take({ ref, stage, reason }) {
    const followed = this.#followed.get(ref);
    if (!followed) return null;
    const receipt = { ref, type: followed.type, to: followed.to, stage, reason: reason ?? null };
    for (const listener of followed.listeners) listener(receipt);
    if (LOST.has(stage) || stage === "applied") this.#followed.delete(ref);
    return receipt;
  }

  /** It was refused. @param {number} id */
  forget(id) {
    this.#followed.delete(id);
  }

  /** The session is gone: nobody will tell. */
  clear() {
    const followed = [...this.#followed];
    this.#followed.clear();
    for (const [ref, { type, to, listeners }] of followed) {
      for (const listener of listeners) listener({ ref, type, to, stage: "dropped", reason: "resume_window" });
    }
  }
}

/** @param {string} reason */
const undelivered = (reason) => new ParleyError("undelivered", `the message does not arrive: ${reason}`);
