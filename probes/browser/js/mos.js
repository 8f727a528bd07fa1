/**
 * Estimates of the mean opinion score of one interval, as probes/mos.py computes and explains them.
 * @module
 */

/** @typedef {"excellent" | "good" | "fair" | "poor" | "bad"} Rating */

export const WORST = 1;
const BEST = 4.5;
export const ONE_WAY_DELAY_MS = 150;
const CODEC_DELAY_MS = 30;
const FLOOR_BPS = 30_000;
const RATINGS = /** @type {[number, Rating][]} */ ([[3.8, "excellent"], [3.1, "good"], [2.4, "fair"], [1.7, "poor"]]);

/**
 * @param {number} lossRatio 0 to 1
 * @param {number} [delayMs] one way
 */
export function audioMos(lossRatio, delayMs = ONE_WAY_DELAY_MS) {
  const loss = Math.min(Math.max(lossRatio, 0), 1);
  const delay = delayMs + CODEC_DELAY_MS;
  const delayed = 0.024 * delay + 0.11 * Math.max(delay - 177.3, 0);
  const r = 93.2 - delayed - 19.8 * Math.log(1 + 29.7 * loss);
  if (r < 0) return WORST;
  if (r > 100) return BEST;
  return Math.max(WORST, 1 + 0.035 * r + 7e-6 * r * (r - 60) * (100 - r));
}

/**
 * @param {number} bitrateBps received
 * @param {number} width
 * @param {number} height
 */
export function videoMos(bitrateBps, width, height) {
  if (bitrateBps < FLOOR_BPS || width * height <= 1) return WORST;
  const useful = 10 ** (2.069924867 * Math.log10(width * height) ** 0.6250223771);
  if (useful <= FLOOR_BPS) return BEST;
  return Math.min(BEST, 1 + (4 * Math.log(Math.min(bitrateBps, useful) / FLOOR_BPS)) / Math.log(useful / FLOOR_BPS));
}

/**
 * @param {number} mos
 * @returns {Rating}
 */
export function rating(mos) {
  return RATINGS.find(([least]) => mos >= least)?.[1] ?? "bad";
}
