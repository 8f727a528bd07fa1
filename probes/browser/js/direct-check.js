/**
 * Can this browser be reached without a relay? Tried with the deployment's own peer, because two ends
 * in one page always find each other.
 * @module
 */

import { followState } from "./gathering.js";
import { ENOUGH, sendPackets } from "./packets.js";
import { ProbeError, probeError, settled } from "./settle.js";

/** @typedef {import("./diagnostics-words.js").Finding} Finding */
/**
 * @typedef {object} Scene
 * @property {import("./probe-api.js").ProbeApi} api
 * @property {import("./probe-api.js").ProbeSession} session
 * @property {typeof RTCPeerConnection} Connection
 * @property {AbortSignal} signal
 */

const GATHER_MS = 1_500;
const CONNECT_MS = 6_000;
/** In a network of its own the server answers soon, or never. */
const PRIVATE_CONNECT_MS = 2_000;
const PACKETS = 25;
const PRIVATE = /^(10\.|127\.|169\.254\.|192\.168\.|172\.(1[6-9]|2\d|3[01])\.|100\.(6[4-9]|[7-9]\d|1[01]\d|12[0-7])\.|f[cd]|fe80:|::1$)/i;

/** @param {Scene} scene @returns {Promise<{finding: Finding, addresses: string[]}>} never rejects */
export async function checkDirect(scene) {
  const { session, Connection } = scene;
  /** @type {Finding} */
  const finding = { name: "direct", state: "skipped", reason: "not_offered" };
  if (!session.limits.peers) return { finding, addresses: [] };
  if (!Connection) return { finding: { ...finding, reason: "unsupported" }, addresses: [] };
  const began = performance.now();
  /** @type {Set<string>} */
  const addresses = new Set();
  const found = await measured(scene, addresses).catch((error) => missed(probeError(error)));
  return { finding: { ...finding, ...found, durationMs: performance.now() - began }, addresses: [...addresses] };
}

/** @param {Scene} scene @param {Set<string>} addresses grows @returns {Promise<Partial<Finding>>} */
async function measured({ api, Connection, signal }, addresses) {
  const began = performance.now();
  const pc = new Connection({ iceServers: [] });
  let peer = "";
  try {
    pc.addEventListener("icecandidate", ({ candidate }) => {
      if (candidate?.address) addresses.add(candidate.address);
    });
    const channel = pc.createDataChannel("direct", { ordered: false, maxRetransmits: 0 });
    const sdp = await described(pc, signal);
    // Credentials that a relay refused took the session with them.
    await api.session(signal);
    const { id, sdp: answer } = await api.openPeer({ sdp, mode: "data" }, signal);
    peer = id;
    await opened(pc, channel, answer, signal);
    const connectMs = performance.now() - began;
    const { sent, received, lossRatio, roundTripMs } = await sendPackets(channel, signal, PACKETS);
    const figures = { connect_ms: connectMs, sent, received, loss_ratio: lossRatio, ...(roundTripMs === null ? {} : { round_trip_ms: roundTripMs }) };
    return received >= ENOUGH * sent ? { state: "passed", reason: "", figures } : { state: "warning", reason: "packet_loss", figures };
  } finally {
    pc.close();
    if (peer) void api.endPeer(peer);
  }
}

/** @param {ProbeError} error @returns {Partial<Finding>} */
function missed({ reason }) {
  if (reason === "aborted") return { state: "aborted", reason };
  if (reason === "not_offered") return { state: "skipped", reason };
  return { state: "failed", reason };
}

/**
 * The offer with what was found in a short while: there is no STUN server to wait for.
 * @param {RTCPeerConnection} pc
 * @param {AbortSignal} signal
 * @returns {Promise<string>}
 */
function described(pc, signal) {
  return settled(signal, ({ resolve, reject, listen, after }) => {
    const done = () => pc.localDescription && resolve(pc.localDescription.sdp);
    listen(pc, "icegatheringstatechange", () => pc.iceGatheringState === "complete" && done());
    after(GATHER_MS, done);
    pc.createOffer().then((offer) => pc.setLocalDescription(offer)).catch(reject);
  });
}

/**
 * @param {RTCPeerConnection} pc
 * @param {RTCDataChannel} channel
 * @param {string} answer
 * @param {AbortSignal} signal
 * @returns {Promise<void>}
 */
function opened(pc, channel, answer, signal) {
  return settled(signal, ({ resolve, reject, listen, after }) => {
    const isPublic = isTriable(answer);
    const late = () => reject(new ProbeError(isPublic ? "unreachable" : "not_offered"));
    after(isPublic ? CONNECT_MS : PRIVATE_CONNECT_MS, late);
    followState(pc, listen, (state) => state === "failed" && late());
    listen(channel, "open", () => resolve());
    pc.setRemoteDescription({ type: "answer", sdp: answer }).catch(reject);
  });
}

/**
 * Whether the server named an address of its own that can be reached from elsewhere: a node in a
 * container often knows only its private one, and then nothing is learnt of the visitor's network.
 * @param {string} sdp
 */
export function isTriable(sdp) {
  const addresses = [...sdp.matchAll(/^a=candidate:\S+ \d+ \S+ \d+ (\S+) \d+ typ (?!relay)/gm)].map(([, address]) => address ?? "");
  return addresses.some((address) => !PRIVATE.test(address));
}
