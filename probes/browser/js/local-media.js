/**
 * Camera and microphone before a call, as daily-js shows them: a local participant with a track of
 * each, and an event for each that comes or goes. It does not send them anywhere.
 * @module
 */

/** @typedef {"video" | "audio"} Kind */
/** @typedef {import("./parley-probes.d.ts").LocalParticipant} LocalParticipant */
/** @typedef {import("./parley-probes.d.ts").LocalTrack} LocalTrack */
/** @typedef {import("./parley-probes.d.ts").StartCameraOptions} StartCameraOptions */
/** @typedef {import("./parley-probes.d.ts").DeviceNames} DeviceNames */
/** @typedef {Pick<MediaDevices, "getUserMedia">} Devices */

const KINDS = /** @type {Kind[]} */ (["video", "audio"]);
const ERRORS = /** @type {Record<string, string>} */ ({
  NotAllowedError: "permissions", NotFoundError: "not-found", NotReadableError: "cam-mic-in-use",
  OverconstrainedError: "constraints", TypeError: "undefined-mediadevices",
});

export class LocalMedia {
  #devices;
  #emit;
  #sessionId = Math.random().toString(36).slice(2);
  /** @type {Map<Kind, MediaStreamTrack>} */
  #tracks = new Map();
  /** Asked for, and refused. @type {Set<Kind>} */
  #blocked = new Set();
  #isOver = false;

  /**
   * @param {() => Devices | undefined} devices
   * @param {(name: string, event: object) => void} emit
   */
  constructor(devices, emit) {
    this.#devices = devices;
    this.#emit = emit;
  }

  /** @returns {LocalParticipant} */
  get participant() {
    const tracks = { video: this.#state("video"), audio: this.#state("audio") };
    return { local: true, session_id: this.#sessionId, user_name: "", video: this.#tracks.has("video"), audio: this.#tracks.has("audio"), tracks };
  }

  /** @param {Kind} kind */
  track(kind) {
    return this.#tracks.get(kind);
  }

  /**
   * Opens what is not open; an event tells what cannot be opened.
   * @param {StartCameraOptions} [options]
   * @returns {Promise<{camera: DeviceNames, mic: DeviceNames, speaker: DeviceNames}>}
   */
  async start({ startVideoOff = false, startAudioOff = false } = {}) {
    const isOff = { video: startVideoOff, audio: startAudioOff };
    const wanted = KINDS.filter((kind) => !this.#tracks.has(kind) && !isOff[kind]);
    if (wanted.length) await this.#open(wanted);
    this.#emit("started-camera", {});
    return { camera: named(this.track("video")), mic: named(this.track("audio")), speaker: {} };
  }

  /** @param {Kind} kind */
  stop(kind) {
    const track = this.#tracks.get(kind);
    if (!track) return;
    track.stop();
    this.#lose(kind, track);
  }

  /** A permission that comes later leaves nothing on. */
  end() {
    this.#isOver = true;
    for (const kind of KINDS) this.stop(kind);
  }

  /** @param {Kind[]} kinds */
  async #open(kinds) {
    const error = await this.#ask(kinds);
    if (!error) return;
    // Who has no microphone may have a camera.
    if (kinds.length > 1 && error.name !== "NotAllowedError") for (const kind of kinds) await this.#ask([kind]);
    const missing = kinds.filter((kind) => !this.#tracks.has(kind));
    for (const kind of missing) this.#blocked.add(kind);
    const type = ERRORS[error.name] ?? "unknown";
    const isThere = { audioOk: !missing.includes("audio"), videoOk: !missing.includes("video") };
    this.#emit("camera-error", { error: { type, msg: error.message }, errorMsg: { errorMsg: error.message, ...isThere } });
  }

  /** @param {Kind[]} kinds @returns {Promise<Error | null>} */
  async #ask(kinds) {
    const devices = this.#devices();
    if (!devices?.getUserMedia) return new TypeError("This page may not use any camera or microphone.");
    try {
      const stream = await devices.getUserMedia({ video: kinds.includes("video"), audio: kinds.includes("audio") });
      for (const track of stream.getTracks()) this.#take(track);
      return null;
    } catch (error) {
      return /** @type {Error} */ (error);
    }
  }

  /** @param {MediaStreamTrack} track */
  #take(track) {
    const kind = /** @type {Kind} */ (track.kind);
    if (this.#isOver || this.#tracks.has(kind)) return track.stop();
    this.#tracks.set(kind, track);
    this.#blocked.delete(kind);
    track.addEventListener("ended", () => this.#lose(kind, track));
    this.#emit("track-started", { participant: this.participant, track, type: kind });
  }

  /** @param {Kind} kind @param {MediaStreamTrack} track */
  #lose(kind, track) {
    if (this.#tracks.get(kind) !== track) return;
    this.#tracks.delete(kind);
    this.#emit("track-stopped", { participant: this.participant, track, type: kind });
  }

  /** @param {Kind} kind @returns {LocalTrack} */
  #state(kind) {
    const track = this.#tracks.get(kind);
    if (track) return { state: "playable", track, persistentTrack: track };
    return { state: this.#blocked.has(kind) ? "blocked" : "off" };
  }
}

/** @param {MediaStreamTrack | undefined} track @returns {DeviceNames} */
function named(track) {
  const deviceId = track?.getSettings?.().deviceId;
  return track ? { deviceId: deviceId ?? "", label: track.label } : {};
}
