/**
 * Sound and picture through one relay to the deployment's peer and back, second by second, from a
 * stream that the caller has. What was measured until a stop counts, too.
 * @module
 */

import { lossRatio } from "./connection-figures.js";
import { addTracks } from "./publisher.js";
import { audioResults, checksOf, videoResults } from "./quality-results.js";
import { readingOf } from "./reading.js";
import { wishOf } from "./relay-check.js";
import { openServerLink } from "./server-link.js";
import { ProbeError, pause, probeError, secondAfter, tell } from "./settle.js";

/** @typedef {import("./diagnostics-words.js").Finding} Finding */
/** @typedef {import("./diagnostics-report.js").Second} Second */
/** @typedef {import("./quality-results.js").Reading} Reading */
/**
 * @typedef {object} Wish
 * @property {import("./probe-api.js").ProbeApi} api
 * @property {import("./probe-api.js").ProbeSession} session
 * @property {RTCIceServer[]} servers of the relay that is used
 * @property {typeof RTCPeerConnection} Connection
 * @property {import("./settle.js").Run} run
 * @property {MediaStream} stream goes on living
 * @property {number} durationS
 * @property {(second: Second) => void} onSecond
 */

const EVERY_MS = 1_000;
const SILENT_SECONDS = 4;
/** Long enough that one bad second does not decide, without the first ones, in which the sender feels its way. */
const JUDGED_S = 10;
/** With fewer readings there are no figures. */
const MIN_READINGS = 3;
const KINDS = /** @type {const} */ (["audio", "video"]);
/** Of a check that was cut short; a camera that is taken away says nothing of the network. */
const STATES = /** @type {Partial<Record<import("./reasons.js").Reason, import("./reasons.js").State>>} */ ({
  aborted: "aborted", device_in_use: "warning",
});

/** @param {Wish} wish @returns {Promise<Finding[]>} sound, then picture; never rejects */
export async function checkQuality(wish) {
  const began = performance.now();
  /** @type {Reading[]} */
  const readings = [];
  const cut = await watched(wish, readings).then(() => null, probeError);
  const durationMs = performance.now() - began;
  const findings = findingsOf(readings, wish.session.region);
  if (!cut) return findings.map((finding) => ({ ...finding, durationMs }));
  const state = STATES[cut.reason] ?? "failed";
  return findings.map((finding) => ({ ...finding, state, reason: cut.reason, durationMs }));
}

/** @param {Wish} wish @param {Reading[]} readings grows */
async function watched({ api, session, servers, Connection, run, stream, durationS, onSecond }, readings) {
  const wish = wishOf({ api, session, Connection, run, track: null }, servers);
  const prepare = (/** @type {RTCPeerConnection} */ pc) => addTracks(pc, stream);
  // Credentials that another relay refused took the session with them.
  await api.session(run.signal);
  const { here, close } = await openServerLink({ ...wish, prepare }, api, "echo");
  try {
    const began = performance.now();
    readings.push(await readingOf(here));
    let silent = 0;
    for (let number = 1; number <= durationS; number = secondAfter(number, performance.now() - began)) {
      await pause(Math.max(0, began + number * EVERY_MS - performance.now()), run.signal);
      if (stream.getTracks().some(({ readyState }) => readyState === "ended")) throw new ProbeError("device_in_use");
      readings.push(await readingOf(here));
      const second = secondOf(readings);
      tell(onSecond, { at_s: number, ...second });
      silent = second.bitrate_kbps ? 0 : silent + 1;
      if (silent >= SILENT_SECONDS) throw new ProbeError("relay_silent");
    }
  } finally {
    close();
  }
}

/** What came back in the last second. @param {Reading[]} readings */
export function secondOf(readings) {
  const [before, after] = /** @type {[Reading, Reading]} */ (readings.slice(-2));
  const grown = (/** @type {"bytesReceived" | "packetsReceived" | "lostReceived"} */ name) =>
    KINDS.reduce((sum, kind) => sum + Math.max(0, (after[kind]?.[name] ?? 0) - (before[kind]?.[name] ?? 0)), 0);
  const seconds = (after.atMs - before.atMs) / 1000;
  return {
    bitrate_kbps: Math.round((8 * grown("bytesReceived")) / seconds / 1000),
    round_trip_ms: after.roundTripMs === null ? null : Math.round(10 * after.roundTripMs) / 10,
    loss_ratio: lossRatio(grown("lostReceived"), grown("packetsReceived"), false),
  };
}

/** @param {Reading[]} readings @param {string} region @returns {Finding[]} */
export function findingsOf(readings, region) {
  const isEnough = readings.length >= MIN_READINGS;
  const audio = audioResults(readings, JUDGED_S);
  const video = videoResults(readings, JUDGED_S);
  const trips = readings.flatMap(({ roundTripMs }) => roundTripMs ?? []).sort((a, b) => a - b);
  const median = trips[Math.floor(trips.length / 2)];
  const trip = median === undefined ? {} : { round_trip_ms: median };
  const figures = [
    { mos: audio.mos, bitrate_kbps: audio.bitrate / 1000, loss_ratio: audio.packetLossRatio, ...trip },
    {
      mos: video.mos, bitrate_kbps: (video.bitrate ?? 0) / 1000, loss_ratio: video.packetLossRatio ?? 0, frame_rate: video.frameRate ?? 0,
      available_kbps: (video.availableOutgoingBitrate ?? 0) / 1000,
    },
  ];
  return checksOf(audio, video, region).map((check, index) => ({ ...check, ...(isEnough ? { figures: figures[index] ?? {} } : {}) }));
}
