/**
 * The other side's candidates: those whose description is set are added, those whose description
 * is still to come wait for it, those of a replaced or ignored one are dropped.
 * @module
 */

import { ufragOf, ufragsOf } from "./sdp.js";

const HELD = 200;
const REMEMBERED_UFRAGS = 16;

export class RemoteCandidates {
  #rtc;
  #onAdded;
  /** @type {RTCIceCandidateInit[]} */
  #held = [];
  /** @type {Set<string>} */
  #ignored = new Set();
  #isIgnoring = false;
  /** @type {Set<string>} */
  #applied = new Set();

  /**
   * @param {RTCPeerConnection} rtc
   * @param {(candidate: string) => void} onAdded
   */
  constructor(rtc, onAdded) {
    this.#rtc = rtc;
    this.#onAdded = onAdded;
  }

  /** That offer is not going to be set. @param {string} sdp */
  ignore(sdp) {
    this.#isIgnoring = true;
    this.#ignored = ufragsOf(sdp);
  }

  /** That description has been set. @param {RTCSessionDescriptionInit} description */
  async applied({ type, sdp }) {
    if (type === "offer") this.#isIgnoring = false;
    this.#ignored.clear();
    this.#applied = new Set([...this.#applied, ...ufragsOf(sdp)].slice(-REMEMBERED_UFRAGS));
    for (const candidate of this.#held.splice(0)) await this.add(candidate);
  }

  /** @param {RTCIceCandidateInit} candidate */
  async add(candidate) {
    const ufrag = ufragOf(candidate);
    const current = this.#current();
    if (ufrag === null ? current.size === 0 : !current.has(ufrag)) {
      const isDead = ufrag !== null && (this.#ignored.has(ufrag) || this.#applied.has(ufrag));
      if (!isDead && this.#held.length < HELD) this.#held.push(candidate);
      return;
    }
    if (candidate.candidate) this.#onAdded(candidate.candidate);
    try {
      await this.#rtc.addIceCandidate(candidate);
    } catch (error) {
      if (!this.#isIgnoring && candidate.candidate) throw error;
    }
  }

  clear() {
    this.#held = [];
  }

  /** @returns {Set<string>} what addIceCandidate accepts now */
  #current() {
    const { currentRemoteDescription, pendingRemoteDescription, remoteDescription } = this.#rtc;
    const sdps = [currentRemoteDescription, pendingRemoteDescription, remoteDescription];
    return new Set(sdps.flatMap((description) => [...ufragsOf(description?.sdp)]));
  }
}
