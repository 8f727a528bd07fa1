/**
 * Daily's network connectivity test: does a relay carry packets, and over which transports?
 * @module
 */

import { checkRelay, waiting } from "./relay-check.js";
import { probeError, tell } from "./settle.js";
import { verdictOf } from "./verdict.js";

/** @typedef {import("./verdict.js").Transport} Transport */
/** @typedef {import("./parley-probes.d.ts").NetworkConnectivity} NetworkConnectivity */
/** @typedef {import("./parley-probes.d.ts").TransportResult} TransportResult */
/**
 * @typedef {object} Wish
 * @property {import("./probe-api.js").ProbeApi} api
 * @property {typeof RTCPeerConnection} Connection
 * @property {import("./settle.js").Run} run
 * @property {MediaStreamTrack | null} track
 * @property {Transport[]} transports
 * @property {((progress: {transports: TransportResult[]}) => void)} [onProgress]
 */

/** What a server that has gone away looks like. */
const GONE = new Set(["unreachable", "peer_denied", "relay_silent", "packet_loss"]);
const LIMIT_OF_LOSS = 0.5;

/** @param {Wish} wish @returns {Promise<NetworkConnectivity>} never rejects */
export async function testNetwork(wish) {
  const { api, run } = wish;
  try {
    const session = await api.session(run.signal);
    const found = await checkAll(wish, session);
    return concluded(wish, await withoutServer(wish, found), { region: session.region, node: session.node });
  } catch (error) {
    return concluded(wish, [], { region: null, node: null, reason: probeError(error).reason });
  }
}

/**
 * @param {Wish} wish
 * @param {import("./probe-api.js").ProbeSession} session
 */
function checkAll({ api, Connection, run, track, transports, onProgress }, session) {
  const results = transports.map((transport) => waiting(transport, session));
  const change = (/** @type {number} */ index, /** @type {Partial<TransportResult>} */ fields) => {
    results[index] = { .../** @type {TransportResult} */ (results[index]), ...fields };
    tell(onProgress, { transports: results.map((one) => ({ ...one })) });
  };
  const scene = { api, session, Connection, run, track };
  return Promise.all(
    transports.map(async (transport, index) => {
      const result = await checkRelay(transport, scene, (step) => change(index, { state: "running", step }));
      change(index, result);
      return result;
    }),
  );
}

/**
 * A relay that stops answering together with its server is not a blocked one.
 * @param {Wish} wish
 * @param {TransportResult[]} results
 * @returns {Promise<TransportResult[]>}
 */
async function withoutServer({ api, run }, results) {
  const isDoubtful = results.some(({ reason }) => GONE.has(reason)) && !results.some(({ state }) => state === "passed");
  if (!isDoubtful || run.ended || (await api.answers(run.signal)) || run.ended) return results;
  api.forgetSession();
  return results.map((one) => (GONE.has(one.reason) ? { ...one, state: "failed", reason: "server_gone" } : one));
}

/**
 * @param {Wish} wish
 * @param {TransportResult[]} transports
 * @param {{region: string | null, node: string | null, reason?: import("./reasons.js").Reason}} where
 * @returns {NetworkConnectivity}
 */
function concluded({ api, run }, transports, { region, node, reason = "" }) {
  const isAborted = reason === "aborted" || transports.some(({ state }) => state === "aborted");
  const result = isAborted ? "aborted" : transports.some(carries) ? "passed" : "failed";
  const server = { name: "api", state: /** @type {const} */ ("failed"), reason, target: hostOf(api.baseUrl) };
  return {
    result,
    reason: isAborted ? "aborted" : reason || reasonOf(transports),
    transports,
    region,
    node,
    server: api.baseUrl,
    verdict: isAborted ? verdictOf([{ name: "turn", state: "aborted" }]) : verdictOf(reason ? [server] : transports),
    durationMs: run.elapsedMs,
  };
}

/** @param {TransportResult} result */
function carries({ state, reason, lossRatio }) {
  if (reason === "packet_loss") return (lossRatio ?? 1) <= LIMIT_OF_LOSS;
  return state === "passed" || state === "warning";
}

/**
 * Of the whole test: none when a transport simply passes, else what comes nearest to that.
 * @param {TransportResult[]} transports
 * @returns {import("./reasons.js").Reason}
 */
export function reasonOf(transports) {
  if (transports.some(({ state }) => state === "passed")) return "";
  const tried = transports.filter(({ state }) => state !== "skipped");
  const telling = tried.find(carries) ?? tried.find(({ reason }) => reason !== "unreachable") ?? tried[0];
  return telling?.reason ?? "not_offered";
}

/** @param {string} url */
export function hostOf(url) {
  try {
    const { host, port, protocol } = new URL(url);
    return port ? host : `${host}:${/^(https|wss):$/.test(protocol) ? 443 : 80}`;
  } catch {
    return null;
  }
}
