/**
 * Does the relay carry packets over one transport? Both ends are in this page; where that fails
 * although the relay gave addresses, the deployment's own peer tells a relay that cannot reach
 * itself from one that carries nothing.
 * @module
 */

import { ENOUGH, sendPackets } from "./packets.js";
import { openLoop } from "./relayed-link.js";
import { openServerLink, UNCARRIED } from "./server-link.js";
import { probeError } from "./settle.js";

/** @typedef {import("./verdict.js").Transport} Transport */
/** @typedef {import("./parley-probes.d.ts").TransportResult} TransportResult */
/**
 * @typedef {object} Scene what the checks of one test share
 * @property {import("./probe-api.js").ProbeApi} api
 * @property {import("./probe-api.js").ProbeSession} session
 * @property {typeof RTCPeerConnection} Connection
 * @property {import("./settle.js").Run} run
 * @property {MediaStreamTrack | null} track
 */

const SERVER_PACKETS = 10;
/** A round trip after which the loop, twice as long, is not judged by its silence. */
const SLOW_MS = 300;
const CREDENTIALS = new Set(["credential_rejected", "credential_expired"]);

/**
 * @param {Transport} transport
 * @param {Scene} scene
 * @param {(step: TransportResult["step"]) => void} progress
 * @returns {Promise<TransportResult>} never rejects
 */
export async function checkRelay(transport, scene, progress) {
  const servers = scene.session.ice_servers[transport] ?? [];
  const result = waiting(transport, scene.session);
  if (!servers.length) return { ...result, ...withoutServers(scene) };
  const began = performance.now();
  const found = await measured({ ...wishOf(scene, servers) }, scene, progress).catch((error) => failure(scene, error));
  return { ...result, ...found, durationMs: performance.now() - began };
}

/**
 * Nothing over this transport; or over none, although there are relays: then the server gave none.
 * @param {Scene} scene
 * @returns {{state: "skipped" | "failed", reason: import("./reasons.js").Reason}}
 */
function withoutServers({ api, session }) {
  const hasOthers = Object.values(session.ice_servers).some(({ length }) => length);
  if (hasOthers || !session.turn_regions?.length) return { state: "skipped", reason: "not_offered" };
  api.forgetSession();
  return { state: "failed", reason: "no_credentials" };
}

/**
 * @param {Transport} transport
 * @param {import("./probe-api.js").ProbeSession} session
 * @returns {TransportResult}
 */
export function waiting(transport, session) {
  const urls = (session.ice_servers[transport] ?? []).flatMap((server) => server.urls);
  return {
    name: "turn", transport, state: "waiting", reason: "", step: null, region: session.region,
    target: urls[0] ? targetOf(urls[0]) : null, via: null, connectMs: null, roundTripMs: null, lossRatio: null,
    sent: 0, received: 0, code: 0, durationMs: 0,
  };
}

/** @param {Scene} scene @param {RTCIceServer[]} servers @returns {import("./relayed-link.js").Wish} */
export function wishOf({ api, session, Connection, run, track }, servers) {
  return {
    Connection,
    servers,
    signal: run.signal,
    isExpired: () => expiryOf(servers, session.expires_at) <= api.serverNowS(),
    prepare: (pc) => track && addSilently(pc, track),
  };
}

/**
 * Safari wants a track; sending it would take bandwidth from the packets that are counted.
 * @param {RTCPeerConnection} pc
 * @param {MediaStreamTrack} track
 */
function addSilently(pc, track) {
  pc.addTransceiver(track, { direction: "sendonly", sendEncodings: [{ active: false }] });
}

/**
 * When the credential ends: TURN's own time stamp is in the username (draft-uberti-behave-turn-rest).
 * @param {RTCIceServer[]} servers
 * @param {number} otherwise
 */
function expiryOf(servers, otherwise) {
  const stamp = /^(\d+)(:|$)/.exec(servers[0]?.username ?? "");
  return stamp ? Number(stamp[1]) : otherwise;
}

/**
 * @param {import("./relayed-link.js").Wish} wish
 * @param {Scene} scene
 * @param {(step: TransportResult["step"]) => void} progress
 * @returns {Promise<Partial<TransportResult>>}
 */
async function measured(wish, scene, progress) {
  progress("connecting");
  const link = await openLoop(wish).catch(probeError);
  if (!(link instanceof Error)) {
    try {
      const { connectMs, channel } = link;
      progress("packets");
      const trips = await sendPackets(channel, wish.signal);
      if (trips.received) return judged({ ...trips, connectMs });
    } finally {
      link.close();
    }
  } else if (!UNCARRIED.has(link.reason)) throw link;
  progress("server");
  const reason = link instanceof Error ? link.reason : "relay_silent";
  const carried = await throughServer(wish, scene);
  if (!carried) return { state: "failed", reason, via: null };
  // Twice a long way may just have taken too long.
  const isLate = reason === "relay_silent" && (carried.roundTripMs ?? 0) > SLOW_MS;
  return isLate ? { ...carried, state: "passed", reason: "" } : carried;
}

/**
 * @param {import("./packets.js").Trips & {connectMs: number}} trips
 * @returns {Partial<TransportResult>}
 */
function judged({ durationMs: _, maxRoundTripMs: __, ...figures }) {
  const isEnough = 1 - figures.lossRatio >= ENOUGH;
  return { state: isEnough ? "passed" : "warning", reason: isEnough ? "" : "packet_loss", via: "loop", ...figures };
}

/**
 * @param {import("./relayed-link.js").Wish} wish
 * @param {Scene} scene
 * @returns {Promise<Partial<TransportResult> | null>} null: nothing passes, or there is no such peer
 */
async function throughServer(wish, { api, session }) {
  if (!session.limits?.peers) return null;
  const link = await openServerLink(wish, api, "data").catch(() => null);
  // An abort is not an answer.
  if (wish.signal.aborted) throw link?.close() ?? wish.signal.reason;
  if (!link) return null;
  try {
    const { received, sent, lossRatio, roundTripMs } = await sendPackets(link.channel, wish.signal, SERVER_PACKETS);
    const figures = { connectMs: link.connectMs, received, sent, lossRatio, roundTripMs };
    // Where packets get lost, a loop may fail by itself.
    const reason = 1 - lossRatio >= ENOUGH ? "hairpin" : "packet_loss";
    return received ? { state: "warning", reason, via: "server", ...figures } : null;
  } finally {
    link.close();
  }
}

/** @param {Scene} scene @param {unknown} error @returns {Partial<TransportResult>} */
function failure({ api, run }, error) {
  const { reason, code } = probeError(error);
  if (CREDENTIALS.has(reason)) api.forgetSession();
  return { state: reason === "aborted" && run.ended !== "timeout" ? "aborted" : "failed", reason, code };
}

/** `host:port` of a TURN URL (RFC 7065). @param {string} url */
export function targetOf(url) {
  const [, scheme, rest = ""] = /^(turns?):([^?]*)/i.exec(url) ?? [];
  const hasPort = /:\d+$/.test(rest) && (!rest.includes("[") || /\]:\d+$/.test(rest));
  return hasPort ? rest : `${rest}:${scheme?.toLowerCase() === "turns" ? 5349 : 3478}`;
}
