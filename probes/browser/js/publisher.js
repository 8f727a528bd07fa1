/**
 * A test publisher: opens microphone and camera, sends them through the relay to the deployment's
 * peer, and gets them back. It does not measure.
 * @module
 */

import { NetworkTestError } from "./error-names.js";
import { openBestLink } from "./server-link.js";
import { pause, probeError, settled } from "./settle.js";

/** @typedef {import("./error-names.js").ErrorKey} ErrorKey */
/** @typedef {{width: number, height: number}} Size */
/** @typedef {{audioSource?: string, videoSource?: string | null, size?: Size}} Sources `size`: that one or none */
/**
 * @typedef {object} Platform
 * @property {MediaDevices | undefined} mediaDevices
 * @property {typeof RTCPeerConnection | undefined} RTCPeerConnection
 * @property {typeof WebSocket | undefined} WebSocket
 * @property {Permissions | undefined} permissions
 */
/** @typedef {{audio: boolean, video: boolean}} Kinds */
/**
 * @typedef {object} Publishing
 * @property {RTCPeerConnection} pc
 * @property {import("./verdict.js").Transport} transport
 * @property {() => Promise<void>} close ends the server's peer, too
 */

const PROMPT_MS = 30_000;
const BACK_MS = 6_000;
const LOOK_MS = 100;
const CLOSE_MS = 2_000;
const DENIED = new Set(["NotAllowedError", "SecurityError", "PermissionDeniedError"]);
const ABSENT = new Set(["NotFoundError", "OverconstrainedError", "DevicesNotFoundError", "ConstraintNotSatisfiedError"]);
const CAMERA = { width: { ideal: 1280 }, height: { ideal: 720 }, frameRate: { ideal: 30 } };
/** @type {Size} */
export const FULL_HD = { width: 1920, height: 1080 };

/** @returns {Platform} */
export function platformOf() {
  const { navigator, RTCPeerConnection, WebSocket } = /** @type {any} */ (globalThis);
  return { mediaDevices: navigator?.mediaDevices, permissions: navigator?.permissions, RTCPeerConnection, WebSocket };
}

/** @param {Platform} platform */
export function isSupported({ mediaDevices, RTCPeerConnection }) {
  return Boolean(mediaDevices?.getUserMedia && RTCPeerConnection?.prototype?.getStats);
}

/**
 * The kinds of devices that there are, also before a permission.
 * @param {Platform} platform
 * @returns {Promise<Kinds>} rejects with NetworkTestError
 */
export async function deviceKinds({ mediaDevices }) {
  // Not from a secure origin, for one.
  if (!mediaDevices?.enumerateDevices) throw new NetworkTestError("FAILED_TO_OBTAIN_MEDIA_DEVICES", "unsupported");
  const devices = await mediaDevices.enumerateDevices().catch(() => null);
  if (!devices) throw new NetworkTestError("FAILED_TO_OBTAIN_MEDIA_DEVICES");
  const has = (/** @type {MediaDeviceKind} */ wanted) => devices.some(({ kind }) => kind === wanted);
  return { audio: has("audioinput"), video: has("videoinput") };
}

/**
 * @param {Platform} platform
 * @param {Kinds} kinds
 * @param {Sources} sources
 * @param {ErrorKey} failed the error of a device that cannot be opened
 * @param {AbortSignal} signal
 * @returns {Promise<MediaStream>} the caller stops its tracks; rejects with NetworkTestError
 */
export function capture({ mediaDevices }, { audio, video }, sources, failed, signal) {
  const { audioSource, videoSource, size } = sources;
  const device = (/** @type {string | null | undefined} */ id) => (id ? { deviceId: { exact: id } } : {});
  const constraints = {
    audio: audio && (audioSource ? device(audioSource) : true),
    video: video && { ...CAMERA, ...(size ? exactly(size) : {}), ...device(videoSource) },
  };
  return settled(signal, ({ resolve, reject, after, release }) => {
    let isOver = false;
    release(() => (isOver = true));
    after(PROMPT_MS, () => reject(new NetworkTestError("PUBLISH_TO_SESSION_PERMISSION_OR_TIMEOUT_ERROR", "timeout")));
    const opened = (/** @type {MediaStream} */ stream) => {
      // A permission that comes after the end must not leave the camera on.
      if (isOver) stopTracks(stream);
      else resolve(stream);
    };
    const refused = (/** @type {unknown} */ error) => reject(deviceError(error, sources, failed));
    /** @type {MediaDevices} */ (mediaDevices).getUserMedia(constraints).then(opened, refused);
  });
}

/** @param {Size} size */
const exactly = ({ width, height }) => ({ width: { exact: width }, height: { exact: height } });

/** @param {MediaStream} stream */
export function stopTracks(stream) {
  for (const track of stream.getTracks()) track.stop();
}

/**
 * @param {unknown} error
 * @param {Sources} sources
 * @param {ErrorKey} failed
 */
function deviceError(error, { audioSource, videoSource, size }, failed) {
  const { name = "", constraint = "" } = /** @type {Error & {constraint?: string}} */ (error ?? {});
  if (DENIED.has(name)) return new NetworkTestError("PERMISSION_DENIED_ERROR", "permission_denied");
  if (size && /^(width|height)$/.test(constraint)) return new NetworkTestError("UNSUPPORTED_RESOLUTION_ERROR", "unsupported");
  if (ABSENT.has(name)) {
    const isCamera = Boolean(videoSource) && !audioSource;
    return new NetworkTestError(isCamera ? "NO_VIDEO_CAPTURE_DEVICES" : "NO_AUDIO_CAPTURE_DEVICES", isCamera ? "no_camera" : "no_microphone");
  }
  return new NetworkTestError(failed, "device_in_use");
}

/**
 * @param {Platform} platform
 * @param {import("./probe-api.js").ProbeApi} api with a session
 * @param {MediaStream} stream
 * @param {AbortSignal} signal
 * @returns {Promise<Publishing>} rejects with NetworkTestError
 */
export async function publish(platform, api, stream, signal) {
  const session = await api.session(signal);
  const wishFor = (/** @type {RTCIceServer[]} */ servers) => ({
    Connection: /** @type {typeof RTCPeerConnection} */ (platform.RTCPeerConnection),
    servers,
    signal,
    isExpired: () => session.expires_at <= api.serverNowS(),
    prepare: (/** @type {RTCPeerConnection} */ pc) => addTracks(pc, stream),
  });
  try {
    const { here, peer, transport } = await openBestLink(wishFor, session.ice_servers, api, "echo");
    return { pc: here, transport, close: () => ended(here, api, peer) };
  } catch (error) {
    throw await publishError(api, probeError(error), signal);
  }
}

/**
 * The original publishes 1280x720, or 1920x1080; a smaller picture would score as if nothing were missing.
 * @param {RTCPeerConnection} pc
 * @param {MediaStream} stream
 */
export function addTracks(pc, stream) {
  for (const track of stream.getTracks()) {
    const sender = pc.addTrack(track, stream);
    if (track.kind !== "video") continue;
    const parameters = sender.getParameters?.();
    // Browsers that do not know the preference ignore it, or refuse: then they adapt.
    if (parameters) void sender.setParameters({ ...parameters, degradationPreference: "maintain-resolution" }).catch(() => {});
  }
}

/**
 * @param {RTCPeerConnection} pc
 * @param {import("./probe-api.js").ProbeApi} api
 * @param {string} peer
 * @returns {Promise<void>}
 */
function ended(pc, api, peer) {
  pc.close();
  return settled(new AbortController().signal, ({ resolve, after }) => {
    after(CLOSE_MS, resolve);
    api.endPeer(peer).then(() => resolve());
  });
}

/**
 * @param {import("./probe-api.js").ProbeApi} api
 * @param {import("./settle.js").ProbeError} error
 * @param {AbortSignal} signal
 */
async function publishError(api, { reason, code }, signal) {
  if (signal.aborted) return signal.reason;
  const isRefusal = reason.startsWith("credential") || code === 401;
  if (isRefusal) api.forgetSession();
  if (reason === "http_status" && code === 401) return new NetworkTestError("PUBLISH_TO_SESSION_NOT_CONNECTED", reason);
  const isSilent = reason === "unreachable" || reason === "relay_silent";
  if (!isSilent || (await api.answers(signal))) return new NetworkTestError("PUBLISH_TO_SESSION_ERROR", reason);
  return new NetworkTestError("PUBLISH_TO_SESSION_NETWORK_ERROR", "server_gone");
}

/**
 * Until something of every published kind has come back.
 * @param {RTCPeerConnection} pc
 * @param {MediaStream} stream
 * @param {AbortSignal} signal
 * @returns {Promise<void>} rejects with NetworkTestError
 */
export async function subscribed(pc, stream, signal) {
  const isAnswered = pc.getTransceivers().some(({ currentDirection }) => /recv/.test(currentDirection ?? ""));
  if (!isAnswered) throw new NetworkTestError("MISSING_SUBSCRIBER_ERROR");
  const until = performance.now() + BACK_MS;
  const missing = new Set(stream.getTracks().map(({ kind }) => kind));
  while (missing.size) {
    const report = await pc.getStats().catch(() => null);
    if (!report) throw new NetworkTestError("SUBSCRIBER_GET_STATS_ERROR", "unsupported");
    report.forEach((entry) => {
      if (entry.type === "inbound-rtp" && entry.bytesReceived > 0) missing.delete(entry.kind ?? entry.mediaType);
    });
    if (missing.size && performance.now() > until) throw new NetworkTestError("SUBSCRIBE_TO_SESSION_ERROR", "relay_silent");
    if (missing.size) await pause(LOOK_MS, signal);
  }
}
