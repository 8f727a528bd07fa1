/**
 * What one side of a call sends: its tracks, on transceivers that stay sendrecv, so that camera and
 * microphone come and go by replaceTrack, without a new negotiation. It knows no signaling.
 * @module
 */

/** @typedef {import("./parley.d.ts").CallMedia} CallMedia */
/** @typedef {"audio" | "video"} Kind */

const KINDS = /** @type {const} */ (["audio", "video"]);

export class OwnMedia {
  isMuted = false;
  /** @type {MediaStream | null} */
  #stream = null;
  /** @type {Record<Kind, MediaStreamTrack | null>} */
  #tracks = { audio: null, video: null };

  /** @returns {CallMedia} */
  get sent() {
    return { audio: this.#tracks.audio !== null && !this.isMuted, video: this.hasVideo };
  }

  get hasVideo() {
    return this.#tracks.video !== null;
  }

  /** @param {MediaStream | null | undefined} stream */
  take(stream) {
    this.#stream = stream ?? null;
    for (const kind of KINDS) {
      this.#tracks[kind] = stream?.getTracks().find((track) => track.kind === kind) ?? null;
    }
  }

  /** @param {boolean} muted */
  mute(muted) {
    this.isMuted = muted;
    if (this.#tracks.audio) this.#tracks.audio.enabled = !muted;
  }

  /**
   * @param {Kind} kind
   * @param {MediaStreamTrack | null} track
   * @param {RTCPeerConnection | undefined} rtc
   */
  async replace(kind, track, rtc) {
    this.#tracks[kind] = track;
    if (track && kind === "audio") track.enabled = !this.isMuted;
    if (rtc) await transceiverOf(rtc, kind)?.sender.replaceTrack(track);
  }

  /** The offering side makes the transceivers. @param {RTCPeerConnection} rtc */
  offer(rtc) {
    const streams = this.#stream ? [this.#stream] : [];
    for (const kind of KINDS) {
      rtc.addTransceiver(this.#tracks[kind] ?? kind, { direction: "sendrecv", streams });
    }
  }

  /** The answering side uses those that the offer brought. @param {RTCPeerConnection} rtc */
  async answer(rtc) {
    for (const kind of KINDS) {
      const transceiver = transceiverOf(rtc, kind);
      if (!transceiver || transceiver.sender.track) continue;
      transceiver.direction = "sendrecv";
      if (this.#stream) transceiver.sender.setStreams?.(this.#stream);
      await transceiver.sender.replaceTrack(this.#tracks[kind]);
    }
  }
}

/**
 * @param {RTCPeerConnection} rtc
 * @param {Kind} kind
 * @returns {RTCRtpTransceiver | undefined}
 */
function transceiverOf(rtc, kind) {
  return rtc.getTransceivers().find(({ receiver }) => receiver.track.kind === kind);
}
