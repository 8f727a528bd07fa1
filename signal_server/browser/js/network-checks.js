/**
 * The checks of the diagnostics page: one question each, answered in one line. A check returns its
 * state, its line and its figures; lines and figures carry no addresses.
 * @module
 */

import { LoopError, loop } from "./loop.js";
import { accessToken, inMs, randomName, signalUrl } from "./page.js";
import { SignalingClient } from "./parley.js";

/** @typedef {import("./diagnostics-verdict.js").CheckState} CheckState */
/** @typedef {{state: CheckState, why: string, figures?: Record<string, number>}} Outcome */
/**
 * @typedef {object} Scene what the checks share
 * @property {AbortSignal} signal
 * @property {RTCIceServer[]} iceServers
 */
/**
 * @typedef {object} Check
 * @property {string} name
 * @property {string} title
 * @property {(scene: Scene) => Promise<Outcome>} run
 */

const PINGS = 5;
const ENOUGH = 0.95;
const CARRIERS = /** @type {const} */ ({ udp: "UDP", tcp: "TCP", tls: "TLS" });

/**
 * @param {string} url of an ICE server
 * @returns {"udp" | "tcp" | "tls" | null} how a relay is reached; null for no relay
 */
export function carrierOf(url) {
  if (url.startsWith("turns:")) return "tls";
  if (!url.startsWith("turn:")) return null;
  return /[?&]transport=tcp\b/i.test(url) ? "tcp" : "udp";
}

/**
 * The servers cut down to one carrier's URLs.
 * @param {RTCIceServer[]} servers
 * @param {"udp" | "tcp" | "tls"} carrier
 * @returns {RTCIceServer[]}
 */
export function onlyCarrier(servers, carrier) {
  return servers
    .map((server) => ({ ...server, urls: [server.urls].flat().filter((url) => carrierOf(url) === carrier) }))
    .filter(({ urls }) => urls.length > 0);
}

/** @type {Check[]} */
export const CHECKS = [
  { name: "signaling", title: "Connection to the server", run: signaling },
  { name: "ice-servers", title: "Relay credentials", run: credentials },
  { name: "relay-udp", title: "Relay over UDP", run: (scene) => relay(scene, "udp") },
  { name: "relay-tcp", title: "Relay over TCP", run: (scene) => relay(scene, "tcp") },
  { name: "relay-tls", title: "Relay over TLS", run: (scene) => relay(scene, "tls") },
  { name: "direct", title: "Direct connection", run: direct },
  { name: "devices", title: "Camera and microphone", run: devices },
];

/** @param {Scene} scene @returns {Promise<Outcome>} */
async function signaling(scene) {
  const identity = `test-${randomName(6)}`;
  const client = new SignalingClient({
    url: signalUrl(),
    connectTimeoutMs: 8000,
    getToken: () => accessToken(identity, `test-${identity}`),
  });
  const stop = () => client.close();
  scene.signal.addEventListener("abort", stop);
  try {
    const began = performance.now();
    await client.connect();
    const connectMs = performance.now() - began;
    const trips = [];
    for (let turn = 0; turn < PINGS; turn++) trips.push(await client.ping());
    const roundTripMs = /** @type {number} */ (trips.sort((a, b) => a - b)[Math.floor(PINGS / 2)]);
    scene.iceServers = await client.freshIceServers().catch(() => []);
    const why = `Connected in ${inMs(connectMs)}; an answer takes ${inMs(roundTripMs)}.`;
    return { state: "passed", why, figures: { connect_ms: connectMs, round_trip_ms: roundTripMs } };
  } catch (error) {
    return { state: "failed", why: /** @type {Error} */ (error).message };
  } finally {
    scene.signal.removeEventListener("abort", stop);
    client.close();
  }
}

/** @param {Scene} scene @returns {Promise<Outcome>} */
async function credentials({ iceServers }) {
  const carriers = iceServers.flatMap(({ urls }) => [urls].flat()).flatMap((url) => carrierOf(url) ?? []);
  if (!carriers.length) return { state: "failed", why: "The server offers no relay." };
  const words = [...new Set(carriers)].map((carrier) => CARRIERS[carrier]).join(", ");
  return { state: "passed", why: `The server offers a relay over ${words}.`, figures: { relay_urls: carriers.length } };
}

/**
 * @param {Scene} scene
 * @param {"udp" | "tcp" | "tls"} carrier
 * @returns {Promise<Outcome>}
 */
async function relay({ iceServers, signal }, carrier) {
  const servers = onlyCarrier(iceServers, carrier);
  const word = CARRIERS[carrier];
  if (!servers.length) return { state: "skipped", why: `The server offers no relay over ${word}.` };
  return measured({ iceServers: servers, iceTransportPolicy: "relay" }, signal, word);
}

/** @param {Scene} scene @returns {Promise<Outcome>} */
async function direct({ signal }) {
  const outcome = await measured({}, signal, "UDP");
  // The relay carries calls that have no direct way.
  return outcome.state === "failed" ? { ...outcome, state: "warning" } : outcome;
}

/**
 * @param {RTCConfiguration} configuration
 * @param {AbortSignal} signal
 * @param {string} word
 * @returns {Promise<Outcome>}
 */
async function measured(configuration, signal, word) {
  try {
    const { connectMs, roundTripMs, sent, received, durationMs } = await loop(configuration, { signal });
    const figures = { connect_ms: connectMs, round_trip_ms: roundTripMs, sent, received, duration_ms: durationMs };
    const share = `${received} of ${sent} packets came back within ${durationMs / 1000} s, in ${inMs(roundTripMs)}.`;
    return { state: received >= sent * ENOUGH ? "passed" : "warning", why: share, figures };
  } catch (error) {
    const { why, code } = /** @type {LoopError} */ (error);
    return { state: why === "stopped" ? "skipped" : "failed", why: lineFor(why, word), figures: { ice_error: code ?? 0 } };
  }
}

/**
 * @param {LoopError["why"] | undefined} why
 * @param {string} word
 */
function lineFor(why, word) {
  switch (why) {
    case "stopped":
      return "Stopped.";
    case "refused":
      return "The relay does not accept the credentials.";
    case "unreachable":
      return `Nothing answers over ${word}.`;
    case "late":
      return "An answer came, but no connection within 8 s.";
    default:
      return "The connection failed.";
  }
}

/** @returns {Promise<Outcome>} */
async function devices() {
  if (!navigator.mediaDevices?.enumerateDevices) {
    return { state: "warning", why: "Browsers open camera and microphone only on pages with https, or on localhost." };
  }
  const found = await navigator.mediaDevices.enumerateDevices();
  const cameras = found.filter(({ kind }) => kind === "videoinput").length;
  const microphones = found.filter(({ kind }) => kind === "audioinput").length;
  const figures = { cameras, microphones };
  if (cameras && microphones) return { state: "passed", why: "Both are there; they were not opened.", figures };
  const missing = cameras ? "No microphone" : microphones ? "No camera" : "Neither";
  return { state: "warning", why: `${missing} was found; you can still see and hear others.`, figures };
}
