/**
 * OpenTok's quality test: publishes through the relay, takes back what the deployment's peer
 * returns, and samples it once a second.
 * @module
 */

import { NetworkTestError } from "./error-names.js";
import { stateOf } from "./gathering.js";
import { capture, deviceKinds, FULL_HD, isSupported, publish, stopTracks, subscribed } from "./publisher.js";
import { audioResults, checksOf, hasSettled, videoResults } from "./quality-results.js";
import { WORST } from "./mos.js";
import { readingOf } from "./reading.js";
import { AUDIO_MIN_MOS } from "./recommend.js";
import { pause, probeError, secondAfter, settled, tell } from "./settle.js";
import { enter } from "./test-session.js";

/** @typedef {import("./quality-results.js").Reading} Reading */
/** @typedef {import("./network-test.d.ts").QualityResults} QualityResults */
/** @typedef {import("./network-test.d.ts").QualityUpdate} QualityUpdate */
/**
 * @typedef {object} Watching what the caller may do meanwhile
 * @property {((update: QualityUpdate) => void)} [onUpdate]
 * @property {() => boolean} isStopped
 */
/** @typedef {import("./connectivity-run.js").Scene & Watching} Scene */

/** Of everything: questions for devices, two phases, and opening and closing each. */
export const QUALITY_LIMIT_MS = 120_000;
const MIN_MS = 5_000;
const MAX_MS = 30_000;
const AUDIO_ONLY_MS = 10_000;
const EVERY_MS = 1_000;
/** Seconds that what the encoder may use is the mean of. */
const WINDOW = 5;
/** Seconds without a packet after which nothing more is expected. */
const SILENT = 4;
const NO_CAMERA = "No camera was found.";
const NOT_ASKED = "The test was audio-only.";

/** @param {Scene} scene @returns {Promise<QualityResults>} rejects with NetworkTestError */
export async function testQuality(scene) {
  const { platform, api, options, run } = scene;
  if (!isSupported(platform)) throw new NetworkTestError("UNSUPPORTED_BROWSER", "unsupported");
  const session = await enter(api, scene.sessionInfo, run.signal);
  const kinds = await deviceKinds(platform);
  if (!kinds.audio) throw new NetworkTestError("NO_AUDIO_CAPTURE_DEVICES", "no_microphone");
  const isAsked = !options.audioOnly && options.videoSource !== null;
  const wanted = { audio: true, video: isAsked && kinds.video };
  const sources = options.fullHd ? { ...options, size: FULL_HD } : options;
  const stream = await capture(platform, wanted, sources, "INIT_PUBLISHER_ERROR", run.signal);
  try {
    const first = await phase(scene, stream, wanted.video ? "audio-video" : "audio-only");
    const { readings } = first;
    const audio = audioResults(readings);
    /** @type {import("./network-test.d.ts").VideoResults} */
    const video = wanted.video ? videoResults(readings) : { supported: false, reason: isAsked ? NO_CAMERA : NOT_ASKED, mos: WORST };
    const needsAgain = wanted.video && audio.mos < AUDIO_MIN_MOS && !scene.isStopped();
    const last = needsAgain ? await withoutVideo(scene, stream) : first;
    const sound = needsAgain ? audioResults(last.readings) : audio;
    const { transport } = last;
    const checks = checksOf(sound, video, session.region).map((check) => ({ ...check, transport }));
    return { audio: sound, video, transport, checks };
  } finally {
    stopTracks(stream);
  }
}

/**
 * Does sound alone get through?
 * @param {Scene} scene
 * @param {MediaStream} stream
 */
function withoutVideo(scene, stream) {
  for (const track of stream.getVideoTracks()) {
    track.stop();
    stream.removeTrack(track);
  }
  return phase(scene, stream, "audio-only");
}

/**
 * One stream there and back, from its beginning to its end.
 * @param {Scene} scene
 * @param {MediaStream} stream
 * @param {"audio-video" | "audio-only"} name
 * @returns {Promise<{readings: Reading[], transport: import("./verdict.js").Transport}>}
 */
async function phase(scene, stream, name) {
  const { platform, api, run } = scene;
  const { pc, transport, close } = await publish(platform, api, stream, run.signal);
  try {
    const readings = await withDevices(scene, stream, (signal) => measured(scene, pc, stream, name, signal));
    return { readings, transport };
  } finally {
    await close();
  }
}

/**
 * Unless a device goes away first.
 * @param {Scene} scene
 * @param {MediaStream} stream
 * @param {(signal: AbortSignal) => Promise<Reading[]>} measure
 * @returns {Promise<Reading[]>}
 */
function withDevices({ platform, run }, stream, measure) {
  return settled(run.signal, ({ resolve, reject, listen, release }) => {
    const over = new AbortController();
    release(() => over.abort());
    for (const track of stream.getTracks()) {
      const ended = () => void deviceGone(platform, track).then(reject);
      if (track.readyState === "ended") ended();
      else listen(track, "ended", ended);
    }
    measure(over.signal).then(resolve, reject);
  });
}

/**
 * @param {Scene} scene
 * @param {RTCPeerConnection} pc
 * @param {MediaStream} stream
 * @param {"audio-video" | "audio-only"} name
 * @param {AbortSignal} signal
 * @returns {Promise<Reading[]>}
 */
async function measured(scene, pc, stream, name, signal) {
  // The round trip of the empty line, before media fills it.
  const { roundTripMs } = await readingOf(pc);
  await subscribed(pc, stream, signal);
  const [first, ...rest] = await sampled(scene, pc, name, signal);
  return [{ .../** @type {Reading} */ (first), roundTripMs }, ...rest];
}

/**
 * @param {Scene} scene
 * @param {RTCPeerConnection} pc
 * @param {"audio-video" | "audio-only"} name
 * @param {AbortSignal} signal
 * @returns {Promise<Reading[]>}
 */
async function sampled(scene, pc, name, signal) {
  const began = performance.now();
  const endMs = durationMs(name, scene.options.timeout);
  const kind = name === "audio-only" ? "audio" : "video";
  const readings = [await readingOf(pc)];
  let silent = 0;
  for (let number = 1; ; number = secondAfter(number, performance.now() - began)) {
    const dueMs = Math.min(number * EVERY_MS, endMs);
    await pause(Math.max(0, began + dueMs - performance.now()), signal);
    const before = /** @type {Reading} */ (readings.at(-1));
    const reading = await readingOf(pc, readings.at(-WINDOW) ?? readings[0]);
    readings.push(reading);
    tell(scene.onUpdate, updateOf(before, reading, name));
    silent = hasCome(before, reading) ? 0 : silent + 1;
    if (silent >= SILENT || /^(failed|closed)$/.test(stateOf(pc))) throw await silence(scene);
    const elapsedMs = performance.now() - began;
    const isLongEnough = elapsedMs >= MIN_MS;
    if (elapsedMs >= endMs || (isLongEnough && (scene.isStopped() || hasSettled(readings, kind)))) return readings;
  }
}

/**
 * @param {"audio-video" | "audio-only"} name
 * @param {number | undefined} timeout outside 5 to 30 s it is ignored
 */
function durationMs(name, timeout) {
  const usual = name === "audio-only" ? AUDIO_ONLY_MS : MAX_MS;
  const isGood = typeof timeout === "number" && timeout >= MIN_MS && timeout <= MAX_MS;
  return isGood ? timeout : usual;
}

/** @param {Reading} before @param {Reading} after */
function hasCome(before, after) {
  const packets = (/** @type {Reading} */ { audio, video }) => (audio?.packetsReceived ?? 0) + (video?.packetsReceived ?? 0);
  return packets(after) > packets(before);
}

/**
 * @param {Reading} before
 * @param {Reading} reading
 * @param {"audio-video" | "audio-only"} phase
 * @returns {QualityUpdate}
 */
function updateOf(before, reading, phase) {
  const timestamp = Date.now();
  const seconds = (reading.atMs - before.atMs) / 1000;
  const of = (/** @type {"audio" | "video"} */ kind) => ({
    timestamp,
    bytesReceived: reading[kind]?.bytesReceived ?? 0,
    packetsReceived: reading[kind]?.packetsReceived ?? 0,
    packetsLost: Math.max(0, reading[kind]?.lostReceived ?? 0) + (reading[kind]?.lostSent ?? 0),
    bytesSent: reading[kind]?.bytesSent ?? 0,
  });
  const frames = (reading.video?.framesReceived ?? 0) - (before.video?.framesReceived ?? 0);
  const frameRate = seconds > 0 ? Math.round(frames / seconds) : 0;
  return {
    audio: of("audio"),
    video: phase === "audio-only" ? null : { ...of("video"), frameRate },
    timestamp,
    phase,
    roundTripTime: reading.roundTripMs,
    availableOutgoingBitrate: reading.availableBps,
  };
}

/** @param {Scene} scene why nothing comes any more */
async function silence({ api, run }) {
  if (await api.answers(run.signal)) return new NetworkTestError("SUBSCRIBE_TO_SESSION_ERROR", "relay_silent");
  api.forgetSession();
  return new NetworkTestError("CONNECT_TO_SESSION_NETWORK_ERROR", "server_gone");
}

/**
 * @param {import("./publisher.js").Platform} platform
 * @param {MediaStreamTrack} track
 */
async function deviceGone({ permissions }, { kind }) {
  const name = /** @type {PermissionName} */ (kind === "audio" ? "microphone" : "camera");
  // Firefox knows no such permission to ask about.
  const state = await permissions?.query({ name }).then((status) => status.state, () => "granted");
  if (state && state !== "granted") return new NetworkTestError("PERMISSION_DENIED_ERROR", "permission_denied");
  return new NetworkTestError("FAILED_TO_OBTAIN_MEDIA_DEVICES", kind === "audio" ? "no_microphone" : "no_camera");
}

/** @param {unknown} error of anything that was not named on the way */
export function qualityError(error) {
  if (error instanceof NetworkTestError) return error;
  const { reason, message } = probeError(error);
  if (reason === "timeout") return new NetworkTestError("PUBLISH_TO_SESSION_PERMISSION_OR_TIMEOUT_ERROR", reason, "The test took too long.");
  return new NetworkTestError("QUALITY_TEST_ERROR", reason, reason === "aborted" ? undefined : message);
}
