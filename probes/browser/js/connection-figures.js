/**
 * Reads the counters of a connection from getStats(), whatever the browser calls or leaves out:
 * null is "not told", never 0.
 * @module
 */

/**
 * @typedef {object} KindFigures of audio or video; counters grow from the beginning
 * @property {number} bytesSent
 * @property {number} packetsSent
 * @property {number | null} lostSent of what we sent, as the other end reports it
 * @property {number | null} sendJitterS
 * @property {number} bytesReceived
 * @property {number} packetsReceived
 * @property {number} lostReceived
 * @property {number | null} receiveJitterS
 * @property {number} framesReceived
 */
/**
 * @typedef {object} Figures
 * @property {number} atMs
 * @property {number} bytesSent over the selected pair, or of the media where there is none
 * @property {number} bytesReceived
 * @property {number | null} roundTripMs
 * @property {number | null} availableBps the sender's estimate, or what it lets the encoder have
 * @property {number | null} [allowedBytes] what the encoder was let have from the beginning
 * @property {string | null} limitedBy what holds the video encoder back: none, cpu, bandwidth, other
 * @property {KindFigures | null} audio null: no such stream yet
 * @property {KindFigures | null} video
 */

const NOTHING = {
  bytesSent: 0, packetsSent: 0, lostSent: null, sendJitterS: null,
  bytesReceived: 0, packetsReceived: 0, lostReceived: 0, receiveJitterS: null, framesReceived: 0,
};

/**
 * @param {{forEach: (each: (entry: any) => void) => void}} report RTCStatsReport
 * @param {number} atMs
 * @param {Figures | null} [before] of the same connection
 * @returns {Figures}
 */
export function figuresOf(report, atMs, before = null) {
  /** @type {any[]} */
  const entries = [];
  report.forEach((entry) => entries.push(entry));
  const pair = selectedPair(entries);
  const [audio, video] = [kindOf(entries, "audio"), kindOf(entries, "video")];
  const both = [audio, video].filter((kind) => kind !== null);
  const sum = (/** @type {"bytesSent" | "bytesReceived"} */ name) => both.reduce((total, kind) => total + kind[name], 0);
  const trip = pair?.currentRoundTripTime ?? entries.find(({ type, roundTripTime }) => type === "remote-inbound-rtp" && roundTripTime)?.roundTripTime;
  const encoder = entries.find(({ type, qualityLimitationReason }) => type === "outbound-rtp" && qualityLimitationReason);
  const allowedBytes = entries.find(({ type, totalEncodedBytesTarget }) => type === "outbound-rtp" && totalEncodedBytesTarget)?.totalEncodedBytesTarget ?? null;
  return {
    atMs,
    bytesSent: pair?.bytesSent ?? sum("bytesSent"),
    bytesReceived: pair?.bytesReceived ?? sum("bytesReceived"),
    roundTripMs: typeof trip === "number" ? trip * 1000 : null,
    availableBps: pair?.availableOutgoingBitrate ?? allowedBps(before, allowedBytes, atMs),
    allowedBytes,
    limitedBy: encoder?.qualityLimitationReason ?? null,
    audio,
    video,
  };
}

/**
 * Firefox tells no estimate. What follows from it, the bytes that the encoder may use, is no more.
 * @param {Figures | null} before
 * @param {number | null} bytes
 * @param {number} atMs
 */
function allowedBps(before, bytes, atMs) {
  if (before?.allowedBytes == null || bytes === null || atMs <= before.atMs) return null;
  return (8000 * Math.max(0, bytes - before.allowedBytes)) / (atMs - before.atMs);
}

/** @param {any[]} entries */
function selectedPair(entries) {
  const pairs = entries.filter(({ type }) => type === "candidate-pair");
  const chosen = entries.find(({ type, selectedCandidatePairId }) => type === "transport" && selectedCandidatePairId);
  return (
    pairs.find(({ id }) => id === chosen?.selectedCandidatePairId) ??
    pairs.find(({ selected }) => selected) ??
    pairs.find(({ nominated, state }) => nominated && state === "succeeded") ??
    null
  );
}

/**
 * @param {any[]} entries
 * @param {"audio" | "video"} wanted
 * @returns {KindFigures | null}
 */
function kindOf(entries, wanted) {
  const found = { ...NOTHING };
  let isThere = false;
  for (const entry of entries) {
    if ((entry.kind ?? entry.mediaType) !== wanted) continue;
    if (entry.type === "outbound-rtp") {
      isThere = true;
      found.bytesSent += entry.bytesSent ?? 0;
      found.packetsSent += entry.packetsSent ?? 0;
    } else if (entry.type === "inbound-rtp") {
      isThere = true;
      found.bytesReceived += entry.bytesReceived ?? 0;
      found.packetsReceived += entry.packetsReceived ?? 0;
      found.lostReceived += entry.packetsLost ?? 0;
      found.framesReceived += entry.framesReceived ?? entry.framesDecoded ?? 0;
      found.receiveJitterS = most(found.receiveJitterS, entry.jitter);
    } else if (entry.type === "remote-inbound-rtp") {
      found.lostSent = /** @type {any} */ ((found.lostSent ?? 0) + (entry.packetsLost ?? 0));
      found.sendJitterS = most(found.sendJitterS, entry.jitter);
    }
  }
  return isThere ? found : null;
}

/** @param {number | null} known @param {number | undefined} next @returns {any} */
const most = (known, next) => (typeof next === "number" ? Math.max(known ?? 0, next) : known);

/** Round trips grow by so much where packets wait in a queue. */
const QUEUE_MS = 100;

/**
 * Whether too much was sent: packets wait before they are lost. Loss without a queue has another
 * cause, and makes senders slow down all the same.
 * @param {(number | null)[]} roundTripsMs
 */
export function isQueueing(roundTripsMs) {
  const told = roundTripsMs.filter((trip) => trip !== null).sort((a, b) => a - b);
  const median = told[Math.floor(told.length / 2)] ?? 0;
  return median - (told[0] ?? 0) >= QUEUE_MS;
}

/**
 * Share of the packets of an interval that were lost; null where none was due, or nobody told.
 * @param {number | null | undefined} lost
 * @param {number} arrivedOrSent
 * @param {boolean} isSent the packets are those sent, the lost ones among them
 */
export function lossRatio(lost, arrivedOrSent, isSent) {
  if (lost === null || lost === undefined) return null;
  const due = isSent ? arrivedOrSent : arrivedOrSent + lost;
  return due > 0 ? Math.min(1, Math.max(0, lost) / due) : null;
}
