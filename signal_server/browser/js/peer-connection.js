/**
 * One RTCPeerConnection to one peer of the room: perfect negotiation (W3C webrtc-pc, section 10.7),
 * candidates that wait for their description, and ICE restarts.
 *
 * Offers and incoming messages pass one queue, strictly one after the other. That replaces the
 * flags of the W3C example (makingOffer, isSettingRemoteAnswerPending) and does not rely on the
 * platform's operations chain, which React Native lacks.
 * @module
 */

import { Emitter } from "./emitter.js";
import { pathOf } from "./path.js";
import { Recovery } from "./recovery.js";
import { RemoteCandidates } from "./remote-candidates.js";
import { ufragOf, ufragsOf } from "./sdp.js";

/** @typedef {import("./parley.d.ts").SignalingClient} Client */
/** @typedef {import("./parley.d.ts").PeerConnectionOptions} PeerConnectionOptions */

const OFFER_ATTEMPTS = 5;

/** @extends {Emitter<import("./parley.d.ts").PeerConnectionEvents>} */
export class PeerConnection extends Emitter {
  /** @type {RTCPeerConnection} */
  rtc;
  closed = false;
  #client;
  #options;
  #queue = Promise.resolve();
  #candidates;
  #recovery;
  /** @type {number | null} */
  #offered = null;
  #offerRefused = false;

  /**
   * @param {Client} client
   * @param {string} peer
   * @param {PeerConnectionOptions} [options]
   */
  constructor(client, peer, options = {}) {
    super();
    this.#client = client;
    this.#options = options;
    this.peer = peer;
    /** Name of the connection between the two peers. */
    this.pc = options.pc ?? "main";
    const Rtc = client.options.RTCPeerConnection ?? globalThis.RTCPeerConnection;
    this.rtc = new Rtc(options.rtcConfiguration);
    this.#candidates = new RemoteCandidates(this.rtc, (candidate) =>
      this.emit("candidate", { direction: "received", candidate }),
    );
    this.#recovery = new Recovery(this.rtc, options.iceRestarts, {
      isPolite: () => this.polite,
      restart: () => void this.restartIce(),
      gaveUp: () => this.emit("failed", {}),
    });
    this.#listen();
  }

  /** The side that yields when both offer at once; the room hands the roles out. */
  get polite() {
    return this.#options.polite ?? this.#client.peers.get(this.peer)?.polite ?? true;
  }

  /** Make and send an offer now; usually `negotiationneeded` does it. */
  negotiate() {
    this.#offerRefused = false;
    this.#serially(() => this.#offer());
  }

  /**
   * Replace the ICE session, with fresh TURN credentials.
   * @returns {Promise<void>}
   */
  async restartIce() {
    if (this.#refreshesIceServers) {
      try {
        this.useIceServers(await this.#client.freshIceServers());
      } catch (error) {
        // The credentials at hand may still be good.
        this.emit("error", /** @type {Error} */ (error));
      }
    }
    if (this.closed) return;
    this.#offerRefused = false;
    this.rtc.restartIce();
  }

  /**
   * Servers with fresh credentials, for the next ICE session: the one there is keeps its own.
   * @param {RTCIceServer[]} iceServers
   */
  useIceServers(iceServers) {
    if (this.closed || !this.#refreshesIceServers) return;
    // React Native has no getConfiguration.
    this.rtc.setConfiguration({ ...this.#options.rtcConfiguration, iceServers });
  }

  /** The network is another one, or the server can be reached again: restore a lost path now. */
  networkChanged() {
    if (!this.closed) void this.#recovery.networkChanged();
  }

  /**
   * Which way the media takes, once connected.
   * @returns {Promise<import("./parley.d.ts").Path | null>}
   */
  async path() {
    return this.closed ? null : pathOf(await this.rtc.getStats());
  }

  /** @param {string} [reason] */
  close(reason = "closed") {
    if (this.closed) return;
    this.closed = true;
    this.#recovery.stop();
    this.#candidates.clear();
    this.rtc.close();
    this.#post("state", { state: "closed" });
    this.emit("closed", { reason });
  }

  /**
   * A relayed message about this connection.
   * @param {any} message
   */
  receive(message) {
    this.#serially(() => this.#handle(message));
  }

  get #refreshesIceServers() {
    const { refreshIceServers, rtcConfiguration } = this.#options;
    return refreshIceServers ?? rtcConfiguration?.iceServers !== undefined;
  }

  #listen() {
    const { rtc } = this;
    rtc.addEventListener("negotiationneeded", () => {
      if (!this.#offerRefused) this.#serially(() => this.#offer());
    });
    rtc.addEventListener("icecandidate", ({ candidate }) => this.#gathered(candidate));
    rtc.addEventListener("track", (event) => this.emit("track", event));
    rtc.addEventListener("icecandidateerror", (event) => this.emit("icecandidateerror", event));
    rtc.addEventListener("connectionstatechange", () => void this.#stateChanged());
  }

  /** @param {() => unknown} step */
  #serially(step) {
    this.#queue = this.#queue.then(async () => {
      if (this.closed) return;
      try {
        await step();
      } catch (error) {
        if (!this.closed) this.emit("error", /** @type {Error} */ (error));
      }
    });
  }

  /**
   * @param {string} type
   * @param {Record<string, unknown>} fields
   */
  #post(type, fields) {
    this.#client.post(type, { to: this.peer, pc: this.pc, ...fields });
  }

  async #offer() {
    // Not stable: an answer is due, and `negotiationneeded` fires again after it.
    if (this.rtc.signalingState !== "stable") return;
    await this.rtc.setLocalDescription();
    this.#offered = null;
    this.#sendOffer(this.rtc.localDescription?.sdp ?? "", 1);
  }

  /**
   * @param {string} sdp
   * @param {number} attempt
   */
  #sendOffer(sdp, attempt) {
    this.emit("description", { direction: "sent", type: "offer" });
    const isCurrent = () =>
      this.rtc.signalingState === "have-local-offer" && this.rtc.localDescription?.sdp === sdp;
    this.#client.request("offer", { to: this.peer, pc: this.pc, sdp }).then(
      (ok) => {
        if (ok.negotiation !== undefined) this.#offered = Math.max(ok.negotiation, this.#offered ?? 0);
      },
      (error) => {
        // On glare the other's offer is on its way and this one yields to it.
        if (this.closed || error.code === "glare") return;
        if (error.retryable && attempt < OFFER_ATTEMPTS) {
          const again = () => !this.closed && isCurrent() && this.#sendOffer(sdp, attempt + 1);
          setTimeout(again, error.retryAfterMs ?? 1_000 * attempt);
          return;
        }
        this.emit("error", error);
        // Nobody will answer: return to stable, without offering the same again at once.
        this.#offerRefused = true;
        this.#serially(() => isCurrent() && this.rtc.setLocalDescription({ type: "rollback" }));
      },
    );
  }

  /** @param {any} message */
  async #handle(message) {
    switch (message.type) {
      case "offer":
        return this.#onOffer(message);
      case "answer":
      case "pranswer":
        return this.#onAnswer(message);
      case "rollback":
        if (this.rtc.signalingState === "have-remote-offer") {
          await this.rtc.setRemoteDescription({ type: "rollback", sdp: "" });
        }
        return undefined;
      case "candidate":
        for (const candidate of message.candidates ?? []) await this.#candidates.add(candidate);
        return undefined;
      case "renegotiate":
        if (message.reason === "ice_restart") return this.restartIce();
        return this.#offer();
      case "applied":
        return this.emit("applied", { negotiation: message.negotiation });
      case "state":
        return this.emit("peerstate", { state: message.state, candidateType: message.candidate_type ?? null });
    }
  }

  /** @param {{sdp: string, negotiation: number}} message */
  async #onOffer({ sdp, negotiation }) {
    const { rtc } = this;
    this.emit("description", { direction: "received", type: "offer" });
    if (!this.polite && rtc.signalingState !== "stable") return this.#candidates.ignore(sdp);
    // In have-local-offer this rolls the own offer back first (polite side).
    await this.#setRemote({ type: "offer", sdp }, negotiation);
    this.#offerRefused = false;
    await this.#options.beforeAnswer?.(rtc);
    if (this.closed) return;
    await rtc.setLocalDescription();
    this.emit("description", { direction: "sent", type: "answer" });
    const answer = { to: this.peer, pc: this.pc, sdp: rtc.localDescription?.sdp, negotiation };
    this.#client.request("answer", answer).catch((error) => {
      // A stale answer lost the race against a newer offer, which is on its way.
      if (!this.closed && error.code !== "stale_negotiation") this.emit("error", error);
    });
  }

  /** @param {{type: "answer" | "pranswer", sdp: string, negotiation: number}} message */
  async #onAnswer({ type, sdp, negotiation }) {
    const state = this.rtc.signalingState;
    if (state !== "have-local-offer" && state !== "have-remote-pranswer") return;
    if (this.#offered !== null && negotiation !== this.#offered) return;
    this.emit("description", { direction: "received", type });
    await this.#setRemote({ type, sdp }, negotiation);
  }

  /**
   * @param {RTCSessionDescriptionInit} description
   * @param {number} negotiation
   */
  async #setRemote(description, negotiation) {
    await this.rtc.setRemoteDescription(description);
    this.#post("applied", { negotiation });
    await this.#candidates.applied(description);
  }

  /** @param {RTCIceCandidate | null} candidate */
  #gathered(candidate) {
    if (this.closed) return;
    // Some browsers name the end of each generation by "" before the final null; one is enough.
    if (candidate && !candidate.candidate) return;
    if (candidate) {
      this.emit("candidate", { direction: "sent", candidate: candidate.candidate });
      this.#post("candidate", { candidate: initOf(candidate) });
      return;
    }
    const [usernameFragment = null] = ufragsOf(this.rtc.localDescription?.sdp);
    const end = { candidate: "", sdpMid: null, sdpMLineIndex: null, usernameFragment };
    this.#post("candidate", { candidate: end });
    this.emit("gathered", {});
  }

  async #stateChanged() {
    const state = this.rtc.connectionState;
    if (this.closed) return;
    this.emit("connectionstate", state);
    this.#recovery.stateChanged();
    // Whatever cut this path may have cut the way to the server, too.
    if (state === "disconnected") this.#client.checkConnection();
    const path = state === "connected" ? await this.path().catch(() => null) : null;
    if (this.closed || state !== this.rtc.connectionState) return;
    this.#post("state", { state, candidate_type: path?.localType ?? null });
    if (path) this.emit("path", path);
  }
}

/**
 * @param {RTCIceCandidate} candidate
 * @returns {RTCIceCandidateInit}
 */
function initOf({ candidate, sdpMid, sdpMLineIndex, usernameFragment }) {
  return {
    candidate,
    sdpMid,
    sdpMLineIndex,
    usernameFragment: usernameFragment ?? ufragOf({ candidate }),
  };
}
