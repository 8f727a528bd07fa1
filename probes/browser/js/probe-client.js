/**
 * The probe client: Daily's pre-call tests, with their names and results, against a deployment of
 * one's own. Types and documentation in parley-probes.d.ts.
 * @module
 */

import { testLoopQuality, testServerQuality } from "./call-quality.js";
import { LocalMedia } from "./local-media.js";
import { testNetwork } from "./network-connectivity.js";
import { StatsHistory } from "./network-stats.js";
import { ProbeApi } from "./probe-api.js";
import { Run, settled } from "./settle.js";
import { TestEvents } from "./test-events.js";
import { baseUrlOf } from "./test-session.js";
import { testWebsockets } from "./websocket-check.js";

/** @typedef {import("./parley-probes.d.ts").ProbeOptions} ProbeOptions */
/** @typedef {import("./parley-probes.d.ts").TestName} TestName */

const LIMIT_MS = 30_000;
const MAX_DURATION_S = 30;
const DURATION_S = 15;
/** What opening and closing may take beside the seconds that are measured. */
const OPENING_MS = 25_000;
/** Tests that fill the line would measure each other: one waits for the other. */
const EXCLUSIVE = new Set(["network-connectivity", "call-quality", "p2p-call-quality"]);
const METHODS = /** @type {Record<TestName, string>} */ ({
  "network-connectivity": "testNetworkConnectivity",
  "websocket-connectivity": "testWebsocketConnectivity",
  "call-quality": "testCallQuality",
  "p2p-call-quality": "testPeerToPeerCallQuality",
});

export class ProbeClient extends TestEvents {
  #options;
  #api;
  #history = new StatsHistory();
  /** @type {Map<TestName, Run>} */
  #running = new Map();
  /** Of the quality test that runs. @type {RTCPeerConnection | null} */
  #watched = null;
  /** Ends with the last of those that fill the line. @type {Promise<unknown>} */
  #line = Promise.resolve();
  #local = new LocalMedia(() => this.#devices(), (name, event) => this.emit(name, { action: name, ...event }));
  /** @type {ProbeClient | undefined} */
  static #instance;

  /** @param {ProbeOptions} [options] */
  constructor(options = {}) {
    super();
    this.#options = options;
    this.#api = new ProbeApi({ ...options, baseUrl: options.baseUrl ?? baseUrlOf({}) });
  }

  /** @param {ProbeOptions} [options] */
  static createCallObject(options) {
    return (ProbeClient.#instance = new ProbeClient(options));
  }

  static getCallInstance() {
    return ProbeClient.#instance;
  }

  /** @param {import("./parley-probes.d.ts").StartCameraOptions} [options] */
  startCamera(options) {
    return this.#local.start(options);
  }

  participants() {
    return { local: this.#local.participant };
  }

  /** @param {boolean} isOn */
  setLocalVideo(isOn) {
    if (isOn) void this.#local.start({ startAudioOff: true });
    else this.#local.stop("video");
    return this;
  }

  /** @param {boolean} isOn */
  setLocalAudio(isOn) {
    if (isOn) void this.#local.start({ startVideoOff: true });
    else this.#local.stop("audio");
    return this;
  }

  /**
   * @param {MediaStreamTrack | null} [videoTrack]
   * @param {import("./parley-probes.d.ts").NetworkConnectivityOptions} [options]
   */
  async testNetworkConnectivity(videoTrack = null, { signal, transports, region, onProgress, timeoutMs = LIMIT_MS } = {}) {
    const track = videoTrack === null ? null : live(videoTrack);
    const limitMs = timeoutMs >= 0 ? Math.min(timeoutMs, LIMIT_MS) : LIMIT_MS;
    return this.#test("network-connectivity", signal, limitMs, (run) =>
      testNetwork({ ...this.#tools(), run, track, onProgress, region, transports: transports ?? ["udp", "tcp", "tls"] }));
  }

  abortTestNetworkConnectivity() {
    this.#running.get("network-connectivity")?.end("aborted");
  }

  /** @param {import("./parley-probes.d.ts").WebsocketConnectivityOptions} [options] */
  async testWebsocketConnectivity({ signal, regions, onProgress } = {}) {
    const Socket = this.#options.WebSocket ?? globalThis.WebSocket;
    return this.#test("websocket-connectivity", signal, LIMIT_MS, (run) =>
      testWebsockets({ api: this.#api, Socket, run, regions, onProgress }));
  }

  abortTestWebsocketConnectivity() {
    this.#running.get("websocket-connectivity")?.end("aborted");
  }

  /** @param {import("./parley-probes.d.ts").QualityOptions} [options] */
  async testPeerToPeerCallQuality({ videoTrack, duration, signal, onProgress } = {}) {
    const track = live(videoTrack);
    const durationS = secondsOf(duration);
    return this.#test("p2p-call-quality", signal, OPENING_MS + 1000 * durationS, (run) =>
      testLoopQuality({ ...this.#tools(), run, track, durationS, onProgress, watching: (pc) => (this.#watched = pc) }));
  }

  stopTestPeerToPeerCallQuality() {
    this.#running.get("p2p-call-quality")?.end("stopped");
  }

  /** @param {import("./parley-probes.d.ts").QualityOptions} [options] */
  async testConnectionQuality(options) {
    const { data, ...rest } = await this.testPeerToPeerCallQuality(options).then((results) => ({ data: {}, ...results }));
    const { maxRoundTripTime = null, avgRecvPacketLoss = null } = /** @type {Partial<import("./parley-probes.d.ts").PeerToPeerQualityData>} */ (data);
    return { ...rest, data: { maxRTT: maxRoundTripTime, packetLoss: avgRecvPacketLoss } };
  }

  stopTestConnectionQuality() {
    this.stopTestPeerToPeerCallQuality();
  }

  /** @param {import("./parley-probes.d.ts").QualityOptions} [options] */
  async testCallQuality({ videoTrack = this.#local.track("video"), duration, signal, onProgress } = {}) {
    if (videoTrack) live(videoTrack);
    const durationS = secondsOf(duration);
    return this.#test("call-quality", signal, OPENING_MS + 1000 * durationS, (run) =>
      this.#withTrack(videoTrack, run, (track) =>
        testServerQuality({ ...this.#tools(), run, track, durationS, onProgress, watching: (pc) => (this.#watched = pc) })));
  }

  stopTestCallQuality() {
    this.#running.get("call-quality")?.end("stopped");
  }

  /** @param {RTCPeerConnection} [pc] default: that of the quality test that runs */
  getNetworkStats(pc) {
    return this.#history.stats(pc ?? this.#watched);
  }

  /** Ends what runs, with what is known by then. */
  async destroy() {
    for (const run of this.#running.values()) run.end("aborted");
    this.#local.end();
    if (ProbeClient.#instance === this) ProbeClient.#instance = undefined;
    await this.#line;
  }

  #devices() {
    return this.#options.mediaDevices ?? globalThis.navigator?.mediaDevices;
  }

  #tools() {
    return { api: this.#api, Connection: this.#options.RTCPeerConnection ?? globalThis.RTCPeerConnection };
  }

  /**
   * @template Results
   * @param {TestName} test
   * @param {AbortSignal | null | undefined} signal
   * @param {number} limitMs
   * @param {(run: Run) => Promise<Results>} begin
   * @returns {Promise<Results>}
   */
  async #test(test, signal, limitMs, begin) {
    if (this.#running.has(test)) throw new Error(`${METHODS[test]} is running`);
    const run = new Run({ signal });
    this.#running.set(test, run);
    const leave = EXCLUSIVE.has(test) ? await this.#turn(run.signal) : () => {};
    run.begin(limitMs);
    try {
      const results = await begin(run);
      this.#running.delete(test);
      this.emit("test-completed", { action: "test-completed", test, results });
      return results;
    } finally {
      this.#running.delete(test);
      run.release();
      leave();
    }
  }

  /**
   * Waits for its turn on the line, or for its end.
   * @param {AbortSignal} signal
   * @returns {Promise<() => void>} to be called after it; never rejects
   */
  async #turn(signal) {
    const before = this.#line;
    /** @type {() => void} */
    let leave = () => {};
    const own = new Promise((resolve) => (leave = () => resolve(null)));
    this.#line = Promise.all([before, own]);
    await settled(signal, ({ resolve }) => void before.then(resolve)).catch(() => {});
    return leave;
  }

  /**
   * With the caller's track, which goes on living, or with one of our own, which does not.
   * @template Results
   * @param {MediaStreamTrack | undefined} given
   * @param {Run} run
   * @param {(track: MediaStreamTrack) => Promise<Results>} test
   */
  async #withTrack(given, run, test) {
    if (given) return test(given);
    const opened = await this.#camera(run.signal).catch((/** @type {Error} */ error) => error);
    if (opened instanceof Error) return withoutCamera(opened, run);
    try {
      return await test(/** @type {MediaStreamTrack} */ (opened.getVideoTracks()[0]));
    } finally {
      stopAll(opened);
    }
  }

  /** @param {AbortSignal} signal @returns {Promise<MediaStream>} */
  #camera(signal) {
    return settled(signal, ({ resolve, reject }) => {
      const devices = this.#devices();
      if (!devices?.getUserMedia) return reject(new DOMException("no camera here", "NotFoundError"));
      let isLate = false;
      signal.addEventListener("abort", () => (isLate = true), { once: true });
      // A permission that is given after the end must not leave the camera on.
      devices.getUserMedia({ video: true }).then((stream) => (isLate ? stopAll(stream) : resolve(stream)), reject);
    });
  }
}

/** @param {MediaStream} stream */
function stopAll(stream) {
  for (const track of stream.getTracks()) track.stop();
}

/** @param {Error} error @param {Run} run */
function withoutCamera(error, run) {
  const secondsElapsed = 0;
  if (run.ended && run.ended !== "timeout") return { result: /** @type {const} */ ("aborted"), reason: /** @type {const} */ ("aborted"), data: {}, secondsElapsed };
  const reasons = /** @type {const} */ ({ NotAllowedError: "permission_denied", NotReadableError: "device_in_use", NotFoundError: "no_camera" });
  const reason = run.ended ? /** @type {const} */ ("timeout") : (reasons[/** @type {keyof typeof reasons} */ (error.name)] ?? /** @type {const} */ ("no_camera"));
  const errorMsg = "No camera could be opened.";
  return { result: /** @type {const} */ ("failed"), reason, errorMsg, error: { type: reason, msg: errorMsg }, secondsElapsed };
}

/** @param {any} track @returns {MediaStreamTrack} */
function live(track) {
  const isTrack = track !== null && typeof track === "object" && typeof track.addEventListener === "function";
  if (!isTrack || track.kind !== "video" || track.readyState !== "live") throw new Error("Video track error");
  return track;
}

/** @param {number | undefined} duration */
function secondsOf(duration) {
  if (!Number.isFinite(duration)) return DURATION_S;
  return Math.min(Math.max(1, Math.round(/** @type {number} */ (duration))), MAX_DURATION_S);
}
