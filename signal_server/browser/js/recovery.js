/**
 * When an RTCPeerConnection gets a new ICE session: after its path was lost, after it has failed,
 * and at once where the network is another one. It knows neither signaling nor negotiation.
 * @module
 */

import { arrivalsOf } from "./path.js";

const ICE_RESTARTS = 3;
const DISCONNECTED_GRACE_MS = 4_000;
/** The polite side restarts ICE later, so that the two ends rarely do it at once. */
const POLITE_EXTRA_MS = 2_000;
/** On a path that works something arrives in this time: media, or else it is cheap to restart. */
const DOUBT_MS = 1_000;
/** A new ICE session gets this time before it is doubted, too. */
const TRIAL_MS = 4_000;

/**
 * @typedef {object} Owner
 * @property {() => boolean} isPolite
 * @property {() => void} restart
 * @property {() => void} gaveUp no attempt is left
 */

export class Recovery {
  #rtc;
  #limit;
  #owner;
  #restarts = 0;
  #restartedAt = -Infinity;
  /** @type {any} */
  #timer = null;

  /**
   * @param {RTCPeerConnection} rtc
   * @param {number | undefined} limit attempts in a row
   * @param {Owner} owner
   */
  constructor(rtc, limit, owner) {
    this.#rtc = rtc;
    this.#limit = limit ?? ICE_RESTARTS;
    this.#owner = owner;
  }

  /** `connectionState` is another one. */
  stateChanged() {
    clearTimeout(this.#timer);
    const extra = this.#owner.isPolite() ? POLITE_EXTRA_MS : 0;
    switch (this.#rtc.connectionState) {
      case "connected":
        this.#restarts = 0;
        break;
      case "disconnected":
        return this.#later(DISCONNECTED_GRACE_MS + extra);
      case "failed":
        return this.#later(extra);
    }
  }

  /** The network is another one, or the server can be reached again. */
  async networkChanged() {
    const { connectionState } = this.#rtc;
    if (connectionState === "disconnected" || connectionState === "failed") {
      this.#restarts = 0;
      this.#later(0);
    } else if (connectionState === "connected" && now() - this.#restartedAt > TRIAL_MS && (await this.#isSilent())) {
      this.#restarts = 0;
      this.#later(0);
    }
  }

  stop() {
    clearTimeout(this.#timer);
  }

  /** Whether nothing arrives, while the platform has not noticed yet. @returns {Promise<boolean>} */
  async #isSilent() {
    const before = await this.#arrivals();
    if (before === null) return false;
    await new Promise((resolve) => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(resolve, DOUBT_MS);
    });
    const { connectionState } = this.#rtc;
    return connectionState === "connected" && (await this.#arrivals()) === before;
  }

  /** @returns {Promise<number | null>} */
  async #arrivals() {
    return arrivalsOf(await this.#rtc.getStats());
  }

  /** @param {number} afterMs */
  #later(afterMs) {
    clearTimeout(this.#timer);
    if (this.#restarts >= this.#limit) {
      if (this.#rtc.connectionState === "failed") this.#owner.gaveUp();
      return;
    }
    this.#timer = setTimeout(() => {
      this.#restarts++;
      this.#restartedAt = now();
      this.#owner.restart();
    }, afterMs);
  }
}

const now = () => globalThis.performance?.now() ?? Date.now();
