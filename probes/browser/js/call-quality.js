/**
 * Daily's two quality tests: a video track through the relay for some seconds, to this page itself
 * (peer to peer) or to the deployment's peer, one sample a second.
 * @module
 */

import { figuresOf, lossRatio } from "./connection-figures.js";
import { stateOf } from "./gathering.js";
import { gradedCall, gradedLoop } from "./quality-grade.js";
import { wishOf } from "./relay-check.js";
import { openBestLoop } from "./relayed-link.js";
import { openBestLink } from "./server-link.js";
import { ProbeError, pause, probeError, secondAfter, tell } from "./settle.js";

/** @typedef {import("./connection-figures.js").Figures} Figures */
/** @typedef {import("./quality-grade.js").Second} Second */
/** @typedef {import("./relayed-link.js").Link} Link */
/** @typedef {import("./probe-api.js").ProbeSession} ProbeSession */
/** @typedef {(servers: RTCIceServer[]) => import("./relayed-link.js").Wish} WishFor */
/** @typedef {{region: string | null, node: string | null, server: string, transport?: import("./verdict.js").Transport}} Where */
/**
 * @typedef {object} Wish
 * @property {import("./probe-api.js").ProbeApi} api
 * @property {typeof RTCPeerConnection} Connection
 * @property {import("./settle.js").Run} run
 * @property {MediaStreamTrack} track
 * @property {number} durationS
 * @property {((second: Second & {secondsElapsed: number}) => void)} [onProgress]
 * @property {(pc: RTCPeerConnection | null) => void} watching which connection can be asked for its statistics
 */

const EVERY_MS = 1_000;
/** Seconds without a byte after which nothing more is expected. */
const SILENT = 4;
const CUT_OFF = new Set(["disconnected", "failed", "closed"]);
const WORDS = /** @type {Record<string, string>} */ ({
  no_camera: "The video track ended.",
  server_gone: "The server does not answer any more.",
  relay_silent: "The relay carries nothing.",
  peer_denied: "The relay refuses to send to its own addresses.",
  credential_rejected: "The relay does not accept the credential.",
  credential_expired: "The relay's credential has expired.",
  not_offered: "The server offers no relay.",
  rate_limited: "Too many tests from this network for now.",
  unsupported: "This browser has no WebRTC, or tells nothing of it.",
});

/** @param {Wish} wish @returns {Promise<import("./parley-probes.d.ts").PeerToPeerCallQuality>} never rejects */
export async function testLoopQuality(wish) {
  const open = (/** @type {WishFor} */ wishFor, /** @type {ProbeSession} */ { ice_servers }) =>
    openBestLoop(wishFor, ice_servers);
  return /** @type {any} */ (await measured(wish, open, gradedLoop));
}

/** @param {Wish} wish @returns {Promise<import("./parley-probes.d.ts").CallQuality>} never rejects */
export async function testServerQuality(wish) {
  const open = (/** @type {WishFor} */ wishFor, /** @type {ProbeSession} */ { ice_servers }) =>
    openBestLink(wishFor, ice_servers, wish.api, "sink");
  return /** @type {any} */ (await measured(wish, open, gradedCall));
}

/**
 * @param {Wish} wish
 * @param {(wishFor: WishFor, session: ProbeSession) => Promise<Link & {transport?: import("./verdict.js").Transport}>} open
 * @param {typeof gradedLoop | typeof gradedCall} graded
 */
async function measured(wish, open, graded) {
  const { api, run, track } = wish;
  /** @type {Second[]} */
  const seconds = [];
  let beganMs = 0;
  let elapsedMs = 0;
  /** @type {Where} */
  const where = { region: null, node: null, server: api.baseUrl };
  const concluded = (/** @type {ProbeError | null} */ error) => {
    const secondsElapsed = Math.round((beganMs ? elapsedMs : 0) / 100) / 10;
    return { ...conclusion(error, seconds, run, graded), secondsElapsed, ...where };
  };
  try {
    const session = await api.session(run.signal);
    Object.assign(where, { region: session.region, node: session.node });
    if (!Object.values(session.ice_servers).flat().length) throw new ProbeError("not_offered");
    const scene = { api, session, Connection: wish.Connection, run, track: null };
    const link = await open((servers) => ({ ...wishOf(scene, servers), prepare: (pc) => addTrack(pc, track) }), session);
    try {
      if (link.transport) where.transport = link.transport;
      wish.watching(link.here);
      beganMs = performance.now();
      await watch(wish, link, seconds, (ms) => (elapsedMs = ms));
    } finally {
      wish.watching(null);
      link.close();
    }
    return concluded(null);
  } catch (error) {
    return concluded(await explained(api, run, probeError(error)));
  }
}

/** @param {RTCPeerConnection} pc @param {MediaStreamTrack} track */
function addTrack(pc, track) {
  pc.addTransceiver(track, { direction: "sendonly" });
}

/**
 * @param {Wish} wish
 * @param {Link} link
 * @param {Second[]} seconds grows
 * @param {(ms: number) => void} passed
 */
async function watch(wish, link, seconds, passed) {
  const { run, track } = wish;
  const ending = new AbortController();
  const trackEnded = () => ending.abort(new ProbeError("no_camera"));
  const runEnded = () => ending.abort(run.signal.reason);
  track.addEventListener("ended", trackEnded);
  run.signal.addEventListener("abort", runEnded);
  if (run.signal.aborted) runEnded();
  try {
    await sample(wish, link, seconds, passed, ending.signal);
  } finally {
    track.removeEventListener("ended", trackEnded);
    run.signal.removeEventListener("abort", runEnded);
  }
}

/**
 * @param {Wish} wish
 * @param {Link} link
 * @param {Second[]} seconds grows
 * @param {(ms: number) => void} passed
 * @param {AbortSignal} signal
 */
async function sample({ track, durationS, onProgress }, { here, there }, seconds, passed, signal) {
  const began = performance.now();
  let before = await both(here, there, null);
  // The round trip of the empty line, at first.
  let leastMs = before[0].roundTripMs ?? Infinity;
  let silent = 0;
  for (let number = 1; number <= durationS; number = secondAfter(number, performance.now() - began)) {
    await pause(Math.max(0, began + number * EVERY_MS - performance.now()), signal);
    // Whoever stops a track itself hears no event.
    if (track.readyState === "ended") throw new ProbeError("no_camera");
    const after = await both(here, there, before[0]);
    const tripMs = after[0].roundTripMs;
    leastMs = Math.min(leastMs, tripMs ?? Infinity);
    const second = { ...secondOf(before, after), queueMs: tripMs === null ? null : tripMs - leastMs };
    before = after;
    passed(performance.now() - began);
    seconds.push(second);
    tell(onProgress, { ...second, secondsElapsed: number });
    // Nothing that is told is silence; nothing told is none.
    const isSilent = (there ? second.recvBps : second.sendBps) === 0 || CUT_OFF.has(stateOf(here));
    silent = isSilent ? silent + 1 : 0;
    if (silent >= SILENT) throw new ProbeError("relay_silent");
  }
  // Firefox counts whole milliseconds: 0 is told, too.
  const isTold = seconds.some(({ roundTripMs, sendBps, recvBps }) => (roundTripMs ?? sendBps ?? recvBps) !== null);
  if (!isTold) throw new ProbeError("unsupported");
}

/**
 * @param {RTCPeerConnection} here
 * @param {RTCPeerConnection | null} there
 * @param {Figures | null} before of the sender
 * @returns {Promise<[Figures, Figures | null]>}
 */
async function both(here, there, before) {
  const atMs = performance.now();
  const sent = figuresOf(await here.getStats(), atMs, before);
  return [sent, there ? figuresOf(await there.getStats(), atMs) : null];
}

/**
 * @param {[Figures, Figures | null]} before
 * @param {[Figures, Figures | null]} after
 * @returns {Omit<Second, "queueMs">}
 */
function secondOf([sentBefore, receivedBefore], [sent, received]) {
  const seconds = (sent.atMs - sentBefore.atMs) / 1000;
  const bps = (/** @type {number} */ to, /** @type {number} */ from) => (8 * Math.max(0, to - from)) / seconds;
  const [was, is] = [receivedBefore?.video, received?.video];
  const [out, outBefore] = [sent.video, sentBefore.video];
  const lostSent = out?.lostSent == null ? null : out.lostSent - (outBefore?.lostSent ?? 0);
  return {
    roundTripMs: sent.roundTripMs,
    availableBps: sent.availableBps,
    limitedBy: sent.limitedBy,
    sendBps: out ? bps(out.bytesSent, outBefore?.bytesSent ?? 0) : null,
    sendLoss: lossRatio(lostSent, (out?.packetsSent ?? 0) - (outBefore?.packetsSent ?? 0), true),
    recvBps: received ? bps(is?.bytesReceived ?? 0, was?.bytesReceived ?? 0) : null,
    recvLoss: is ? lossRatio(is.lostReceived - (was?.lostReceived ?? 0), is.packetsReceived - (was?.packetsReceived ?? 0), false) : null,
  };
}

/**
 * @param {import("./probe-api.js").ProbeApi} api
 * @param {import("./settle.js").Run} run
 * @param {ProbeError} error
 */
async function explained(api, run, error) {
  if (error.reason.startsWith("credential")) api.forgetSession();
  if (error.reason !== "relay_silent" || run.ended || (await api.answers(run.signal)) || run.ended) return error;
  api.forgetSession();
  return new ProbeError("server_gone");
}

/**
 * @param {ProbeError | null} error
 * @param {Second[]} seconds
 * @param {import("./settle.js").Run} run
 * @param {typeof gradedLoop | typeof gradedCall} graded
 */
function conclusion(error, seconds, run, graded) {
  // Who ends a test early wants to know what is known by then.
  const isEarlyEnd = run.ended === "stopped" && seconds.length > 0;
  if (!error || isEarlyEnd) return graded(seconds);
  if (run.ended === "aborted" || run.ended === "stopped") {
    return { result: "aborted", reason: /** @type {const} */ ("aborted"), data: seconds.length ? graded(seconds).data : {} };
  }
  const errorMsg = WORDS[error.reason] ?? "No connection through the relay.";
  return { result: "failed", reason: error.reason, errorMsg, error: { type: error.reason, msg: errorMsg } };
}
