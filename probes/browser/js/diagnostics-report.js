/**
 * The report of a run: made, freed of addresses, and read again from a link. Pure. What comes from a
 * link is somebody else's: it is taken apart into states, reasons and figures, and every sentence is
 * written here anew.
 * @module
 */

import { REASONS, STATES } from "./reasons.js";
import { verdictOf } from "./verdict.js";

/** @typedef {import("./diagnostics-words.js").Finding} Finding */
/** @typedef {import("./verdict.js").Verdict} Verdict */
/** @typedef {{at_s: number, bitrate_kbps: number, round_trip_ms: number | null, loss_ratio: number | null}} Second */
/**
 * @typedef {object} Outcome of a run
 * @property {Finding[]} findings
 * @property {Second[]} seconds of the quality check
 * @property {string} server `host:port`
 * @property {string} region
 * @property {string} node
 * @property {string} browser
 * @property {Date} testedAt
 * @property {number} durationS
 * @property {boolean} wasHidden
 * @property {string[]} addresses of the visitor, as the browser told them
 * @property {boolean} canShare the server keeps reports
 */

export const FORMAT = "parley-network-report/1";
export const REMOVED = "[address]";
const MAX_FINDINGS = 64;
const MAX_SECONDS = 60;
/** IPv4, IPv6 (two colons or more), and the mDNS names that stand for addresses; as probes/reports.py. */
const ADDRESS =
  /(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?!\w|\.\d)|(?<![\w.:])(?=[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*:)[0-9A-Fa-f:.]*[0-9A-Fa-f:](?:%\w+)?(?![\w:])|[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\.local/g;
const TIME = /^\d{1,2}:\d{2}(:\d{2})?(\.\d+)?$/;
const NAMES = new Set(["api", "ws", "turn", "direct", "quality-audio", "quality-video", "devices"]);
const TRANSPORTS = /** @type {const} */ (["udp", "tcp", "tls"]);
const FAMILIES = /** @type {[RegExp, string][]} */ ([
  [/\bEdg(?:e|A|iOS)?\/(\d+)/, "Edge"], [/\bOPR\/(\d+)/, "Opera"], [/\b(?:Firefox|FxiOS)\/(\d+)/, "Firefox"],
  [/\b(?:Headless)?(?:Chrome|CriOS)\/(\d+)/, "Chrome"], [/\bVersion\/(\d+).*Safari/, "Safari"],
]);
const SYSTEMS = /** @type {[RegExp, string][]} */ ([
  [/Android/, "Android"], [/iPhone|iPad/, "iOS"], [/Windows/, "Windows"], [/Mac OS X/, "macOS"], [/CrOS/, "ChromeOS"], [/Linux/, "Linux"],
]);

/**
 * "Firefox 140 on Linux": enough to help, too little to tell people apart.
 * @param {string} userAgent
 */
export function browserOf(userAgent) {
  const family = FAMILIES.find(([pattern]) => pattern.test(userAgent));
  const system = SYSTEMS.find(([pattern]) => pattern.test(userAgent))?.[1];
  const name = family ? `${family[1]} ${family[0].exec(userAgent)?.[1]}` : "Browser";
  return system ? `${name} on ${system}` : name;
}

/**
 * @param {Outcome} outcome
 * @param {{withAddresses?: boolean}} [options]
 */
export function reportOf(outcome, { withAddresses = false } = {}) {
  const { findings, seconds, testedAt, addresses, durationS } = outcome;
  const { state, text, meaning, asks } = verdictOf(findings);
  const report = {
    format: FORMAT,
    tested_at: testedAt.toISOString(),
    duration_s: rounded(durationS),
    server: outcome.server,
    region: outcome.region,
    node: outcome.node,
    browser: outcome.browser,
    page_was_hidden: outcome.wasHidden,
    verdict: { state, text, meaning, asks },
    checks: findings.map(({ name, state: of, reason = "", transport, region, target, hidden, durationMs = 0, figures = {} }) => ({
      name,
      ...(transport ? { transport } : {}),
      ...(region ? { region } : {}),
      ...(target ? { target } : {}),
      state: of,
      reason,
      ...(hidden ? { page_was_hidden: true } : {}),
      duration_ms: Math.round(durationMs),
      figures: Object.fromEntries(Object.entries(figures).map(([key, value]) => [key, rounded(value)])),
    })),
    quality_seconds: seconds.map((second) => ({ ...second, at_s: rounded(second.at_s) })),
    include_addresses: withAddresses,
  };
  return withAddresses ? { ...report, addresses } : withoutAddresses(report);
}

/** @param {number} value */
const rounded = (value) => Math.round(value * 1000) / 1000;

/**
 * What the server does to a report whose sender keeps addresses to themselves; done here too, so
 * that the visitor sees exactly what is sent.
 * @template Value
 * @param {Value} value
 * @returns {Value}
 */
export function withoutAddresses(value) {
  if (typeof value === "string") {
    return /** @type {any} */ (value.replace(ADDRESS, (found) => (TIME.test(found) ? found : REMOVED)));
  }
  if (Array.isArray(value)) return /** @type {any} */ (value.map(withoutAddresses));
  if (value === null || typeof value !== "object") return value;
  return /** @type {any} */ (Object.fromEntries(Object.entries(value).map(([key, one]) => [key, withoutAddresses(one)])));
}

/**
 * @param {any} report as it came from the server
 * @returns {(Outcome & {verdict: Verdict}) | null} null: not a report of this format
 */
export function readReport(report) {
  if (report?.format !== FORMAT || !Array.isArray(report.checks)) return null;
  const testedAt = new Date(report.tested_at);
  const findings = report.checks.slice(0, MAX_FINDINGS).flatMap((/** @type {any} */ one) => finding(one) ?? []);
  if (Number.isNaN(testedAt.getTime()) || !findings.length) return null;
  const seconds = Array.isArray(report.quality_seconds) ? report.quality_seconds : [];
  return {
    findings,
    seconds: seconds.slice(0, MAX_SECONDS).flatMap((/** @type {any} */ one) => second(one) ?? []),
    server: place(report.server),
    region: word(report.region),
    node: word(report.node),
    browser: typeof report.browser === "string" && /^[A-Za-z0-9 ]{1,60}$/.test(report.browser) ? report.browser : "",
    testedAt,
    durationS: number(report.duration_s) ?? 0,
    wasHidden: report.page_was_hidden === true,
    addresses: [],
    canShare: false,
    verdict: verdictOf(findings),
  };
}

/** @param {any} one @returns {Finding | null} */
function finding(one) {
  if (!NAMES.has(one?.name) || !STATES.includes(one.state) || !REASONS.includes(one.reason)) return null;
  const transport = TRANSPORTS.find((name) => name === one.transport) ?? null;
  if (one.name === "turn" && !transport) return null;
  const figures = Object.entries(one.figures ?? {}).flatMap(([key, value]) => {
    const known = /^[a-z_]{1,32}$/.test(key) ? number(value) : null;
    return known === null ? [] : [[key, known]];
  });
  return {
    name: one.name, state: one.state, reason: one.reason, transport, region: word(one.region) || null,
    target: place(one.target) || null, hidden: one.page_was_hidden === true,
    durationMs: number(one.duration_ms) ?? 0, figures: Object.fromEntries(figures.slice(0, 16)),
  };
}

/** @param {any} one @returns {Second | null} */
function second(one) {
  const at = number(one?.at_s);
  const bitrate = number(one?.bitrate_kbps);
  if (at === null || bitrate === null) return null;
  return { at_s: at, bitrate_kbps: bitrate, round_trip_ms: number(one.round_trip_ms), loss_ratio: number(one.loss_ratio) };
}

/** @param {unknown} value @returns {number | null} */
const number = (value) => (typeof value === "number" && value >= 0 && value < 1e12 ? value : null);
/** @param {unknown} value */
const word = (value) => (typeof value === "string" && /^[\w.-]{1,64}$/.test(value) ? value : "");
/** `host:port`. @param {unknown} value */
const place = (value) => (typeof value === "string" && /^[\w.\-[\]:]{1,128}$/.test(value) ? value : "");
