/**
 * A connection of this page with itself through a relay, and which transport to take. It opens a
 * data channel; who opened a link closes it. It does not judge what passes.
 * @module
 */

import { Gathering, followState, withoutCandidate } from "./gathering.js";
import { numberOf } from "./packets.js";
import { ProbeError, probeError, settled } from "./settle.js";

/** @typedef {import("./settle.js").Steps} Steps */
/** @typedef {import("./verdict.js").Transport} Transport */
/**
 * @typedef {object} Wish
 * @property {typeof RTCPeerConnection} Connection
 * @property {RTCIceServer[]} servers
 * @property {AbortSignal} signal
 * @property {() => boolean} isExpired the servers' credential, by the server's clock
 * @property {(pc: RTCPeerConnection) => void} [prepare] adds what is sent
 */
/**
 * @typedef {object} Link
 * @property {RTCPeerConnection} here
 * @property {RTCPeerConnection | null} there null: not in this page
 * @property {RTCDataChannel} channel open; what goes in comes back
 * @property {number} connectMs
 * @property {() => void} close
 */

export const GATHER_MS = 5_000;
/** Long enough for ICE, DTLS and SCTP where a round trip through the relay and back takes a second. */
const CONNECT_MS = 13_000;
/** A connection that fails sooner was refused; one that fails later had no answer. */
const REFUSAL_MS = 3_000;
export const CHANNEL = { ordered: false, maxRetransmits: 0 };
const ORDER = /** @type {Transport[]} */ (["udp", "tcp", "tls"]);
/** To gather where another transport is left: four round trips of half a second, and some. */
const FIRST_MS = 3_000;

/**
 * Over the first transport that gets there, each one alone: of several paths ICE may keep the first
 * that answers, which is not always the best, and each end another one.
 * @template {Partial<Link>} Opened
 * @param {(servers: RTCIceServer[]) => Wish} wishFor
 * @param {Record<Transport, RTCIceServer[]>} iceServers
 * @param {(wish: Wish, gatherMs: number) => Promise<Opened | ProbeError>} attempt an error as its value lets the next one try
 * @returns {Promise<Opened & {transport: Transport}>} rejects with ProbeError
 */
export async function overBest(wishFor, iceServers, attempt) {
  const transports = ORDER.filter((transport) => iceServers[transport]?.length);
  let why = new ProbeError("not_offered", "the server offers no relay");
  for (const [index, transport] of transports.entries()) {
    const wish = wishFor(iceServers[transport]);
    const link = await attempt(wish, index < transports.length - 1 ? FIRST_MS : GATHER_MS);
    if (!(link instanceof ProbeError)) return { ...link, transport };
    if (wish.signal.aborted) throw link;
    // A transport that is blocked says less than one that answers and says no.
    if (index === 0 || why.reason === "unreachable") why = link;
  }
  throw why;
}

/**
 * This page with itself, over the best transport.
 * @param {(servers: RTCIceServer[]) => Wish} wishFor
 * @param {Record<Transport, RTCIceServer[]>} iceServers
 * @returns {Promise<Link & {transport: Transport}>} rejects with ProbeError
 */
export function openBestLoop(wishFor, iceServers) {
  return overBest(wishFor, iceServers, (wish, gatherMs) =>
    openLoop(wish, gatherMs).catch((error) => {
      // Between the two ends it is the relay alone, whatever leads to it.
      if (probeError(error).reason === "relay_silent") throw error;
      return probeError(error);
    }));
}

/**
 * This page with itself, both ends through the relay.
 * @param {Wish} wish
 * @param {number} [gatherMs] until both have a candidate
 * @returns {Promise<Link>} rejects with ProbeError
 */
export async function openLoop(wish, gatherMs = GATHER_MS) {
  const here = connection(wish);
  /** @type {RTCPeerConnection | null} */
  let there = null;
  const close = () => {
    here.close();
    there?.close();
  };
  try {
    there = connection(wish);
    return await opened(wish, here, there, gatherMs, close);
  } catch (error) {
    close();
    throw error;
  }
}

/** @param {Wish} wish */
export function connection({ Connection, servers }) {
  if (!Connection) throw new ProbeError("unsupported", "this browser has no WebRTC");
  return new Connection({ iceServers: servers, iceTransportPolicy: "relay", bundlePolicy: "max-bundle" });
}

/**
 * @param {Wish} wish
 * @param {RTCPeerConnection} here
 * @param {RTCPeerConnection} there
 * @param {number} gatherMs
 * @param {() => void} close
 * @returns {Promise<Link>}
 */
function opened(wish, here, there, gatherMs, close) {
  return settled(wish.signal, (steps) => {
    const { resolve, reject, listen, after } = steps;
    const began = performance.now();
    const fail = (/** @type {unknown} */ error) => reject(probeError(error));
    let connectableAt = 0;
    /** @type {Gathering[]} */
    const ends = [];
    const none = () => {
      const { reason, code } = withoutCandidate(ends.flatMap(({ codes }) => codes), wish.isExpired());
      fail(new ProbeError(reason, "no candidate of the relay", code));
    };
    const changed = () => {
      if (ends.some(({ isComplete, candidates }) => isComplete && !candidates)) return none();
      if (connectableAt || !ends.every(({ candidates }) => candidates)) return;
      connectableAt = performance.now();
      after(CONNECT_MS, () => fail(new ProbeError("relay_silent", "no connection in time")));
    };
    const state = (/** @type {string} */ word) => {
      if (word !== "failed") return;
      if (!connectableAt) return none();
      fail(cutOff(connectableAt));
    };
    after(gatherMs, () => connectableAt || none());
    for (const [from, to] of /** @type {const} */ ([[here, there], [there, here]])) {
      const found = (/** @type {RTCIceCandidate} */ candidate) => void to.addIceCandidate(candidate).catch(() => {});
      ends.push(new Gathering(from, wish.servers, listen, { changed, found }));
      followState(from, listen, state);
    }
    listenForEcho(there);
    const channel = here.createDataChannel("probe", CHANNEL);
    listen(channel, "open", () => resolve({ here, there, channel, connectMs: performance.now() - began, close }));
    wish.prepare?.(here);
    exchange(here, there).catch(fail);
  });
}

/** @param {number} since when both ends could begin @returns {ProbeError} */
export function cutOff(since) {
  const isRefused = performance.now() - since < REFUSAL_MS;
  return new ProbeError(isRefused ? "peer_denied" : "relay_silent", "the connection failed");
}

/** @param {RTCPeerConnection} there */
function listenForEcho(there) {
  there.addEventListener("datachannel", ({ channel }) => {
    channel.addEventListener("message", ({ data }) => {
      if (channel.readyState === "open") channel.send(`${numberOf(data)}`);
    });
  });
}

/**
 * @param {RTCPeerConnection} here
 * @param {RTCPeerConnection} there
 */
async function exchange(here, there) {
  const offer = await here.createOffer();
  // The other side first: candidates of `here` start with its own setLocalDescription.
  await there.setRemoteDescription(offer);
  await here.setLocalDescription(offer);
  const answer = await there.createAnswer();
  await here.setRemoteDescription(answer);
  await there.setLocalDescription(answer);
}
