/**
 * Daily's getNetworkStats for any connection: the last interval, the worst and the mean of the last
 * half minute, and a word for it.
 * @module
 */

import { figuresOf, lossRatio } from "./connection-figures.js";

/** @typedef {import("./connection-figures.js").Figures} Figures */
/** @typedef {import("./parley-probes.d.ts").NetworkStats} NetworkStats */
/** @typedef {import("./parley-probes.d.ts").LatestStats} Latest */
/** @typedef {import("./parley-probes.d.ts").NetworkStateReason} Reason */

const WINDOW_MS = 30_000;
/** Asked again sooner, the interval goes back to the figures before: short ones are noise. */
const SHORTEST_MS = 500;
/** [warning, bad] of losses, milliseconds and bit/s. */
const LOSS = /** @type {const} */ ([0.05, 0.1]);
const ROUND_TRIP_MS = /** @type {const} */ ([300, 600]);
const AVAILABLE_BPS = /** @type {const} */ ([1_100_000, 700_000]);
const UNKNOWN = /** @type {const} */ ({ networkState: "unknown", networkStateReasons: [], stats: {}, threshold: "good", quality: 100 });

export class StatsHistory {
  /** @type {WeakMap<RTCPeerConnection, {figures: Figures[], latest: Latest[]}>} */
  #known = new WeakMap();

  /**
   * @param {RTCPeerConnection | null} pc
   * @returns {Promise<NetworkStats>} `unknown` before a connection was asked for the second time
   */
  async stats(pc) {
    if (!pc || pc.signalingState === "closed") return { ...UNKNOWN, networkStateReasons: [], stats: {} };
    const now = figuresOf(await pc.getStats(), performance.now());
    const { figures, latest } = this.#known.get(pc) ?? { figures: [], latest: [] };
    this.#known.set(pc, { figures, latest });
    const before = figures.findLast(({ atMs }) => now.atMs - atMs >= SHORTEST_MS);
    if (before) {
      latest.push(intervalOf(before, now));
      while (latest.length > 1 && now.atMs - /** @type {Figures} */ (figures[0]).atMs > WINDOW_MS) {
        latest.shift();
        figures.shift();
      }
      figures.push(now);
    } else if (!figures.length) figures.push(now);
    return networkStatsOf(latest);
  }
}

/**
 * @param {Figures} before
 * @param {Figures} after
 * @returns {Latest}
 */
function intervalOf(before, after) {
  const seconds = (after.atMs - before.atMs) / 1000;
  const bps = (/** @type {number | undefined} */ to, /** @type {number | undefined} */ from) =>
    to === undefined ? null : (8 * Math.max(0, to - (from ?? 0))) / seconds;
  const audio = kindInterval(before.audio, after.audio, bps);
  const video = kindInterval(before.video, after.video, bps);
  return {
    timestamp: Date.now(),
    recvBitsPerSecond: bps(after.bytesReceived, before.bytesReceived),
    sendBitsPerSecond: bps(after.bytesSent, before.bytesSent),
    availableOutgoingBitrate: after.availableBps,
    networkRoundTripTime: after.roundTripMs === null ? null : after.roundTripMs / 1000,
    videoRecvBitsPerSecond: video.recv,
    videoSendBitsPerSecond: video.send,
    audioRecvBitsPerSecond: audio.recv,
    audioSendBitsPerSecond: audio.send,
    videoRecvPacketLoss: lossRatio(video.lostRecv, video.packetsRecv, false),
    videoSendPacketLoss: lossRatio(video.lostSend, video.packetsSend, true),
    audioRecvPacketLoss: lossRatio(audio.lostRecv, audio.packetsRecv, false),
    audioSendPacketLoss: lossRatio(audio.lostSend, audio.packetsSend, true),
    totalSendPacketLoss: lossRatio(sum(audio.lostSend, video.lostSend), audio.packetsSend + video.packetsSend, true),
    totalRecvPacketLoss: lossRatio(sum(audio.lostRecv, video.lostRecv), audio.packetsRecv + video.packetsRecv, false),
    videoRecvJitter: after.video?.receiveJitterS ?? null,
    videoSendJitter: after.video?.sendJitterS ?? null,
    audioRecvJitter: after.audio?.receiveJitterS ?? null,
    audioSendJitter: after.audio?.sendJitterS ?? null,
  };
}

/** @typedef {import("./connection-figures.js").KindFigures | null} Kind */

/**
 * @param {Kind} before
 * @param {Kind} after
 * @param {(to?: number, from?: number) => number | null} bps
 */
function kindInterval(before, after, bps) {
  const lostSend = after?.lostSent == null ? null : after.lostSent - (before?.lostSent ?? 0);
  return {
    recv: bps(after?.bytesReceived, before?.bytesReceived),
    send: bps(after?.bytesSent, before?.bytesSent),
    lostRecv: after ? after.lostReceived - (before?.lostReceived ?? 0) : null,
    packetsRecv: (after?.packetsReceived ?? 0) - (before?.packetsReceived ?? 0),
    lostSend,
    packetsSend: (after?.packetsSent ?? 0) - (before?.packetsSent ?? 0),
  };
}

/** @param {number | null} one @param {number | null} other */
const sum = (one, other) => (one === null ? other : one + (other ?? 0));

/**
 * @param {Latest[]} window oldest first
 * @returns {NetworkStats}
 */
function networkStatsOf(window) {
  const latest = window.at(-1);
  if (!latest) return { ...UNKNOWN, networkStateReasons: [], stats: {} };
  const worst = (/** @type {keyof Latest} */ name) => Math.max(0, ...window.map((one) => one[name] ?? 0));
  const trip = mean(window, "networkRoundTripTime");
  const { networkState, networkStateReasons } = stateOf(window, trip);
  return {
    networkState,
    networkStateReasons,
    stats: {
      latest,
      worstVideoRecvPacketLoss: worst("videoRecvPacketLoss"),
      worstVideoSendPacketLoss: worst("videoSendPacketLoss"),
      worstAudioRecvPacketLoss: worst("audioRecvPacketLoss"),
      worstAudioSendPacketLoss: worst("audioSendPacketLoss"),
      worstVideoRecvJitter: worst("videoRecvJitter"),
      worstVideoSendJitter: worst("videoSendJitter"),
      worstAudioRecvJitter: worst("audioRecvJitter"),
      worstAudioSendJitter: worst("audioSendJitter"),
      averageNetworkRoundTripTime: trip ?? 0,
    },
    threshold: networkState === "bad" ? "very-low" : networkState === "warning" ? "low" : "good",
    quality: networkState === "bad" ? 30 : networkState === "warning" ? 65 : 100,
  };
}

/**
 * @param {Latest[]} window
 * @param {number | null} tripS
 * @returns {{networkState: NetworkStats["networkState"], networkStateReasons: Reason[]}}
 */
function stateOf(window, tripS) {
  const available = mean(window, "availableOutgoingBitrate");
  const found = /** @type {[Reason, number | null, readonly [number, number], boolean][]} */ ([
    ["sendPacketLoss", mean(window, "totalSendPacketLoss"), LOSS, true],
    ["recvPacketLoss", mean(window, "totalRecvPacketLoss"), LOSS, true],
    ["roundTripTime", tripS === null ? null : tripS * 1000, ROUND_TRIP_MS, true],
    ["availableOutgoingBitrate", available, AVAILABLE_BPS, false],
  ]);
  const grades = found.map(([name, value, [warning, bad], isMoreWorse]) => {
    const isPast = (/** @type {number} */ limit) => value !== null && (isMoreWorse ? value >= limit : value < limit);
    return { name, value, grade: isPast(bad) ? 2 : isPast(warning) ? 1 : 0 };
  });
  const worst = Math.max(...grades.map(({ grade }) => grade));
  if (grades.every(({ value }) => value === null)) return { networkState: "unknown", networkStateReasons: [] };
  const networkStateReasons = grades.filter(({ grade }) => grade > 0 && grade === worst).map(({ name }) => name);
  return { networkState: /** @type {const} */ (["good", "warning", "bad"])[worst] ?? "bad", networkStateReasons };
}

/**
 * @param {Latest[]} window
 * @param {keyof Latest} name
 * @returns {number | null} of what was told
 */
function mean(window, name) {
  const told = window.map((one) => one[name]).filter((value) => value !== null);
  return told.length ? told.reduce((total, value) => total + value, 0) / told.length : null;
}
