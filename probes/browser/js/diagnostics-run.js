/**
 * One run of all checks: what can go side by side does, and what was found is told while it comes in.
 * It does not know the page.
 * @module
 */

import { checkDevices } from "./devices-check.js";
import { rowOf } from "./diagnostics-words.js";
import { checkDirect } from "./direct-check.js";
import { hostOf, testNetwork } from "./network-connectivity.js";
import { checkQuality } from "./quality-check.js";
import { Run, probeError, tell } from "./settle.js";
import { testWebsockets } from "./websocket-check.js";

/** @typedef {import("./diagnostics-words.js").Finding} Finding */
/** @typedef {import("./diagnostics-report.js").Outcome} Outcome */
/** @typedef {import("./diagnostics-report.js").Second} Second */
/** @typedef {import("./synthetic-media.js").Media} Media */
/** @typedef {import("./reasons.js").Reason} Reason */
/**
 * @typedef {object} Platform
 * @property {typeof RTCPeerConnection} RTCPeerConnection
 * @property {typeof WebSocket} WebSocket
 * @property {Pick<MediaDevices, "enumerateDevices" | "getUserMedia"> | undefined} mediaDevices
 * @property {() => Media | null} syntheticMedia
 * @property {() => boolean} isHidden
 * @property {string} browser
 */
/**
 * @typedef {object} Watcher
 * @property {(row: string, findings: Finding[]) => void} onRow a row has changed
 * @property {(second: Second) => void} onSecond of the quality check
 */

const LIMIT_MS = 120_000;
const CHECK_LIMIT_MS = 30_000;
const QUALITY_S = 12;
const PINGS = 3;
/** Of which the relays are tested, one region after another. */
const MAX_RELAY_REGIONS = 4;
const TRANSPORTS = /** @type {const} */ (["udp", "tcp", "tls"]);
const RELAYS = TRANSPORTS.map((transport) => `turn-${transport}`);
const KINDS = /** @type {const} */ (["quality-audio", "quality-video"]);
/** What a server that has gone away looks like to a check that needs it. */
const GONE = new Set(["unreachable", "server_gone", "relay_silent", "packet_loss", "timeout"]);

export class DiagnosticsRun {
  #api;
  #platform;
  #watcher;
  #run = new Run({ limitMs: LIMIT_MS });
  /** @type {Map<string, Finding[]>} */
  #rows = new Map();
  /** @type {Second[]} */
  #seconds = [];
  /** @type {string[]} */
  #addresses = [];
  #wasHidden = false;

  /**
   * @param {import("./probe-api.js").ProbeApi} api
   * @param {Platform} platform
   * @param {Watcher} watcher
   */
  constructor(api, platform, watcher) {
    this.#api = api;
    this.#platform = platform;
    this.#watcher = watcher;
    this.#wasHidden = platform.isHidden();
  }

  /** Ends what runs; `go` then resolves with what is known. */
  stop() {
    this.#run.end("stopped");
  }

  /** The page went to the background, where timers are slow. */
  hidden() {
    this.#wasHidden = true;
  }

  /** @param {{openDevices: boolean}} wish @returns {Promise<Outcome>} never rejects */
  async go({ openDevices }) {
    const testedAt = new Date();
    const began = performance.now();
    const devices = this.#devices(openDevices);
    const session = await this.#server();
    if (session) {
      await Promise.all([this.#guarded(["ws"], this.#regions()), this.#guarded(RELAYS, this.#relays(session))]);
      await this.#guarded(["direct"], this.#direct(session));
      await this.#guarded(["quality"], this.#quality(session, devices));
      await this.#serverIsStillThere();
    }
    const { media } = await devices;
    media?.stop();
    this.#run.release();
    this.#leaveOut();
    return {
      findings: [...this.#rows.values()].flat(),
      seconds: this.#seconds,
      server: hostOf(this.#api.baseUrl) ?? "",
      region: session?.region ?? "",
      node: session?.node ?? "",
      browser: this.#platform.browser,
      testedAt,
      durationS: (performance.now() - began) / 1000,
      wasHidden: this.#wasHidden,
      addresses: this.#addresses,
      canShare: Boolean(session?.limits.reports),
    };
  }

  /** @param {string} row @param {Finding[]} findings */
  #show(row, findings) {
    this.#rows.set(row, findings);
    tell(() => this.#watcher.onRow(row, findings), null);
  }

  /**
   * A mistake of ours, or a browser that refuses a connection, must not keep the visitor waiting.
   * @param {string[]} rows
   * @param {Promise<void>} check
   */
  async #guarded(rows, check) {
    await check.catch((error) => {
      for (const row of rows) this.#show(row, plain(row, "failed", probeError(error).reason));
    });
  }

  /** @param {(run: Run) => Promise<void>} check bounded by itself, and by the whole run */
  async #bounded(check) {
    const run = new Run({ signal: this.#run.signal, limitMs: CHECK_LIMIT_MS });
    await check(run).finally(() => run.release());
  }

  /** @param {boolean} open */
  async #devices(open) {
    this.#show("devices", plain("devices", "running"));
    const found = await checkDevices(this.#platform.mediaDevices, { open, signal: this.#run.signal });
    this.#show("devices", [found.finding]);
    return found;
  }

  /** @returns {Promise<import("./probe-api.js").ProbeSession | null>} */
  async #server() {
    const { signal } = this.#run;
    const began = performance.now();
    const target = hostOf(this.#api.baseUrl);
    const finding = { name: "api", target };
    this.#show("api", [{ ...finding, state: "running" }]);
    try {
      const session = await this.#api.session(signal);
      const trips = [];
      for (let number = 0; number < PINGS; number++) {
        const asked = performance.now();
        await this.#api.ping(signal);
        trips.push(performance.now() - asked);
      }
      await this.#api.log({ event: "diagnostics" }, signal);
      const figures = { round_trip_ms: Math.min(...trips) };
      this.#show("api", [{ ...finding, region: session.region, state: "passed", reason: "", figures, durationMs: performance.now() - began }]);
      return session;
    } catch (error) {
      const { reason } = probeError(error);
      this.#show("api", [{ ...finding, state: reason === "aborted" ? "aborted" : "failed", reason, durationMs: performance.now() - began }]);
      return null;
    }
  }

  async #regions() {
    this.#show("ws", plain("ws", "running"));
    await this.#bounded(async (run) => {
      const { WebSocket: Socket } = this.#platform;
      const onProgress = (/** @type {any} */ { regions }) => this.#show("ws", regions.map(findingOfRegion));
      const { regions, reason } = await testWebsockets({ api: this.#api, Socket, run, onProgress });
      this.#show("ws", regions.length ? regions.map(findingOfRegion) : plain("ws", reason === "aborted" ? "aborted" : "failed", reason));
    });
  }

  /** @param {import("./probe-api.js").ProbeSession} session */
  async #relays(session) {
    const regions = relayRegions(session);
    const found = new Map(RELAYS.map((row) => [row, regions.flatMap((region) => plain(row, "waiting", "", region))]));
    for (const [index, region] of regions.entries()) {
      const note = (/** @type {string} */ row, /** @type {Finding} */ finding) => {
        const findings = [...(found.get(row) ?? [])];
        findings[index] = finding;
        found.set(row, findings);
        this.#show(row, findings);
      };
      await this.#bounded((run) => this.#relaysOf(region, run, note));
    }
  }

  /**
   * @param {string | null} region null: what a call would get
   * @param {Run} run
   * @param {(row: string, finding: Finding) => void} note
   */
  async #relaysOf(region, run, note) {
    const all = (/** @type {import("./reasons.js").State} */ state, /** @type {Reason} */ reason = "") => {
      for (const row of RELAYS) for (const finding of plain(row, state, reason, region)) note(row, finding);
    };
    all("running");
    const show = (/** @type {any[]} */ results) => {
      for (const result of results) note(rowOf(result), findingOfRelay(result, region));
    };
    const { RTCPeerConnection: Connection } = this.#platform;
    const { transports, reason } = await testNetwork({
      api: this.#api, Connection, run, track: null, transports: [...TRANSPORTS], region: region ?? undefined,
      onProgress: ({ transports: tested }) => show(tested),
    });
    if (transports.length) show(transports);
    else all(reason === "aborted" ? "aborted" : "failed", reason);
  }

  /** @param {import("./probe-api.js").ProbeSession} session */
  async #direct(session) {
    if (this.#run.ended) return;
    this.#show("direct", plain("direct", "running"));
    const { RTCPeerConnection: Connection } = this.#platform;
    const { finding, addresses } = await checkDirect({ api: this.#api, session, Connection, signal: this.#run.signal });
    this.#addresses = addresses;
    // Relays carry the calls that have no direct way.
    const isHarmless = finding.state === "failed" && this.#bestRelay();
    this.#show("direct", [isHarmless ? { ...finding, state: "warning" } : finding]);
  }

  /** What a call would use: of the nearest region that works, the best transport. */
  #bestRelay() {
    const working = RELAYS.flatMap((row) => this.#rows.get(row) ?? []).filter(({ state }) => /^(passed|warning)$/.test(state));
    const regions = this.#rows.get(RELAYS[0] ?? "")?.map(({ region }) => region) ?? [];
    return regions.map((region) => working.find((one) => one.region === region)).find(Boolean);
  }

  /**
   * @param {import("./probe-api.js").ProbeSession} session
   * @param {Promise<{media: Media | null}>} devices
   */
  async #quality(session, devices) {
    if (this.#run.ended) return;
    const { transport, region } = this.#bestRelay() ?? {};
    const skipped = (/** @type {Reason} */ reason, hidden = false) =>
      this.#show("quality", plain("quality", "skipped", reason).map((finding) => ({ ...finding, hidden })));
    if (!transport || !session.limits.peers) return skipped("not_offered");
    this.#show("quality", plain("quality", "running"));
    const { media: own } = await devices;
    const media = own ?? this.#platform.syntheticMedia();
    if (!media) return skipped("unsupported");
    try {
      const { ice_servers: servers } = region ? await this.#api.relaysOf(region, this.#run.signal) : session;
      const { RTCPeerConnection: Connection } = this.#platform;
      const findings = await checkQuality({
        api: this.#api, session, servers: servers[transport], Connection, run: this.#run, stream: media.stream,
        durationS: QUALITY_S, onSecond: (second) => this.#second(second),
      });
      const isDoubtful = this.#wasHidden && findings.some(({ state }) => state === "failed" || state === "warning");
      if (isDoubtful) skipped("unsupported", true);
      else this.#show("quality", findings.map((finding) => ({ ...finding, transport })));
    } finally {
      media.stop();
    }
  }

  /** @param {Second} second */
  #second(second) {
    this.#seconds.push(second);
    this.#watcher.onSecond(second);
  }

  /** A server that goes away takes checks with it: that is not a network that blocks. */
  async #serverIsStillThere() {
    if (this.#run.ended || (await this.#api.answers(this.#run.signal)) || this.#run.ended) return;
    this.#api.forgetSession();
    const lost = { state: /** @type {const} */ ("failed"), reason: /** @type {const} */ ("server_gone") };
    for (const row of ["direct", "quality"]) {
      const findings = this.#rows.get(row) ?? [];
      if (findings.some(({ reason }) => GONE.has(reason ?? ""))) this.#show(row, findings.map((finding) => ({ ...finding, ...lost })));
    }
    this.#show("api", (this.#rows.get("api") ?? plain("api", "failed")).map((finding) => ({ ...finding, ...lost, figures: {} })));
  }

  /** Rows that never began. */
  #leaveOut() {
    const isStopped = this.#run.ended === "stopped";
    const rest = ["ws", ...RELAYS, "direct", "quality"].filter((row) => !this.#rows.has(row));
    for (const row of rest) this.#show(row, isStopped ? plain(row, "aborted", "aborted") : plain(row, "skipped", "unreachable"));
  }
}

/**
 * Nearest first; null alone where there are not several.
 * @param {import("./probe-api.js").ProbeSession} session
 * @returns {(string | null)[]}
 */
function relayRegions({ turn_regions: regions = [], turn_region: nearest }) {
  if (regions.length < 2) return [null];
  return [...regions].sort((one, other) => Number(other === nearest) - Number(one === nearest)).slice(0, MAX_RELAY_REGIONS);
}

/**
 * Of a row without a measurement.
 * @param {string} row
 * @param {import("./reasons.js").State} state
 * @param {Reason} [reason]
 * @param {string | null} [region]
 * @returns {Finding[]}
 */
function plain(row, state, reason = "", region = null) {
  if (row === "quality") return KINDS.map((name) => ({ name, state, reason }));
  const [name = row, transport = null] = row.split("-");
  return [{ name, transport: /** @type {Finding["transport"]} */ (transport), region, state, reason }];
}

/** @param {import("./parley-probes.d.ts").RegionResult} result @returns {Finding} */
function findingOfRegion({ region, state, reason, target, connectMs, roundTripMs, durationMs }) {
  return { name: "ws", region, state, reason, target, durationMs, figures: numbers({ connect_ms: connectMs, round_trip_ms: roundTripMs }) };
}

/**
 * @param {import("./parley-probes.d.ts").TransportResult} result
 * @param {string | null} region where there are several
 * @returns {Finding}
 */
function findingOfRelay({ transport, state, reason, target, connectMs, roundTripMs, lossRatio, sent, received, code, durationMs }, region) {
  const figures = numbers({
    connect_ms: connectMs, round_trip_ms: roundTripMs, loss_ratio: lossRatio, sent: sent || null, received: sent ? received : null, ice_error: code || null,
  });
  return { name: "turn", transport, region, state, reason, target, durationMs, figures };
}

/** Those that are known. @param {Record<string, number | null | undefined>} figures */
function numbers(figures) {
  return /** @type {Record<string, number>} */ (
    Object.fromEntries(Object.entries(figures).filter(([, value]) => value !== null && value !== undefined))
  );
}
