/**
 * From cumulative counters to rates over a window, as probes/samples.py computes them.
 * @module
 */

/** @typedef {{atS: number, bytes: number, packets: number, lost: number, frames?: number}} Sample */
/** @typedef {{bitrateBps: number, lossRatio: number, frameRate: number, packets: number}} Rate */

const WINDOW_S = 5;
const MIN_SAMPLES = 5;
const MAX_RISE = 0.05;
const MAX_FALL = 0.1;

/**
 * @param {Sample} before
 * @param {Sample} after
 * @returns {Rate}
 */
export function rate(before, after) {
  const elapsed = after.atS - before.atS;
  const packets = Math.max(after.packets - before.packets, 0);
  const lost = Math.max(after.lost - before.lost, 0);
  const due = packets + lost;
  if (elapsed <= 0) return { bitrateBps: 0, lossRatio: 0, frameRate: 0, packets };
  return {
    bitrateBps: (8 * Math.max(after.bytes - before.bytes, 0)) / elapsed,
    lossRatio: due ? lost / due : 0,
    frameRate: Math.max((after.frames ?? 0) - (before.frames ?? 0), 0) / elapsed,
    packets,
  };
}

/**
 * @param {Sample[]} samples
 * @returns {Rate[]} the intervals between neighbours
 */
function rates(samples) {
  return samples.slice(1).map((after, index) => rate(/** @type {Sample} */ (samples[index]), after));
}

/**
 * @param {Sample[]} samples
 * @param {number} [windowS]
 * @returns {Rate} over the last seconds; zeros with fewer than two samples
 */
export function windowRate(samples, windowS = WINDOW_S) {
  const last = samples.at(-1);
  const previous = samples.at(-2);
  if (!last || !previous) return { bitrateBps: 0, lossRatio: 0, frameRate: 0, packets: 0 };
  const first = samples.slice(0, -1).find((sample) => last.atS - sample.atS <= windowS);
  return rate(first ?? previous, last);
}

/**
 * @param {Sample[]} samples
 * @param {number} [windowS]
 */
export function isSteady(samples, windowS = WINDOW_S) {
  const last = samples.at(-1);
  if (!last) return false;
  const inside = samples.filter((sample) => last.atS - sample.atS <= windowS);
  if (inside.length < MIN_SAMPLES) return false;
  const found = rates(inside).map(({ bitrateBps }) => bitrateBps);
  return found.slice(1).every((after, index) => {
    const before = /** @type {number} */ (found[index]);
    const step = (after - before) / before;
    return before > 0 && step >= -MAX_FALL && step <= MAX_RISE;
  });
}
