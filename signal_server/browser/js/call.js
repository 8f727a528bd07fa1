/**
 * One call, as this device sees it: the steps that the server keeps (invite, ringing, accept,
 * reject, cancel, hang up), and then the media of one connection to the device that answered.
 * @module
 */

import { Emitter } from "./emitter.js";
import { OwnMedia } from "./own-media.js";

/** @typedef {import("./parley.d.ts").SignalingClient} Client */
/** @typedef {import("./parley.d.ts").CallFacts} CallFacts */
/** @typedef {import("./parley.d.ts").CallOptions} CallOptions */
/** @typedef {import("./parley.d.ts").CallMedia} CallMedia */
/** @typedef {import("./parley.d.ts").PeerConnection} PeerConnection */
/** @typedef {"media" | "reconnect" | "ready"} Topic what parties tell each other during a call */

const RECONNECT_MS = 15_000;
const STEP_MS = 30_000;

/** @extends {Emitter<import("./parley.d.ts").CallEvents>} */
export class Call extends Emitter {
  /** @type {import("./parley.d.ts").CallState} */
  state;
  /** @type {string | null} */
  endReason = null;
  /** @type {CallMedia} */
  remoteMedia;
  /** @type {MediaStream | null} */
  remoteStream = null;
  /** @type {PeerConnection | null} */
  connection = null;
  #client;
  /** @type {CallOptions} */
  #options;
  #own = new OwnMedia();
  /** The server has paired the two devices. */
  #isPaired = false;
  /** This side makes the offers. */
  #offers = false;
  /** This side asked for a new connection and waits for the other to be ready. */
  #reconnecting = false;
  #attempt = 0;
  /** @type {any} */
  #timer;

  /**
   * @param {Client} client
   * @param {CallFacts} facts
   * @param {CallOptions} options
   */
  constructor(client, facts, options) {
    super();
    this.#client = client;
    this.#options = options;
    /** Given by the server. */
    this.id = facts.id ?? null;
    this.direction = facts.direction;
    /** The other device; of an outgoing call known once one has answered. */
    this.peer = facts.peer ?? null;
    this.identity = facts.identity;
    this.room = facts.room ?? null;
    this.isWaiting = facts.isWaiting ?? false;
    this.data = facts.data ?? null;
    this.remoteMedia = facts.media ?? { audio: false, video: false };
    this.state = facts.direction === "outgoing" ? "calling" : "ringing";
    this.#own.take(options.stream);
  }

  /** What this side sends. @returns {CallMedia} */
  get media() {
    return this.#own.sent;
  }

  get isMuted() {
    return this.#own.isMuted;
  }

  /**
   * @param {string[]} to identities
   * @returns {Promise<void>}
   */
  async invite(to) {
    const { lifetimeS, data, room } = this.#options;
    const invitation = { to, media: this.#wish(), lifetime_s: lifetimeS, data, room: room ?? undefined };
    try {
      const { call } = await this.#client.request("call_invite", invitation, { timeoutMs: STEP_MS });
      this.id ??= call;
    } catch (error) {
      this.end("unreachable", /** @type {Error} */ (error));
    }
    // Given up before the server had given it a name.
    if (this.state === "ended") this.#step("call_cancel");
  }

  /** Tell the caller that this device rings. */
  ring() {
    this.#step("call_ringing");
  }

  /**
   * Answer an incoming call. Without `video` in the options, video depends on the stream.
   * @param {CallOptions} [options]
   * @returns {Promise<void>}
   */
  async accept(options = {}) {
    if (this.state !== "ringing" || this.direction !== "incoming") return;
    this.#options = options;
    this.#own.take(options.stream);
    for (const other of this.#client.calls) {
      const isRinging = other.direction === "incoming" && other.state === "ringing";
      if (other !== this && !isRinging) other.hangup();
    }
    this.#setState("connecting");
    const answer = { call: this.id, media: this.#wish() };
    try {
      await this.#client.request("call_accept", answer, { timeoutMs: STEP_MS });
    } catch (error) {
      if (!this.#isPaired) this.end("unreachable", /** @type {Error} */ (error));
    }
  }

  /** Refuse an incoming call, for all devices of this identity. */
  decline() {
    this.#reject("declined");
  }

  /** Refuse an incoming call on this device; others may still answer it. */
  busy() {
    this.#reject("busy");
  }

  /** End the call, or stop ringing. */
  hangup() {
    if (this.state === "ended") return;
    if (this.direction === "incoming" && this.state === "ringing") return this.decline();
    const isPending = this.state === "calling" || this.state === "ringing";
    this.#leave(isPending ? "call_cancel" : "call_hangup", isPending ? "canceled" : "user_hangup");
  }

  /**
   * Silence or open the microphone; the device stays open.
   * @param {boolean} muted
   */
  mute(muted) {
    this.#own.mute(muted);
    this.#tellMedia();
  }

  /**
   * Send this track, or nothing, without a new negotiation.
   * @param {"audio" | "video"} kind
   * @param {MediaStreamTrack | null} track
   * @returns {Promise<void>}
   */
  async replaceTrack(kind, track) {
    await this.#own.replace(kind, track, this.connection?.rtc);
    this.#tellMedia();
  }

  /**
   * The rest of the call goes only through the relay, or any way again. Takes a new connection: an
   * ICE restart keeps a direct path as long as it works.
   * @param {RTCIceTransportPolicy} iceTransportPolicy
   */
  async setIceTransportPolicy(iceTransportPolicy) {
    this.#options = { ...this.#options, iceTransportPolicy };
    if (!this.connection || this.state === "ended") return;
    this.#disconnect();
    this.#reconnecting = true;
    this.#timer = setTimeout(() => this.#drop(), RECONNECT_MS);
    await this.#tell("reconnect");
  }

  /**
   * Whether this call is about to connect to that device.
   * @param {string} peer
   */
  awaits(peer) {
    return this.state === "connecting" && this.#isPaired && this.peer === peer && this.connection === null;
  }

  /** @param {any} message of the server */
  receive(message) {
    switch (message.type) {
      case "call_ringing":
        if (this.state === "calling") this.#setState("ringing");
        return this.emit("ringing", { device: message.device, identity: message.identity });
      case "call_accepted":
        return this.#paired(message);
      case "call_ended":
        return this.end(message.reason);
    }
  }

  /** @param {{about: Topic, media?: unknown}} data of the other party */
  said({ about, media }) {
    switch (about) {
      case "reconnect":
        // Both asked at once: the caller's wish is followed, each side with its own policy.
        if (!this.#reconnecting || !this.#offers) void this.#reconnect();
        break;
      case "ready":
        if (this.#reconnecting) void this.#offerMedia();
        break;
      case "media":
        this.remoteMedia = mediaOf(media);
        this.emit("media", this.remoteMedia);
    }
  }

  /**
   * The call is over on this device; the server knows, or is told by the one who asks.
   * @param {string} reason
   * @param {Error | null} [error]
   */
  end(reason, error = null) {
    if (this.state === "ended") return;
    clearTimeout(this.#timer);
    this.endReason = reason;
    this.#setState("ended");
    this.connection?.close(reason);
    this.emit("ended", { reason, error });
  }

  /** @param {"declined" | "busy"} reason */
  #reject(reason) {
    if (this.state !== "ringing" || this.direction !== "incoming") return;
    this.#step("call_reject", { reason });
    this.end(reason);
  }

  /**
   * @param {"call_cancel" | "call_hangup"} step
   * @param {string} reason
   */
  #leave(step, reason) {
    if (this.state === "ended") return;
    this.#step(step, step === "call_hangup" ? { reason } : {});
    this.end(reason);
  }

  /** The other device is not to be had any more. */
  #drop() {
    if (this.state === "ended") return;
    this.#step("call_hangup");
    this.end("unreachable");
  }

  /**
   * Tell the server. What it answers does not change what this device does.
   * @param {string} type
   * @param {Record<string, unknown>} [fields]
   */
  #step(type, fields = {}) {
    if (this.id === null) return;
    const message = { call: this.id, ...fields };
    this.#client.request(type, message, { timeoutMs: STEP_MS }).catch(() => {});
  }

  /** @param {any} message call_accepted */
  #paired({ from, device, identity, room, media }) {
    if (this.#isPaired || this.state === "ended") return;
    this.#isPaired = true;
    this.#offers = from === this.#client.peer;
    this.peer = this.#offers ? device : from;
    this.identity = identity;
    this.room = room;
    this.#setState("connecting");
    if (this.#offers) {
      this.remoteMedia = mediaOf(media);
      this.emit("media", this.remoteMedia);
    }
    this.emit("accepted", { device, identity, media: mediaOf(media) });
    void this.#meet();
  }

  /** The server joins the two devices in a room. The one who called offers. */
  async #meet() {
    const isThere = await this.#client.present(this.peer ?? "");
    if (this.state === "ended") return;
    if (!isThere) return this.#drop();
    if (this.#offers) await this.#offerMedia();
    else await this.#connect();
    // The invitation said what was wished for; this is what there is.
    this.#tellMedia();
  }

  async #offerMedia() {
    this.#reconnecting = false;
    const connection = await this.#connect();
    if (connection) this.#own.offer(connection.rtc);
  }

  /** The other side wants a new connection and will make the offer. */
  async #reconnect() {
    if (this.state !== "connecting" && this.state !== "active") return;
    this.#reconnecting = false;
    this.#disconnect();
    if (await this.#connect()) await this.#tell("ready");
  }

  #disconnect() {
    const { connection } = this;
    this.connection = null;
    this.remoteStream = null;
    connection?.close("reconnect");
    this.#setState("connecting");
  }

  /** @returns {Promise<PeerConnection | null>} null when the call, or this attempt, is over before */
  async #connect() {
    const attempt = ++this.#attempt;
    clearTimeout(this.#timer);
    const { iceTransportPolicy } = this.#options;
    let { iceServers } = this.#options;
    try {
      iceServers ??= await this.#client.freshIceServers();
    } catch (error) {
      // Without servers a direct connection may still work.
      this.emit("warning", /** @type {Error} */ (error));
    }
    if (this.state === "ended" || attempt !== this.#attempt) return null;
    const connection = this.#client.peerConnection(this.peer ?? "", {
      rtcConfiguration: { iceServers: iceServers ?? [], iceTransportPolicy, bundlePolicy: "max-bundle" },
      refreshIceServers: this.#options.iceServers === undefined,
      beforeAnswer: (rtc) => this.#own.answer(rtc),
    });
    this.connection = connection;
    connection.on("track", ({ track }) => this.#remoteTrack(track));
    connection.on("connectionstate", (state) => {
      if (state === "connected" && this.state === "connecting") this.#setState("active");
    });
    connection.on("failed", () => this.#leave("call_hangup", "ice_failed"));
    connection.on("closed", () => {
      if (this.connection === connection) this.#drop();
    });
    this.emit("connection", connection);
    return connection;
  }

  /** @param {MediaStreamTrack} track */
  #remoteTrack(track) {
    if (this.remoteStream?.getTracks().includes(track)) return;
    const Stream = this.#client.options.MediaStream ?? globalThis.MediaStream;
    this.remoteStream ??= new Stream();
    this.remoteStream.addTrack(track);
    this.emit("remotestream", this.remoteStream);
  }

  /** What this side wants to use. @returns {CallMedia} */
  #wish() {
    const { audio = true, video = this.#own.hasVideo } = this.#options;
    return { audio, video };
  }

  #tellMedia() {
    if (this.connection) void this.#tell("media", { media: this.media });
  }

  /**
   * @param {Topic} about
   * @param {Record<string, unknown>} [fields]
   */
  async #tell(about, fields = {}) {
    const data = { parley: "call", call: this.id, about, ...fields };
    try {
      await this.#client.send(this.peer ?? "", data);
    } catch {
      // Whoever is gone is announced by the server.
    }
  }

  /** @param {import("./parley.d.ts").CallState} state */
  #setState(state) {
    if (this.state === state) return;
    this.state = state;
    this.emit("state", state);
  }
}

/**
 * @param {any} media
 * @returns {CallMedia}
 */
export function mediaOf(media) {
  return { audio: media?.audio === true, video: media?.video === true };
}
