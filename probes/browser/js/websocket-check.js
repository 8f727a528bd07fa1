/**
 * Daily's WebSocket connectivity test: do frames pass to every region, and is it that region that
 * answers? A browser does not say why a WebSocket failed; whether HTTP gets through tells the rest.
 * @module
 */

import { failedApi, hostOf } from "./network-connectivity.js";
import { ProbeError, probeError, settled, tell } from "./settle.js";

/** @typedef {import("./probe-api.js").Region} Region */
/** @typedef {import("./settle.js").Reason} Reason */
/**
 * @typedef {object} Talk with one region, as far as it has come
 * @property {number} opened when; 0: not yet
 * @property {number} hellos without a nonce
 * @property {boolean} greeted with our nonce
 * @property {string} node
 * @property {number} askedAt
 * @property {number[]} trips milliseconds
 */
/** @typedef {import("./parley-probes.d.ts").RegionResult} RegionResult */
/** @typedef {import("./parley-probes.d.ts").WebsocketConnectivity} WebsocketConnectivity */
/**
 * @typedef {object} Wish
 * @property {import("./probe-api.js").ProbeApi} api
 * @property {typeof WebSocket} Socket
 * @property {import("./settle.js").Run} run
 * @property {(string | Region)[]} [regions] default: all of the deployment
 * @property {((progress: {regions: RegionResult[]}) => void)} [onProgress]
 */

const DEADLINE_MS = 10_000;
const PONGS = 3;

/** @param {Wish} wish @returns {Promise<WebsocketConnectivity>} never rejects */
export async function testWebsockets(wish) {
  try {
    const { known, unknown } = await regionsOf(wish);
    return concluded(wish, await checkAll(wish, known, unknown));
  } catch (error) {
    return concluded(wish, [], probeError(error).reason);
  }
}

/**
 * @param {Wish} wish
 * @returns {Promise<{known: Region[], unknown: string[]}>}
 */
async function regionsOf({ api, run, regions }) {
  const wanted = regions ?? [];
  const given = /** @type {Region[]} */ (wanted.filter((one) => typeof one !== "string"));
  const names = /** @type {string[]} */ (wanted.filter((one) => typeof one === "string"));
  if (regions && !names.length) return { known: given, unknown: [] };
  const all = await api.regions(run.signal);
  if (!regions) return { known: all, unknown: [] };
  const known = all.filter(({ id }) => names.includes(id));
  return { known: [...known, ...given], unknown: names.filter((name) => !known.some(({ id }) => id === name)) };
}

/**
 * @param {Wish} wish
 * @param {Region[]} known
 * @param {string[]} unknown
 * @returns {Promise<RegionResult[]>}
 */
async function checkAll(wish, known, unknown) {
  const results = known.map(waiting);
  const change = (/** @type {number} */ index, /** @type {Partial<RegionResult>} */ fields) => {
    results[index] = { .../** @type {RegionResult} */ (results[index]), ...fields };
    tell(wish.onProgress, { regions: results.map((one) => ({ ...one })) });
  };
  const found = await Promise.all(
    known.map(async (region, index) => {
      change(index, { state: "running" });
      const result = await checkRegion(region, { ...wish, signal: wish.run.signal });
      change(index, result);
      return result;
    }),
  );
  const missing = unknown.map((id) => waiting({ id, ws_url: "", http_url: "" }));
  return [...found, ...missing.map((one) => ({ ...one, state: /** @type {const} */ ("failed"), reason: /** @type {const} */ ("not_offered") }))];
}

/** @param {Region} region @returns {RegionResult} */
function waiting({ id, ws_url }) {
  return {
    name: "ws", id, region: id, state: "waiting", reason: "", target: hostOf(ws_url), node: null,
    connectMs: null, roundTripMs: null, pongs: 0, durationMs: 0,
  };
}

/**
 * @param {Region} region
 * @param {{api: import("./probe-api.js").ProbeApi, Socket: typeof WebSocket, signal: AbortSignal}} tools
 * @returns {Promise<RegionResult>} never rejects
 */
export async function checkRegion(region, { api, Socket, signal }) {
  const began = performance.now();
  const result = waiting(region);
  /** @type {Talk} */
  const talk = { opened: 0, hellos: 0, greeted: false, node: "", askedAt: 0, trips: [] };
  /** @type {Reason} */
  let reason = await converse(Socket, region, talk, signal).then(() => "", (error) => probeError(error).reason);
  if (reason === "server_gone") reason = await explained(api, region, talk, signal);
  if (signal.aborted && reason) reason = probeError(signal.reason).reason;
  const trips = talk.trips.sort((a, b) => a - b);
  return {
    ...result,
    state: reason === "" ? "passed" : reason === "aborted" ? "aborted" : "failed",
    reason,
    node: talk.node || null,
    connectMs: talk.opened ? talk.opened - began : null,
    roundTripMs: trips[Math.floor(trips.length / 2)] ?? null,
    pongs: trips.length,
    durationMs: performance.now() - began,
  };
}

/**
 * The connection did not open, or did not last.
 * @param {import("./probe-api.js").ProbeApi} api
 * @param {Region} region
 * @param {Talk} talk
 * @param {AbortSignal} signal
 * @returns {Promise<Reason>}
 */
async function explained(api, { http_url }, { opened, greeted }, signal) {
  const isThere = await api.ping(signal, { baseUrl: http_url.replace(/\/+$/, "") }).then(() => true, () => false);
  if (isThere) return opened ? "frames_blocked" : "upgrade_refused";
  return greeted ? "server_gone" : "unreachable";
}

/**
 * @param {typeof WebSocket} Socket
 * @param {Region} region
 * @param {Talk} talk
 * @param {AbortSignal} signal
 * @returns {Promise<void>} rejects with ProbeError; `server_gone` still has to be explained
 */
function converse(Socket, region, talk, signal) {
  return settled(signal, ({ resolve, reject, listen, after, release }) => {
    const fail = (/** @type {Reason} */ reason) => reject(new ProbeError(reason));
    /** @type {WebSocket} */
    let socket;
    try {
      socket = new Socket(region.ws_url);
    } catch {
      return fail(Socket ? "unreachable" : "unsupported");
    }
    release(() => socket.readyState < 2 && socket.close(1000));
    after(DEADLINE_MS, () => fail(talk.opened ? "frames_blocked" : "server_gone"));
    const say = (/** @type {object} */ frame) => socket.send(JSON.stringify(frame));
    const nonce = `${Math.random()}`.slice(2, 18);
    listen(socket, "open", () => {
      talk.opened = performance.now();
      say({ type: "hello", nonce });
    });
    listen(socket, "message", ({ data }) => {
      const answer = heard(parsed(data), talk, region.id, nonce);
      if (typeof answer === "string") return fail(answer);
      if (answer) say(answer);
      if (answer?.type === "bye") resolve();
    });
    listen(socket, "close", () => fail("server_gone"));
  });
}

/**
 * @param {any} frame
 * @param {Talk} talk
 * @param {string} id of the region
 * @param {string} nonce
 * @returns {{type: string, seq?: number} | Reason | null} what is said next, what is wrong, or nothing
 */
function heard(frame, talk, id, nonce) {
  const ping = () => {
    talk.askedAt = performance.now();
    return { type: "ping", seq: talk.trips.length + 1 };
  };
  if (frame?.type === "hello") {
    // The first one comes by itself, before ours has arrived.
    if (!frame.nonce && talk.hellos++ === 0) return null;
    if (frame.nonce !== nonce) return "wrong_nonce";
    if (frame.region !== id) return "wrong_region";
    talk.greeted = true;
    talk.node = String(frame.node ?? "");
    return ping();
  }
  if (frame?.type !== "pong") return "wrong_nonce";
  if (!talk.greeted || frame.seq !== talk.trips.length + 1) return "frames_blocked";
  talk.trips.push(performance.now() - talk.askedAt);
  return talk.trips.length < PONGS ? ping() : { type: "bye" };
}

/** @param {unknown} data @returns {any} */
function parsed(data) {
  try {
    return JSON.parse(String(data));
  } catch {
    return null;
  }
}

/**
 * @param {Wish} wish
 * @param {RegionResult[]} regions
 * @param {Reason} [reason] why there are none
 * @returns {WebsocketConnectivity}
 */
function concluded({ api, run }, regions, reason = "") {
  const ids = (/** @type {string} */ state) => regions.filter((one) => one.state === state).map(({ id }) => id);
  const [passedRegions, failedRegions, abortedRegions] = [ids("passed"), ids("failed"), ids("aborted")];
  const isAborted = reason === "aborted" || abortedRegions.length > 0;
  const some = passedRegions.length ? "warning" : "failed";
  const result = isAborted ? "aborted" : regions.length && !failedRegions.length ? "passed" : some;
  const first = regions.find(({ state }) => state === "failed")?.reason;
  return {
    result,
    reason: isAborted ? "aborted" : reason || first || (regions.length ? "" : "not_offered"),
    abortedRegions,
    failedRegions,
    passedRegions,
    regions,
    checks: reason ? [failedApi(api, reason)] : regions,
    server: api.baseUrl,
    durationMs: run.elapsedMs,
  };
}
