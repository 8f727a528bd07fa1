/**
 * What to publish over a measured link, as probes/recommend.py has it.
 * @module
 */

/** @typedef {{resolution: string | null, frameRate: number | null}} Recommendation */

export const AVAILABLE_SHARE = 0.75;
export const AUDIO_MIN_MOS = 2.4;
export const TOO_LOW = "Bandwidth too low.";
const FRAME_RATE = 30;
const RECEIVED = /** @type {[number, number, string][]} */ ([
  [1_000_000, 0.005, "1280x720"], [600_000, 0.005, "640x480"], [300_000, 0.005, "320x240"],
  [350_000, 0.03, "1280x720"], [250_000, 0.03, "640x480"], [150_000, 0.03, "320x240"],
]);
const AVAILABLE = /** @type {[number, number, string][]} */ ([
  [4_000_000, 5_550_000, "1920x1080"], [2_500_000, 3_150_000, "1280x720"], [1_200_000, 1_550_000, "960x540"],
  [500_000, 650_000, "640x360"], [300_000, 350_000, "480x270"], [150_000, 150_000, "320x180"],
]);

/** @param {string | undefined} resolution @returns {Recommendation} */
const recommendation = (resolution) =>
  resolution === undefined ? { resolution: null, frameRate: null } : { resolution, frameRate: FRAME_RATE };

/**
 * @param {number} bitrateBps
 * @param {number} lossRatio
 */
export function byReceived(bitrateBps, lossRatio) {
  return recommendation(RECEIVED.find(([least, most]) => bitrateBps >= least && lossRatio <= most)?.[2]);
}

/**
 * @param {number} availableBps the sender's estimate
 * @param {{simulcast?: boolean}} [options]
 */
export function byAvailable(availableBps, { simulcast = false } = {}) {
  const row = AVAILABLE.find(([single, layered]) => availableBps >= AVAILABLE_SHARE * (simulcast ? layered : single));
  return recommendation(row?.[2]);
}
