/**
 * From the seconds of a test stream to OpenTok's results. Pure.
 *
 * Loss is that of the worse way, there or back. A picture that needs little is no weak network:
 * where the sender has an estimate of the link, three quarters of it count as carried.
 * @module
 */

import { isQueueing } from "./connection-figures.js";
import { audioMos, ONE_WAY_DELAY_MS, rating, videoMos, WORST } from "./mos.js";
import { AUDIO_MIN_MOS, AVAILABLE_SHARE, byAvailable, byReceived, TOO_LOW } from "./recommend.js";
import { isSteady, rate, windowRate } from "./samples.js";

/** @typedef {import("./samples.js").Sample} Sample */
/** @typedef {import("./samples.js").Rate} Rate */
/** @typedef {import("./connection-figures.js").Figures} Figures */
/** @typedef {import("./connection-figures.js").KindFigures} KindFigures */
/** @typedef {Figures & {width: number, height: number}} Reading of one moment */
/** @typedef {"audio" | "video"} Kind */
/** @typedef {import("./reasons.js").Reason} Reason */
/** @typedef {import("./network-test.d.ts").AudioResults} AudioResults */
/** @typedef {import("./network-test.d.ts").VideoResults} VideoResults */
/** @typedef {import("./verdict.js").CheckResult} CheckResult */

const HIGH_LOSS = 0.05;
const HIGH_DELAY_MS = 300;
const LITTLE_BPS = 600_000;
const FULL_HD = { height: 1080, resolution: "1920x1080" };
const NONE = { bytesReceived: 0, packetsReceived: 0, lostReceived: 0, framesReceived: 0, packetsSent: 0, lostSent: null };

/**
 * @param {Reading} reading
 * @param {Kind} kind
 * @returns {Sample} of what came back
 */
function back({ atMs, ...figures }, kind) {
  const { bytesReceived, packetsReceived, lostReceived, framesReceived } = figures[kind] ?? NONE;
  return { atS: atMs / 1000, bytes: bytesReceived, packets: packetsReceived, lost: lostReceived, frames: framesReceived };
}

/**
 * @param {Reading} reading
 * @param {Kind} kind
 * @returns {Sample} of what arrived there
 */
function there({ atMs, ...figures }, kind) {
  const { packetsSent, lostSent } = figures[kind] ?? NONE;
  const lost = lostSent ?? 0;
  return { atS: atMs / 1000, bytes: 0, packets: packetsSent - lost, lost };
}

/**
 * @param {Reading[]} readings
 * @param {Kind} kind
 * @param {number | undefined} windowS
 * @returns {Rate} over the last seconds
 */
function recent(readings, kind, windowS) {
  const found = windowRate(readings.map((one) => back(one, kind)), windowS);
  return { ...found, lossRatio: Math.max(found.lossRatio, windowRate(readings.map((one) => there(one, kind)), windowS).lossRatio) };
}

/**
 * @param {Reading[]} readings
 * @param {Kind} kind
 * @param {(interval: Rate, reading: Reading) => number} scoreOf
 * @returns {number} the mean of all seconds
 */
function score(readings, kind, scoreOf) {
  const scores = readings.slice(1).map((after, index) => {
    const before = /** @type {Reading} */ (readings[index]);
    const found = rate(back(before, kind), back(after, kind));
    const lossRatio = Math.max(found.lossRatio, rate(there(before, kind), there(after, kind)).lossRatio);
    return found.packets ? scoreOf({ ...found, lossRatio }, after) : WORST;
  });
  return scores.length ? scores.reduce((sum, one) => sum + one, 0) / scores.length : WORST;
}

/** @param {number | null} roundTripMs */
const delayOf = (roundTripMs) => (roundTripMs === null ? ONE_WAY_DELAY_MS : roundTripMs / 2);

/** @param {Reading[]} readings @param {number} [windowS] that bitrate and loss are of @returns {AudioResults} */
export function audioResults(readings, windowS) {
  const { bitrateBps, lossRatio } = recent(readings, "audio", windowS);
  const mos = score(readings, "audio", (interval, { roundTripMs }) => audioMos(interval.lossRatio, delayOf(roundTripMs)));
  const supported = mos >= AUDIO_MIN_MOS;
  return {
    supported,
    ...(supported ? {} : { reason: TOO_LOW }),
    cause: causeOf(readings, lossRatio, supported),
    bitrate: Math.round(bitrateBps),
    packetLossRatio: lossRatio,
    mos,
    rating: rating(mos),
    roundTripTime: readings.at(-1)?.roundTripMs ?? null,
  };
}

/** @param {Reading[]} readings @param {number} [windowS] that bitrate and loss are of @returns {VideoResults} */
export function videoResults(readings, windowS) {
  const { bitrateBps, lossRatio, frameRate } = recent(readings, "video", windowS);
  const mos = score(readings, "video", (interval, { width, height }) => videoMos(interval.bitrateBps, width, height));
  const last = readings.at(-1);
  const availableBps = last?.availableBps ?? null;
  const advised = byReceived(carriedBps(bitrateBps, availableBps), lossRatio);
  const supported = advised.resolution !== null;
  const byEstimate = availableBps === null ? null : byAvailable(availableBps).resolution;
  // The older table ends at what was published when it was made.
  const isFullHd = supported && (last?.height ?? 0) >= FULL_HD.height && byEstimate === FULL_HD.resolution;
  return {
    supported,
    ...(supported ? {} : { reason: TOO_LOW }),
    cause: causeOf(readings, lossRatio, supported),
    bitrate: Math.round(bitrateBps),
    frameRate: Math.round(frameRate * 10) / 10,
    packetLossRatio: lossRatio,
    mos,
    rating: rating(mos),
    recommendedResolution: isFullHd ? FULL_HD.resolution : advised.resolution,
    recommendedFrameRate: advised.frameRate,
    recommendedByAvailable: byEstimate,
    availableOutgoingBitrate: availableBps,
    qualityLimitationReason: last?.limitedBy === "none" ? null : (last?.limitedBy ?? null),
  };
}

/**
 * What is not good about it. The original knows one reason, a bandwidth that is too low; but what is
 * lost or late while nothing waits in a queue has another cause.
 * @param {Reading[]} readings
 * @param {number} lossRatio
 * @param {boolean} supported
 * @returns {Reason}
 */
function causeOf(readings, lossRatio, supported) {
  const trips = readings.map(({ roundTripMs }) => roundTripMs);
  const isLossy = lossRatio > HIGH_LOSS;
  const isLate = (trips.at(-1) ?? 0) > HIGH_DELAY_MS;
  if (supported && !isLossy && !isLate) return "";
  if (isQueueing(trips)) return "bandwidth_too_low";
  if (isLossy) return "high_loss";
  return supported ? "high_delay" : "bandwidth_too_low";
}

/**
 * What the link is known to carry; nothing when nothing comes back.
 * @param {number} receivedBps
 * @param {number | null} availableBps
 */
const carriedBps = (receivedBps, availableBps) =>
  receivedBps > 0 ? Math.max(receivedBps, AVAILABLE_SHARE * (availableBps ?? 0)) : 0;

/**
 * Whether more seconds would not tell more.
 * @param {Reading[]} readings
 * @param {Kind} kind
 */
export function hasSettled(readings, kind) {
  let bytes = 0;
  const carried = readings.map((reading, index) => {
    const sample = back(reading, kind);
    const before = readings[index - 1];
    if (before) {
      const found = rate(back(before, kind), sample);
      const bps = kind === "video" ? carriedBps(found.bitrateBps, reading.availableBps) : found.bitrateBps;
      bytes += (bps * (reading.atMs - before.atMs)) / 8000;
    }
    return { ...sample, bytes };
  });
  return isSteady(carried);
}

/**
 * The same as entries for verdictOf().
 * @param {AudioResults} audio
 * @param {VideoResults} video
 * @param {string | null} region
 * @returns {CheckResult[]}
 */
export function checksOf(audio, video, region) {
  const isTested = video.bitrate !== undefined;
  const isLittle = carriedBps(video.bitrate ?? 0, video.availableOutgoingBitrate ?? null) < LITTLE_BPS;
  const picture = { ...video, cause: video.cause || (isLittle ? "bandwidth_too_low" : "") };
  const skipped = { state: /** @type {const} */ ("skipped"), reason: /** @type {const} */ ("no_camera") };
  return [
    { name: "quality-audio", region, ...graded(audio) },
    { name: "quality-video", region, ...(isTested ? graded(/** @type {VideoResults} */ (picture)) : skipped) },
  ];
}

/**
 * @param {{supported: boolean, cause?: Reason}} results
 * @returns {{state: import("./reasons.js").State, reason: Reason}}
 */
function graded({ supported, cause = "" }) {
  return { state: !supported ? "failed" : cause ? "warning" : "passed", reason: cause };
}
