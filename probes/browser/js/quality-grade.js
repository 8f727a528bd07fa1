/**
 * From the seconds of a call to Daily's word for them. Pure.
 *
 * A picture that needs little is no weak network: where the sender is not held back by bandwidth,
 * its own estimate of what it could send counts instead of what it sent.
 * @module
 */

import { isQueueing } from "./connection-figures.js";

/** @typedef {import("./reasons.js").Reason} Reason */
/** @typedef {"good" | "warning" | "bad"} Grade */
/**
 * @typedef {object} Second of a running test; null: not told
 * @property {number | null} roundTripMs
 * @property {number | null} queueMs more than on the empty line
 * @property {number | null} sendLoss
 * @property {number | null} recvLoss
 * @property {number | null} availableBps
 * @property {number | null} sendBps
 * @property {number | null} recvBps
 * @property {string | null} limitedBy
 */

/** Weight of the newest second. */
const NEWEST = 0.3;
/** What limitedBy says where bandwidth is not what limits. */
const UNLIMITED = new Set(["none", "cpu"]);
const GRADES = /** @type {const} */ (["good", "warning", "bad"]);
const LOSS = /** @type {[number, number]} */ ([0.05, 0.1]);
const ROUND_TRIP_S = /** @type {[number, number]} */ ([0.3, 0.6]);
const BPS = /** @type {[number, number]} */ ([1_100_000, 700_000]);

/**
 * An exponential moving average of what was told.
 * @param {(number | null)[]} values
 * @returns {number | null}
 */
function average(values) {
  /** @type {number | null} */
  let mean = null;
  for (const value of values) {
    if (value !== null) mean = mean === null ? value : mean + NEWEST * (value - mean);
  }
  return mean;
}

/** @param {Second[]} seconds @param {keyof Second} name @returns {(number | null)[]} */
const all = (seconds, name) => seconds.map((second) => /** @type {number | null} */ (second[name]));

/** @param {Second[]} seconds */
function shared(seconds) {
  const tripsS = all(seconds, "roundTripMs").flatMap((ms) => (ms === null ? [] : [ms / 1000]));
  return {
    maxRoundTripTime: tripsS.length ? Math.max(...tripsS) : null,
    avgRoundTripTime: average(tripsS),
    avgAvailableOutgoingBitrate: average(all(seconds, "availableBps")),
    avgSendBitsPerSecond: average(all(seconds, "sendBps")),
  };
}

/** @param {Second[]} seconds between two ends in this page */
export function gradedLoop(seconds) {
  const data = {
    ...shared(seconds),
    avgRecvPacketLoss: average(all(seconds, "recvLoss")),
    avgRecvBitsPerSecond: average(all(seconds, "recvBps")),
  };
  return { data, ...graded(data.avgRecvPacketLoss, data.avgRoundTripTime, data.avgRecvBitsPerSecond, data, seconds) };
}

/** @param {Second[]} seconds to the deployment's peer */
export function gradedCall(seconds) {
  const data = { ...shared(seconds), avgSendPacketLoss: average(all(seconds, "sendLoss")) };
  return { data, ...graded(data.avgSendPacketLoss, data.maxRoundTripTime, data.avgSendBitsPerSecond, data, seconds) };
}

/**
 * @param {number | null} loss
 * @param {number | null} tripS
 * @param {number | null} bps
 * @param {{avgAvailableOutgoingBitrate: number | null}} data
 * @param {Second[]} seconds
 * @returns {{result: Grade, reason: Reason}} of the worst of the three
 */
function graded(loss, tripS, bps, { avgAvailableOutgoingBitrate }, seconds) {
  // Not told: then the estimate is what the encoder was let have.
  const limitedBy = seconds.at(-1)?.limitedBy ?? "none";
  const could = bps && UNLIMITED.has(limitedBy) ? avgAvailableOutgoingBitrate : null;
  const grades = /** @type {[Reason, number][]} */ ([
    ["high_loss", grade(loss, LOSS, 1)],
    ["bandwidth_too_low", grade(bps === null ? null : Math.max(bps, could ?? 0), BPS, -1)],
    ["high_delay", grade(tripS, ROUND_TRIP_S, 1)],
  ]);
  const worst = Math.max(...grades.map(([, number]) => number));
  const reason = (worst && grades.find(([, number]) => number === worst)?.[0]) || "";
  const [[, isLossy], [, isNarrow]] = /** @type {[[Reason, number], [Reason, number]]} */ (grades.slice(0, 2));
  if (!isLossy || !isNarrow || reason === "high_delay") return { result: GRADES[worst] ?? "bad", reason };
  // Packets are lost where too little is carried, and less is sent where packets are lost.
  const cause = isQueueing([0, ...all(seconds, "queueMs")]) ? "bandwidth_too_low" : "high_loss";
  return { result: GRADES[worst] ?? "bad", reason: cause };
}

/**
 * @param {number | null} value
 * @param {[number, number]} limits warning, bad
 * @param {1 | -1} direction in which it gets worse
 */
function grade(value, [warning, bad], direction) {
  if (value === null) return 0;
  const isPast = (/** @type {number} */ limit) => (direction > 0 ? value >= limit : value < limit);
  return isPast(bad) ? 2 : isPast(warning) ? 1 : 0;
}
