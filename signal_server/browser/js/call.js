/**
 * A call between two peers of a room: ring, accept, decline, hang up, and the media of one
 * connection. Ringing travels as application messages between the two peers; calls.js routes them.
 *
 * The audio and video transceivers exist from the start and stay sendrecv, so that camera and
 * microphone come and go by replaceTrack, without a new negotiation.
 * @module
 */

import { Emitter } from "./emitter.js";

/** @typedef {import("./parley.d.ts").SignalingClient} Client */
/** @typedef {import("./parley.d.ts").CallOptions} CallOptions */
/** @typedef {import("./parley.d.ts").CallMedia} CallMedia */
/** @typedef {import("./parley.d.ts").PeerConnection} PeerConnection */
/** @typedef {"invite" | "accept" | "decline" | "cancel" | "hangup" | "busy" | "media" | "reconnect" | "ready"} Action */

const RING_MS = 45_000;
const RECONNECT_MS = 15_000;
const KINDS = /** @type {const} */ (["audio", "video"]);

/** @extends {Emitter<import("./parley.d.ts").CallEvents>} */
export class Call extends Emitter {
  /** @type {import("./parley.d.ts").CallState} */
  state;
  /** @type {string | null} */
  endReason = null;
  /** @type {CallMedia} */
  remoteMedia = { audio: false, video: false };
  /** @type {MediaStream | null} */
  remoteStream = null;
  /** @type {PeerConnection | null} */
  connection = null;
  #client;
  /** @type {CallOptions} */
  #options;
  /** @type {Record<"audio" | "video", MediaStreamTrack | null>} */
  #tracks = { audio: null, video: null };
  #muted = false;
  /** This side asked for a new connection and waits for the other to be ready. */
  #reconnecting = false;
  #attempt = 0;
  /** @type {any} */
  #timer;

  /**
   * @param {Client} client
   * @param {string} peer
   * @param {string} id
   * @param {"incoming" | "outgoing"} direction
   * @param {CallOptions} options
   */
  constructor(client, peer, id, direction, options) {
    super();
    this.#client = client;
    this.#options = options;
    this.peer = peer;
    this.identity = client.peers.get(peer)?.identity ?? null;
    this.id = id;
    this.direction = direction;
    this.state = direction === "outgoing" ? "calling" : "ringing";
    this.#take(options.stream);
    // The caller cancels; the callee only forgets a caller who vanished, so it waits longer.
    const patience = direction === "outgoing" ? RING_MS : RING_MS + 15_000;
    this.#timer = setTimeout(() => this.#unanswered(), options.ringMs ?? patience);
  }

  /** What this side sends. @returns {CallMedia} */
  get media() {
    return { audio: this.#tracks.audio !== null && !this.#muted, video: this.#tracks.video !== null };
  }

  get isMuted() {
    return this.#muted;
  }

  invite() {
    const wanted = { audio: true, video: this.#options.video ?? this.#tracks.video !== null };
    this.#tell("invite", { media: wanted }).catch(() => this.end("unreachable"));
  }

  /**
   * Answer an incoming call.
   * @param {CallOptions} [options]
   * @returns {Promise<void>}
   */
  async accept(options = {}) {
    if (this.state !== "ringing") return;
    this.#options = options;
    this.#take(options.stream);
    this.#setState("connecting");
    if (!(await this.#connect())) return;
    try {
      await this.#tell("accept", { media: this.media });
    } catch {
      this.end("unreachable");
    }
  }

  /** @param {string} [reason] */
  decline(reason = "declined") {
    if (this.state !== "ringing") return;
    this.#tell("decline").catch(() => {});
    this.end(reason);
  }

  /** End the call, or stop ringing. */
  hangup() {
    if (this.state === "ended") return;
    if (this.state === "ringing") return this.decline();
    const isCalling = this.state === "calling";
    this.#tell(isCalling ? "cancel" : "hangup").catch(() => {});
    this.end(isCalling ? "canceled" : "user_hangup");
  }

  /**
   * Silence or open the microphone; the device stays open.
   * @param {boolean} muted
   */
  mute(muted) {
    this.#muted = muted;
    if (this.#tracks.audio) this.#tracks.audio.enabled = !muted;
    this.#tellMedia();
  }

  /**
   * Send this track, or nothing, without a new negotiation.
   * @param {"audio" | "video"} kind
   * @param {MediaStreamTrack | null} track
   * @returns {Promise<void>}
   */
  async replaceTrack(kind, track) {
    this.#tracks[kind] = track;
    if (track && kind === "audio") track.enabled = !this.#muted;
    await this.#transceiver(kind)?.sender.replaceTrack(track);
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
    this.#timer = setTimeout(() => this.end("unreachable"), RECONNECT_MS);
    await this.#tell("reconnect").catch(() => this.end("unreachable"));
  }

  /**
   * Both sides rang each other and the other's call is the one that counts.
   * @param {string} id
   */
  yieldTo(id) {
    this.id = id;
    this.direction = "incoming";
    this.state = "ringing";
    void this.accept(this.#options);
  }

  /** @param {{action: Action, media?: unknown}} message */
  receive({ action, media }) {
    switch (action) {
      case "accept":
        if (this.state === "calling") void this.#accepted(mediaOf(media));
        break;
      case "decline":
        this.end("declined");
        break;
      case "busy":
        this.end("busy");
        break;
      case "cancel":
        this.end("canceled");
        break;
      case "hangup":
        this.end("user_hangup");
        break;
      case "reconnect":
        // Both asked at once: the caller's wish is followed, each side with its own policy.
        if (!this.#reconnecting || this.direction === "incoming") void this.#reconnect();
        break;
      case "ready":
        if (this.#reconnecting) void this.#offerMedia();
        break;
      case "media":
        this.remoteMedia = mediaOf(media);
        this.emit("media", this.remoteMedia);
    }
  }

  /** @param {string} reason */
  end(reason) {
    if (this.state === "ended") return;
    clearTimeout(this.#timer);
    this.endReason = reason;
    this.#setState("ended");
    this.connection?.close(reason);
    this.emit("ended", { reason });
  }

  /** @param {CallMedia} media */
  async #accepted(media) {
    this.remoteMedia = media;
    this.#setState("connecting");
    this.emit("media", media);
    await this.#offerMedia();
    // The invitation said what was wished for; this is what there is.
    this.#tellMedia();
  }

  async #offerMedia() {
    this.#reconnecting = false;
    if (!(await this.#connect())) return;
    const streams = this.#options.stream ? [this.#options.stream] : [];
    for (const kind of KINDS) {
      const track = this.#tracks[kind] ?? kind;
      this.connection?.rtc.addTransceiver(track, { direction: "sendrecv", streams });
    }
  }

  /** The other side wants a new connection and will make the offer. */
  async #reconnect() {
    if (this.state !== "connecting" && this.state !== "active") return;
    this.#reconnecting = false;
    this.#disconnect();
    if (await this.#connect()) await this.#tell("ready").catch(() => this.end("unreachable"));
  }

  #disconnect() {
    const { connection } = this;
    this.connection = null;
    this.remoteStream = null;
    connection?.close("reconnect");
    this.#setState("connecting");
  }

  /** @returns {Promise<boolean>} false when the call, or this attempt, is over before it exists */
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
    if (this.state === "ended" || attempt !== this.#attempt) return false;
    const connection = this.#client.peerConnection(this.peer, {
      rtcConfiguration: { iceServers: iceServers ?? [], iceTransportPolicy, bundlePolicy: "max-bundle" },
      beforeAnswer: () => this.#attach(),
    });
    this.connection = connection;
    connection.on("track", ({ track }) => this.#remoteTrack(track));
    connection.on("connectionstate", (state) => {
      if (state === "connected" && this.state === "connecting") this.#setState("active");
    });
    connection.on("failed", () => {
      this.#tell("hangup").catch(() => {});
      this.end("ice_failed");
    });
    connection.on("closed", () => {
      if (this.connection === connection) this.end("unreachable");
    });
    this.emit("connection", connection);
    return true;
  }

  /** Callee: put the own tracks on the transceivers that the offer brought. */
  async #attach() {
    for (const kind of KINDS) {
      const transceiver = this.#transceiver(kind);
      if (!transceiver || transceiver.sender.track) continue;
      transceiver.direction = "sendrecv";
      if (this.#options.stream) transceiver.sender.setStreams?.(this.#options.stream);
      await transceiver.sender.replaceTrack(this.#tracks[kind]);
    }
  }

  /**
   * @param {"audio" | "video"} kind
   * @returns {RTCRtpTransceiver | undefined}
   */
  #transceiver(kind) {
    return this.connection?.rtc.getTransceivers().find(({ receiver }) => receiver.track.kind === kind);
  }

  /** @param {MediaStreamTrack} track */
  #remoteTrack(track) {
    if (this.remoteStream?.getTracks().includes(track)) return;
    const Stream = this.#client.options.MediaStream ?? globalThis.MediaStream;
    this.remoteStream ??= new Stream();
    this.remoteStream.addTrack(track);
    this.emit("remotestream", this.remoteStream);
  }

  /** @param {MediaStream | null | undefined} stream */
  #take(stream) {
    for (const kind of KINDS) {
      this.#tracks[kind] = stream?.getTracks().find((track) => track.kind === kind) ?? null;
    }
  }

  #unanswered() {
    if (this.direction === "outgoing") this.#tell("cancel").catch(() => {});
    this.end("no_answer");
  }

  #tellMedia() {
    if (this.connection) this.#tell("media", { media: this.media }).catch(() => {});
  }

  /**
   * @param {Action} action
   * @param {Record<string, unknown>} [fields]
   */
  #tell(action, fields = {}) {
    return this.#client.send(this.peer, { parley: "call", action, call: this.id, ...fields });
  }

  /** @param {import("./parley.d.ts").CallState} state */
  #setState(state) {
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
