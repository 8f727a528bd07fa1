/**
 * Reads from getStats() which way a connection's packets take.
 * @module
 */

/**
 * @param {RTCStatsReport} report
 * @returns {import("./parley.d.ts").Path | null} null while no pair is selected
 */
export function pathOf(report) {
  /** @type {any[]} */
  const entries = [];
  report.forEach((entry) => entries.push(entry));
  const byId = new Map(entries.map((entry) => [entry.id, entry]));
  const transport = entries.find((entry) => entry.type === "transport" && entry.selectedCandidatePairId);
  const pair =
    byId.get(transport?.selectedCandidatePairId) ??
    entries.find((entry) => entry.type === "candidate-pair" && entry.nominated && entry.state === "succeeded");
  const local = byId.get(pair?.localCandidateId);
  const remote = byId.get(pair?.remoteCandidateId);
  if (!local || !remote) return null;
  const roundTrip = pair.currentRoundTripTime;
  return {
    localType: local.candidateType,
    remoteType: remote.candidateType,
    protocol: local.protocol ?? "udp",
    relayProtocol: local.relayProtocol ?? null,
    isRelayed: local.candidateType === "relay" || remote.candidateType === "relay",
    roundTripMs: typeof roundTrip === "number" ? roundTrip * 1000 : null,
  };
}

/**
 * How much has arrived over all pairs of candidates, in a figure that grows with every packet.
 * @param {RTCStatsReport} report
 * @returns {number | null} null where the platform does not say
 */
export function arrivalsOf(report) {
  /** @type {number | null} */
  let sum = null;
  report.forEach((/** @type {any} */ entry) => {
    if (entry.type !== "candidate-pair") return;
    const { bytesReceived = 0, responsesReceived = 0, requestsReceived = 0 } = entry;
    sum = (sum ?? 0) + bytesReceived + responsesReceived + requestsReceived;
  });
  return sum;
}
