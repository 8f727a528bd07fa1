/**
 * What a connection tells of one moment of a quality test.
 * @module
 */

import { figuresOf } from "./connection-figures.js";
import { NetworkTestError } from "./error-names.js";

/** @typedef {import("./quality-results.js").Reading} Reading */

/**
 * @param {RTCPeerConnection} pc
 * @param {Reading | null} [before]
 * @returns {Promise<Reading>}
 */
export async function readingOf(pc, before = null) {
  const report = await pc.getStats().catch(() => null);
  if (!report) throw new NetworkTestError("SUBSCRIBER_GET_STATS_ERROR", "unsupported");
  return { ...figuresOf(report, performance.now(), before), ...pictureOf(report, pc) };
}

/**
 * The size of the picture that comes back, or of the one that is sent where a browser does not tell.
 * @param {RTCStatsReport} report
 * @param {RTCPeerConnection} pc
 */
function pictureOf(report, pc) {
  /** @type {Record<string, {width: number, height: number}>} */
  const told = {};
  report.forEach(({ type, frameWidth: width, frameHeight: height }) => {
    if (width && height) told[type] = { width, height };
  });
  const camera = pc.getSenders?.().find(({ track }) => track?.kind === "video")?.track?.getSettings?.();
  const { width = 0, height = 0 } = told["inbound-rtp"] ?? told["outbound-rtp"] ?? camera ?? {};
  return { width, height };
}
