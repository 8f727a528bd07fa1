/**
 * A connection of this page through a relay with the deployment's own peer. It opens a data channel;
 * who opened a link closes it, and that ends the peer. It does not judge what passes.
 * @module
 */

import { Gathering, followState, withoutCandidate } from "./gathering.js";
import { CHANNEL, connection, cutOff, GATHER_MS, overBest } from "./relayed-link.js";
import { ProbeError, probeError, settled } from "./settle.js";

/** @typedef {import("./relayed-link.js").Wish} Wish */
/** @typedef {import("./probe-api.js").ProbeApi} ProbeApi */
/** @typedef {import("./verdict.js").Transport} Transport */
/** @typedef {"data" | "sink" | "echo"} Mode */
/** @typedef {import("./relayed-link.js").Link & {peer: string}} ServerLink */
/** @typedef {{here: RTCPeerConnection, channel: RTCDataChannel, sdp: string, began: number}} Offer */

const CONNECT_MS = 6_000;
/** How long an end with one candidate waits for better ones, where all go in one message. */
const MORE_MS = 500;

/**
 * @param {Wish} wish
 * @param {ProbeApi} api with a session
 * @param {Mode} mode
 * @returns {Promise<ServerLink>} rejects with ProbeError
 */
export async function openServerLink(wish, api, mode) {
  return met(wish, await offered(wish, GATHER_MS), api, mode);
}

/**
 * Over the best transport.
 * @param {(servers: RTCIceServer[]) => Wish} wishFor
 * @param {Record<Transport, RTCIceServer[]>} iceServers
 * @param {ProbeApi} api with a session
 * @param {Mode} mode
 * @returns {Promise<ServerLink & {transport: Transport}>} rejects with ProbeError
 */
export function openBestLink(wishFor, iceServers, api, mode) {
  return overBest(wishFor, iceServers, async (wish, gatherMs) => {
    const offer = await offered(wish, gatherMs).catch(probeError);
    if (offer instanceof ProbeError) return offer;
    return met(wish, offer, api, mode).catch((error) => {
      // Another transport does not help where the server says no.
      if (!UNCARRIED.has(probeError(error).reason)) throw error;
      return probeError(error);
    });
  });
}

/** The relay gave an address, and nobody was met there. */
export const UNCARRIED = new Set(["peer_denied", "relay_silent"]);

/**
 * @param {Wish} wish
 * @param {number} limitMs
 * @returns {Promise<Offer>} rejects with ProbeError
 */
async function offered(wish, limitMs) {
  const began = performance.now();
  const here = connection(wish);
  try {
    const channel = here.createDataChannel("probe", CHANNEL);
    wish.prepare?.(here);
    return { here, channel, sdp: await described(wish, here, limitMs), began };
  } catch (error) {
    here.close();
    throw probeError(error);
  }
}

/**
 * @param {Wish} wish
 * @param {Offer} offer
 * @param {ProbeApi} api
 * @param {Mode} mode
 * @returns {Promise<ServerLink>} rejects with ProbeError
 */
async function met({ signal }, { here, channel, sdp, began }, api, mode) {
  let peer = "";
  const close = () => {
    here.close();
    if (peer) void api.endPeer(peer);
  };
  try {
    const answer = await api.openPeer({ sdp, mode }, signal);
    peer = answer.id;
    await ready(signal, here, channel, answer);
    return { here, there: null, channel, connectMs: performance.now() - began, close, peer };
  } catch (error) {
    close();
    throw probeError(error);
  }
}

/**
 * The offer with its candidates.
 * @param {Wish} wish
 * @param {RTCPeerConnection} here
 * @param {number} limitMs
 * @returns {Promise<string>}
 */
function described(wish, here, limitMs) {
  return settled(wish.signal, ({ resolve, reject, listen, after }) => {
    let isWaiting = false;
    const done = () => resolve(/** @type {RTCSessionDescription} */ (here.localDescription).sdp);
    const none = () => {
      const { reason, code } = withoutCandidate(gathering.codes, wish.isExpired());
      reject(new ProbeError(reason, "no candidate of the relay", code));
    };
    const changed = () => {
      if (gathering.isComplete) return gathering.candidates ? done() : none();
      if (!gathering.candidates || isWaiting) return;
      isWaiting = true;
      after(MORE_MS, done);
    };
    const gathering = new Gathering(here, wish.servers, listen, { changed });
    after(limitMs, () => isWaiting || none());
    here.createOffer().then((offer) => here.setLocalDescription(offer)).catch((error) => reject(probeError(error)));
  });
}

/**
 * @param {AbortSignal} signal
 * @param {RTCPeerConnection} here
 * @param {RTCDataChannel} channel
 * @param {import("./probe-api.js").PeerAnswer} answer
 * @returns {Promise<void>}
 */
function ready(signal, here, channel, { sdp }) {
  return settled(signal, ({ resolve, reject, listen, after }) => {
    const began = performance.now();
    after(CONNECT_MS, () => reject(new ProbeError("relay_silent", "no connection in time")));
    followState(here, listen, (state) => state === "failed" && reject(cutOff(began)));
    listen(channel, "open", () => resolve());
    here.setRemoteDescription({ type: "answer", sdp }).catch((error) => reject(probeError(error)));
  });
}
