/**
 * Daily's network connectivity test: does a relay carry packets, and over which transports?
 * @module
 */

import { checkRelay, waiting } from "./relay-check.js";
import { probeError, tell } from "./settle.js";
import { verdictOf } from "./verdict.js";

/** @typedef {import("./verdict.js").Transport} Transport */
/** @typedef {import("./verdict.js").CheckResult} CheckResult */
/** @typedef {import("./parley-probes.d.ts").NetworkConnectivity} NetworkConnectivity */
/** @typedef {import("./parley-probes.d.ts").TransportResult} TransportResult */
/**
 * @typedef {object} Wish
 * @property {import("./probe-api.js").ProbeApi} api
 * @property {typeof RTCPeerConnection} Connection
 * @property {import("./settle.js").Run} run
 * @property {MediaStreamTrack | null} track
 * @property {Transport[]} transports
 * @property {string} [region] whose relays, instead of those that a call would get
 * @property {((progress: {transports: TransportResult[]}) => void)} [onProgress]
 */

/** What a server that has gone away looks like. */
const GONE = new Set(["unreachable", "peer_denied", "relay_silent", "packet_loss"]);
const LIMIT_OF_LOSS = 0.5;

/** @param {Wish} wish @returns {Promise<NetworkConnectivity>} never rejects */
export async function testNetwork(wish) {
  const { api, run, region } = wish;
  try {
    const session = await (region === undefined ? api.session(run.signal) : api.relaysOf(region, run.signal));
    const found = await checkAll(wish, session);
    const where = { region: session.region, node: session.node };
    if (!(await isWithoutServer(wish, found))) return concluded(wish, found, where);
    return concluded(wish, found.some(carries) ? found : found.map(lost), { ...where, reason: "server_gone" });
  } catch (error) {
    return concluded(wish, [], { region: null, node: null, reason: probeError(error).reason });
  }
}

/**
 * @param {Wish} wish
 * @param {import("./probe-api.js").ProbeSession} session
 */
async function checkAll({ api, Connection, run, track, transports, onProgress }, session) {
  const results = transports.map((transport) => waiting(transport, session));
  const change = (/** @type {number} */ index, /** @type {Partial<TransportResult>} */ fields) => {
    results[index] = { .../** @type {TransportResult} */ (results[index]), ...fields };
    tell(onProgress, { transports: results.map((one) => ({ ...one })) });
  };
  const scene = { api, session, Connection, run, track };
  const check = async (/** @type {Transport} */ transport, /** @type {number} */ index) => {
    const result = await checkRelay(transport, scene, (step) => change(index, { state: "running", step }));
    change(index, result);
    return result;
  };
  const found = await Promise.all(transports.map(check));
  // All transports at once may be more than a narrow line carries: then each one alone has to tell.
  for (const [index, first] of found.entries()) {
    if (first.reason !== "packet_loss" || run.ended) continue;
    const again = await check(first.transport, index);
    found[index] = again.state === "aborted" || lossOf(again) < lossOf(first) ? again : first;
    change(index, found[index]);
  }
  return found;
}

/** @param {TransportResult} result */
const lossOf = ({ lossRatio }) => lossRatio ?? 1;

/**
 * Whether the server went away meanwhile. A relay may outlive it, and is of little use then.
 * @param {Wish} wish
 * @param {TransportResult[]} results
 */
async function isWithoutServer({ api, run }, results) {
  const isTried = results.some(({ state }) => state !== "skipped");
  if (!isTried || run.ended || (await api.answers(run.signal)) || run.ended) return false;
  api.forgetSession();
  return true;
}

/**
 * A relay that stops answering together with its server is not a blocked one.
 * @param {TransportResult} result
 * @returns {TransportResult}
 */
const lost = (result) => (GONE.has(result.reason) ? { ...result, state: "failed", reason: "server_gone" } : result);

/**
 * @param {Wish} wish
 * @param {TransportResult[]} transports
 * @param {{region: string | null, node: string | null, reason?: import("./reasons.js").Reason}} where
 * @returns {NetworkConnectivity}
 */
function concluded({ api, run }, transports, { region, node, reason = "" }) {
  const isAborted = reason === "aborted" || transports.some(({ state }) => state === "aborted");
  const result = isAborted ? "aborted" : transports.some(carries) ? "passed" : "failed";
  const checks = reason ? [...transports, failedApi(api, reason)] : transports;
  return {
    result,
    reason: isAborted ? "aborted" : reason || reasonOf(transports),
    transports,
    region,
    node,
    server: api.baseUrl,
    verdict: verdictOf(checks),
    checks,
    durationMs: run.elapsedMs,
  };
}

/**
 * What verdictOf() has to know of a server that did not answer.
 * @param {import("./probe-api.js").ProbeApi} api
 * @param {import("./reasons.js").Reason} reason
 * @returns {CheckResult}
 */
export const failedApi = (api, reason) => ({
  name: "api", state: reason === "aborted" ? "aborted" : "failed", reason, target: hostOf(api.baseUrl),
});

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
function reasonOf(transports) {
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
