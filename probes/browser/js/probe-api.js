/**
 * The deployment's probe API (docs/probes.md) over fetch. It does not judge what it hears.
 * @module
 */

import { pause, ProbeError, settled } from "./settle.js";

const SOON_MS = 300;

/** @typedef {import("./verdict.js").Transport} Transport */
/** @typedef {{id: string, ws_url: string, http_url: string}} Region */
/**
 * @typedef {object} ProbeSession
 * @property {string} token
 * @property {number} expires_at Unix seconds
 * @property {number} now the server's clock
 * @property {Record<Transport, RTCIceServer[]>} ice_servers
 * @property {Region[]} regions
 * @property {string} region
 * @property {string} node
 * @property {string[]} [turn_regions] where there are relays
 * @property {string} [turn_region] of the first relay in `ice_servers`
 * @property {{ttl_s: number, peers: number, peer_s: number, reports: number, report_bytes: number}} limits
 */
/** @typedef {{id: string, type: "answer", sdp: string, expires_at: number}} PeerAnswer */
/**
 * @typedef {object} Request
 * @property {unknown} [body]
 * @property {string} [token]
 * @property {AbortSignal} [signal]
 * @property {number} [timeoutMs]
 * @property {boolean} [keepalive] goes out although the page is being left
 */

const ANSWER_MS = 8_000;
const PEER_MS = 12_000;
/** Longer than any test: a session with less life than this is not begun a test with. */
const MARGIN_S = 60;
const NEVER = new AbortController().signal;

export class ProbeApi {
  #token;
  #fetch;
  /** @type {ProbeSession | null} */
  #session = null;
  /** By region. @type {Map<string, ProbeSession>} */
  #relays = new Map();
  /** @type {Region[]} */
  #regions = [];
  /** Of peers that are not ended yet: their session may be forgotten by then. @type {Map<string, string>} */
  #tokens = new Map();
  /** Both clocks of this page when the server's showed `nowS`. */
  #clocks = { nowS: Date.now() / 1000, steadyMs: performance.now(), wallMs: Date.now() };

  /** @param {{baseUrl?: string, token?: string, fetch?: typeof fetch}} options */
  constructor({ baseUrl, token, fetch: ownFetch }) {
    const scope = /** @type {any} */ (globalThis);
    this.baseUrl = (baseUrl ?? scope.location?.origin ?? "").replace(/\/+$/, "");
    this.#token = token;
    this.#fetch = ownFetch ?? scope.fetch?.bind(scope);
  }

  /**
   * The session at hand while it lasts for another test, else a new one.
   * @param {AbortSignal} signal
   * @returns {Promise<ProbeSession>}
   */
  async session(signal) {
    if (signal.aborted) throw signal.reason;
    if (this.#session && this.#lasts(this.#session)) return this.#session;
    const session = await this.#begun({ signal });
    this.#clocks = { nowS: session.now, steadyMs: performance.now(), wallMs: Date.now() };
    this.#session = session;
    this.#regions = session.regions;
    return session;
  }

  /**
   * The session with the relays of that region: none where it is not one of `turn_regions`.
   * @param {string} region
   * @param {AbortSignal} signal
   * @returns {Promise<ProbeSession>}
   */
  async relaysOf(region, signal) {
    const session = await this.session(signal);
    if (!session.turn_regions?.includes(region)) return { ...session, region, turn_regions: [], ice_servers: { udp: [], tcp: [], tls: [] } };
    const known = this.#relays.get(region);
    const { ice_servers, expires_at } = known && this.#lasts(known) ? known : await this.#begun({ signal, body: { region } });
    const found = { ...session, region, ice_servers, expires_at };
    this.#relays.set(region, found);
    return found;
  }

  /** @param {Request} request @returns {Promise<ProbeSession>} */
  async #begun(request) {
    const session = await this.call("POST", "/v1/probes/sessions", { token: this.#token, ...request });
    if (!session?.ice_servers || !session.token) throw new ProbeError("http_status", "something else than Parley answers");
    return session;
  }

  /** For another test. @param {ProbeSession} session */
  #lasts({ expires_at }) {
    return expires_at - this.serverNowS() > MARGIN_S;
  }

  /** The next test begins a new session: this one's credentials are no good. */
  forgetSession() {
    this.#session = null;
    this.#relays.clear();
  }

  /**
   * The server's clock, as far as the session told it, in Unix seconds. The steady clock may stand
   * still while a computer sleeps, and the other may be set back: the one that went further counts.
   */
  serverNowS() {
    const { nowS, steadyMs, wallMs } = this.#clocks;
    return nowS + Math.max(performance.now() - steadyMs, Date.now() - wallMs) / 1000;
  }

  /**
   * The deployment's list, or the last one known: other regions may live when this one is gone.
   * @param {AbortSignal} signal
   * @returns {Promise<Region[]>}
   */
  async regions(signal) {
    try {
      const found = await this.call("GET", "/v1/probes/regions", { signal });
      if (!Array.isArray(found?.regions)) throw new ProbeError("http_status", "something else than Parley answers");
      this.#regions = found.regions;
    } catch (error) {
      if (signal.aborted || !this.#regions.length) throw error;
    }
    return this.#regions;
  }

  /**
   * @param {AbortSignal} [signal]
   * @param {{baseUrl?: string, timeoutMs?: number}} [options]
   * @returns {Promise<{region: string, node: string, now_ms: number}>}
   */
  async ping(signal, { baseUrl, timeoutMs = 3_000 } = {}) {
    const ask = () => this.call("GET", "/v1/probes/ping", { signal, timeoutMs }, baseUrl);
    const began = performance.now();
    const found = await ask().catch(async (error) => {
      // Chromium fails what is under way when an interface comes or goes: that says nothing about the server.
      const isAtOnce = error?.code === 0 && performance.now() - began < SOON_MS;
      if (!isAtOnce) throw error;
      await pause(SOON_MS, signal ?? NEVER);
      return ask();
    });
    if (typeof found?.region !== "string") throw new ProbeError("http_status", "something else than Parley answers");
    return found;
  }

  /** Whether the deployment answers at all. @param {AbortSignal} [signal] */
  answers(signal) {
    return this.ping(signal).then(() => true, () => false);
  }

  /** @param {{event?: string, detail?: string}} entry @param {AbortSignal} [signal] */
  async log(entry, signal) {
    await this.call("POST", "/v1/probes/log", { body: entry, signal });
  }

  /**
   * Whoever gets a peer ends it; one that comes after an abort is ended here.
   * @param {{sdp: string, mode: "data" | "sink" | "echo", transport?: Transport}} offer
   * @param {AbortSignal} signal
   * @returns {Promise<PeerAnswer>}
   */
  openPeer(offer, signal) {
    return settled(signal, ({ resolve, reject, release }) => {
      let isOver = false;
      release(() => (isOver = true));
      const token = this.#session?.token;
      const come = (/** @type {PeerAnswer} */ answer) => {
        if (token) this.#tokens.set(answer.id, token);
        if (isOver) void this.endPeer(answer.id);
        else resolve(answer);
      };
      this.call("POST", "/v1/probes/peers", { body: offer, token, timeoutMs: PEER_MS }).then(come, reject);
    });
  }

  /** What a server peer has received. @param {string} id @param {AbortSignal} [signal] */
  peer(id, signal) {
    return this.call("GET", `/v1/probes/peers/${encodeURIComponent(id)}`, { token: this.#session?.token, signal });
  }

  /** Ends a server peer; null when that does not get through. @param {string} id */
  endPeer(id) {
    const path = `/v1/probes/peers/${encodeURIComponent(id)}`;
    const token = this.#tokens.get(id);
    this.#tokens.delete(id);
    return this.call("DELETE", path, { token, timeoutMs: 2_000, keepalive: true }).catch(() => null);
  }

  /**
   * @param {string} method
   * @param {string} path
   * @param {Request} [request]
   * @param {string} [baseUrl] of another region
   * @returns {Promise<any>} the decoded answer; null for an empty one. Rejects with ProbeError
   */
  call(method, path, { body, token, signal = NEVER, timeoutMs = ANSWER_MS, keepalive } = {}, baseUrl = this.baseUrl) {
    return settled(signal, ({ resolve, reject, after, release }) => {
      if (!this.#fetch) {
        reject(new ProbeError("unsupported", "there is no fetch here"));
        return;
      }
      const underway = new AbortController();
      release(() => underway.abort());
      after(timeoutMs, () => reject(new ProbeError("unreachable", "no answer in time")));
      const headers = {
        ...(token ? { Authorization: `Bearer ${token}` } : {}),
        ...(body === undefined ? {} : { "Content-Type": "application/json" }),
      };
      const text = body === undefined ? undefined : JSON.stringify(body);
      const request = { method, headers, body: text, signal: underway.signal, keepalive };
      this.#fetch(`${baseUrl}${path}`, request).then(decoded).then(resolve, (/** @type {unknown} */ error) => {
        reject(error instanceof ProbeError ? error : new ProbeError("unreachable", "the server cannot be reached"));
      });
    });
  }
}

/** @param {Response} answer @returns {Promise<any>} */
async function decoded(answer) {
  if (answer.status === 429) throw new ProbeError("rate_limited", "too many tests from this network for now", 429);
  if (!answer.ok) throw new ProbeError("http_status", `the server answers ${answer.status}`, answer.status);
  const text = await answer.text();
  try {
    return text ? JSON.parse(text) : null;
  } catch {
    throw new ProbeError("http_status", "something else than Parley answers", answer.status);
  }
}
