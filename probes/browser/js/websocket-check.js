/**
 * Daily's WebSocket connectivity test: do frames pass to every region, and is it that region that
 * answers? A browser does not say why a WebSocket failed; whether HTTP gets through tells the rest.
 * @module
 */

import { hostOf } from "./network-connectivity.js";
import { ProbeError, probeError, settled, tell } from "./settle.js";

/** @typedef {import("./probe-api.js").Region} Region */
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
  const talk = { opened: 0, greeted: false, node: "", trips: /** @type {number[]} */ ([]) };
  /** @type {import("./settle.js").Reason} */
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
 * @param {{opened: number, greeted: boolean}} talk
 * @param {AbortSignal} signal
 * @returns {Promise<import("./settle.js").Reason>}
 */
async function explained(api, { http_url }, { opened, greeted }, signal) {
  const isThere = await api.ping(signal, { baseUrl: http_url.replace(/\/+$/, "") }).then(() => true, () => false);
  if (isThere) return opened ? "frames_blocked" : "upgrade_refused";
  return greeted ? "server_gone" : "unreachable";
}

/**
 * @param {typeof WebSocket} Socket
 * @param {Region} region
 * @param {{opened: number, greeted: boolean, node: string, trips: number[]}} talk what came of it, also on the way
 * @param {AbortSignal} signal
 * @returns {Promise<void>} rejects with ProbeError; `server_gone` still has to be explained
 */
function converse(Socket, region, talk, signal) {
  return settled(signal, ({ resolve, reject, listen, after, release }) => {
    const fail = (/** @type {import("./settle.js").Reason} */ reason) => reject(new ProbeError(reason));
    const nonce = `${Math.random()}`.slice(2, 18);
    /** @type {WebSocket} */
    let socket;
    try {
      socket = new Socket(region.ws_url);
    } catch {
      return fail(Socket ? "unreachable" : "unsupported");
    }
    release(() => socket.readyState < 2 && socket.close(1000));
    after(DEADLINE_MS, () => fail(talk.opened ? "frames_blocked" : "server_gone"));
    let askedAt = 0;
    let hellos = 0;
    const say = (/** @type {object} */ frame) => socket.send(JSON.stringify(frame));
    const ask = () => {
      askedAt = performance.now();
      say({ type: "ping", seq: talk.trips.length + 1 });
    };
    const greet = (/** @type {any} */ hello) => {
      // The first one comes by itself, before ours has arrived.
      if (!hello.nonce && hellos++ === 0) return;
      if (hello.nonce !== nonce) return fail("wrong_nonce");
      if (hello.region !== region.id) return fail("wrong_region");
      talk.greeted = true;
      talk.node = String(hello.node ?? "");
      ask();
    };
    const count = (/** @type {any} */ pong) => {
      if (!talk.greeted || pong.seq !== talk.trips.length + 1) return fail("frames_blocked");
      talk.trips.push(performance.now() - askedAt);
      if (talk.trips.length < PONGS) return ask();
      say({ type: "bye" });
      resolve();
    };
    listen(socket, "open", () => {
      talk.opened = performance.now();
      say({ type: "hello", nonce });
    });
    listen(socket, "message", ({ data }) => {
      const frame = parsed(data);
      if (frame?.type === "hello") greet(frame);
      else if (frame?.type === "pong") count(frame);
      else fail("wrong_nonce");
    });
    listen(socket, "close", () => fail("server_gone"));
  });
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
 * @param {import("./settle.js").Reason} [reason] why there are none
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
    server: api.baseUrl,
    durationMs: run.elapsedMs,
  };
}
