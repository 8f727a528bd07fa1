/**
 * The diagnostics page in words: names of checks, and one line for the outcome of each. Pure. A line
 * never holds an address, so that a shared report can be read aloud from its figures alone.
 * @module
 */

import { REMOVED } from "./diagnostics-report.js";
import { rating } from "./mos.js";

/** @typedef {import("./reasons.js").State} State */
/** @typedef {import("./reasons.js").Reason} Reason */
/** @typedef {Record<string, number>} Numbers */
/**
 * @typedef {import("./verdict.js").CheckResult & {figures?: Numbers, durationMs?: number, hidden?: boolean}} Finding
 * of one check; `hidden`: the page was in the background, where browsers slow its timers down
 */
/** @typedef {{id: string, title: string, about: string}} RowName */

/** The rows of the page, in the order in which they are read. @type {RowName[]} */
export const ROWS = [
  { id: "api", title: "Server", about: "Does the server answer?" },
  { id: "ws", title: "Signaling over WebSocket", about: "Do messages pass to every region?" },
  { id: "turn-udp", title: "Relay over UDP", about: "The best way for sound and picture." },
  { id: "turn-tcp", title: "Relay over TCP", about: "For networks that block UDP." },
  { id: "turn-tls", title: "Relay over TLS", about: "For networks that let only web traffic through." },
  { id: "direct", title: "Direct connection", about: "A shorter way, where both networks allow it." },
  { id: "quality", title: "Call quality", about: "Sound and picture to the server and back." },
  { id: "devices", title: "Camera and microphone", about: "Are they there?" },
];

/** @type {Record<State, string>} */
export const STATE_WORDS = {
  waiting: "Waiting", running: "Running", passed: "Passed", warning: "Warning", failed: "Failed",
  skipped: "Skipped", aborted: "Stopped",
};

/** The same for every check, unless OWN says otherwise. @type {Partial<Record<Reason, string>>} */
const SHARED = {
  unreachable: "Nothing answers.",
  connection_refused: "The connection is refused.",
  dns: "The name cannot be resolved.",
  tls_certificate: "The certificate is not trusted.",
  http_status: "Something else than Parley answers.",
  rate_limited: "Too many tests from this network for now; try again in a few minutes.",
  server_gone: "The server answered at first, and does not any more.",
  timeout: "No result in time.",
  not_offered: "Not offered by this server.",
  no_credentials: "The server gave no credentials for the relay.",
  credential_rejected: "The relay does not accept the server's credentials.",
  credential_expired: "The credentials for the relay have expired.",
  allocation_quota: "The relay is full at the moment.",
  peer_denied: "The relay answers, and refuses to send to other people.",
  hairpin: "Works, except between two people on this very relay.",
  relay_silent: "The relay answers, but nothing passes through it.",
  upgrade_refused: "The server answers, but refuses the WebSocket; often a proxy on the way does that.",
  frames_blocked: "The connection opens and no message passes; often a proxy on the way does that.",
  wrong_region: "Another region answers in its place.",
  wrong_nonce: "Something else answers in its place.",
  unsupported: "This browser lacks what the check needs.",
  permission_denied: "The browser or the visitor did not allow it.",
  aborted: "Stopped before it was done.",
  internal: "The test itself failed.",
};

/** @type {Record<string, Partial<Record<Reason, string>>>} */
const OWN = {
  direct: {
    not_offered: "The server has no address that could be tried directly.",
    unreachable: "Not possible from here; calls go through the relay instead.",
    relay_silent: "Not possible from here; calls go through the relay instead.",
    packet_loss: "Possible, but packets get lost on the way.",
  },
  quality: {
    not_offered: "Needs a relay that works, and a server that takes part.",
    relay_silent: "Sound and picture do not get through.",
    timeout: "The server did not take part in time.",
    unsupported: "Not measured: this browser cannot send a picture of its own.",
    rate_limited: "The server takes part in no more tests for now; try again in a minute.",
    device_in_use: "Camera or microphone was taken away during the test.",
  },
  devices: {
    no_camera: "No camera was found; you can still see others, and talk.",
    no_microphone: "No microphone was found; you can still hear and see others.",
    permission_denied: "Not allowed to use them; a generated picture and tone were sent instead.",
    device_in_use: "Another program is using them; close it before a call.",
    unsupported: "Browsers open camera and microphone only on pages with https.",
    timeout: "The browser's question was not answered in time.",
    aborted: "Stopped before the browser's question was answered.",
  },
};
/** Why figures of a quality check say nothing. */
const CUT = new Set(["server_gone", "relay_silent", "timeout", "unreachable", "internal", "device_in_use"]);
const HIDDEN = "Not measured: the page was in the background, where browsers slow it down. Keep it in view and test again.";
const UNTOUCHED = "Not tested, because the first check failed.";
const HIGH_LOSS = 0.05;

/** Browsers tell round trips of a call in whole milliseconds. @param {number} ms */
export const inMs = (ms) => (ms < 0.1 ? "under 1 ms" : `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`);
/** @param {number} kbps */
export const inBits = (kbps) => (kbps < 1000 ? `${Math.round(kbps)} kbit/s` : `${(kbps / 1000).toFixed(1)} Mbit/s`);
/** @param {number} ratio 0 to 1 */
export const inPercent = (ratio) => `${(100 * ratio).toFixed(ratio > 0 && ratio < 0.0995 ? 1 : 0)} %`;

/**
 * @param {string} row
 * @param {Finding[]} findings of that row; more than one for regions, and for sound and picture
 * @returns {string}
 */
export function lineOf(row, findings) {
  const [first] = findings;
  if (!first) return "";
  if (first.hidden && first.state === "skipped") return HIDDEN;
  if (first.state === "skipped" && first.reason === "unreachable") return UNTOUCHED;
  if (row === "ws") return ofRegions(findings);
  if (row === "quality") return ofQuality(findings);
  if (findings.length > 1) return ofRelays(row, findings);
  return lineOfOne(row, first);
}

/**
 * @param {string} row
 * @param {Finding} finding
 */
export function lineOfOne(row, { name, state, reason = "", figures = {} }) {
  if (name === "turn" && figures.received) return ofPackets(reason, figures);
  const known = OWN[row]?.[reason] ?? SHARED[reason];
  if (known) return known;
  if (state === "passed" || state === "warning") return passing(row, figures);
  return "";
}

/** @param {string} row @param {Numbers} figures */
function passing(row, { round_trip_ms: trip, received, sent, cameras = 0, microphones = 0, opened = 0 }) {
  if (row === "devices") {
    if (opened) return "Both work.";
    return cameras && microphones ? "Both are there; they were not opened." : "";
  }
  if (trip === undefined) return "";
  if (row === "direct") return `${received} of ${sent} packets came back, in ${inMs(trip)}.`;
  return `Answers in ${inMs(trip)}.`;
}

/** @param {Reason} reason @param {Numbers} figures */
function ofPackets(reason, { received = 0, sent = 0, round_trip_ms: trip }) {
  if (reason === "hairpin") return /** @type {string} */ (SHARED.hairpin);
  const passed = `${received} of ${sent} packets came through`;
  if (reason === "packet_loss") return `Only ${passed}.`;
  return trip === undefined ? `${passed}.` : `${passed}, in ${inMs(trip)}.`;
}

/** @param {Finding[]} findings */
function ofRegions(findings) {
  const bad = findings.filter(({ state }) => state !== "passed" && state !== "warning" && state !== "running");
  const [worst] = bad;
  if (findings.length === 1 || !worst) {
    const trips = findings.flatMap(({ figures }) => figures?.round_trip_ms ?? []);
    if (worst || !trips.length) return lineOfOne("ws", /** @type {Finding} */ (findings[0]));
    if (findings.length === 1) return `Answers in ${inMs(Math.min(...trips))}.`;
    return `${findings.length === 2 ? "Both" : `All ${findings.length}`} regions answer, the nearest in ${inMs(Math.min(...trips))}.`;
  }
  const why = lowered(lineOfOne("ws", worst)).replace(/\.$/, "");
  if (bad.length === findings.length) return `None of ${findings.length} regions: ${why}.`;
  const good = findings.length - bad.length;
  return `${good} of ${findings.length} regions ${good === 1 ? "answers" : "answer"}, but not ${bad.map(({ region }) => region).join(", ")} (${why}).`;
}

/** @param {string} row @param {Finding[]} findings of the relays of several regions over one transport */
function ofRelays(row, findings) {
  const good = findings.filter(({ state }) => state === "passed" || state === "warning");
  const bad = findings.filter(({ state }) => state === "failed" || state === "aborted");
  const [worst] = bad.length ? bad : findings.filter(({ state }) => state === "warning");
  const trips = good.flatMap(({ figures }) => figures?.round_trip_ms ?? []);
  const nearest = trips.length ? `, ${trips.length > 1 ? "the nearest " : ""}in ${inMs(Math.min(...trips))}` : "";
  if (!good.length && !bad.length) return findings.every(({ state }) => state === "skipped") ? lineOfOne(row, /** @type {Finding} */ (findings[0])) : "";
  const where = good.length === findings.length ? (good.length === 2 ? "both" : `all ${good.length}`) : `${good.length} of ${findings.length}`;
  if (!worst) return `Works in ${where} regions${nearest}.`;
  const why = lowered(lineOfOne(row, worst)).replace(/\.$/, "");
  if (!good.length) return `Works in none of ${findings.length} regions: ${why}.`;
  const names = (bad.length ? bad : [worst]).map(({ region }) => region).join(", ");
  return `Works in ${where} regions${nearest}, but ${bad.length ? "not " : ""}in ${names}${bad.length ? ` (${why})` : ` ${why}`}.`;
}

/** @param {string} text */
const lowered = (text) => text.charAt(0).toLowerCase() + text.slice(1);

/** @param {Finding[]} findings sound, then picture */
function ofQuality(findings) {
  const [audio, video] = findings;
  const { mos, bitrate_kbps: sound = 0, round_trip_ms: trip, loss_ratio: loss = 0 } = audio?.figures ?? {};
  if (!audio || mos === undefined || CUT.has(audio.reason ?? "")) return lineOfOne("quality", /** @type {Finding} */ (audio));
  const picture = video?.figures ?? {};
  const parts = [`Sound ${rating(mos)}`];
  const isLossy = (picture.loss_ratio ?? 0) > HIGH_LOSS;
  if (video?.state === "failed") parts.push(`too ${isLossy ? "much lost" : "little"} for a picture`);
  else if (picture.mos !== undefined) parts.push(`picture ${rating(picture.mos)}`);
  const bitrate = inBits(sound + (picture.bitrate_kbps ?? 0));
  const lost = `${inPercent(Math.max(loss, picture.loss_ratio ?? 0))} lost`;
  return `${parts.join(", ")}: ${[bitrate, ...(trip === undefined ? [] : [inMs(trip)]), lost].join(", ")}.`;
}

/**
 * Of a row with several findings.
 * @param {Finding[]} findings
 * @returns {State}
 */
export function stateOfRow(findings) {
  const states = findings.map(({ state }) => state);
  const has = (/** @type {State} */ state) => states.includes(state);
  if (!states.length) return "waiting";
  if (has("running") || has("waiting")) return states.every((state) => state === "waiting") ? "waiting" : "running";
  if (has("aborted")) return "aborted";
  if (has("failed")) return states.every((state) => state === "failed") ? "failed" : "warning";
  if (has("warning")) return "warning";
  return has("passed") ? "passed" : "skipped";
}

/** Which row shows it. @param {{name: string, transport?: string | null}} finding */
export function rowOf({ name, transport }) {
  if (name === "turn") return `turn-${transport}`;
  return name.startsWith("quality") ? "quality" : name;
}

/** @param {string} protocol @param {string} target `host:port` */
export function askOf(protocol, target) {
  const [, given = target, port = ""] = /^(.*):(\d+)$/.exec(target) ?? [];
  const host = given === REMOVED ? "the server (its address was left out)" : given;
  if (protocol === "HTTPS") return `HTTPS and WebSocket connections to ${host}, port ${port}`;
  return `${protocol} to ${host}, port ${port}`;
}

/** @param {import("./diagnostics-report.js").Outcome} outcome */
export function whereOf({ server, region, node, browser, testedAt, durationS }) {
  const day = testedAt.toLocaleString("en-GB", { dateStyle: "long", timeStyle: "short" });
  const place = region ? `, region ${region}${node ? `, node ${node}` : ""}` : "";
  return `Tested ${server.startsWith(REMOVED) ? "a server" : server}${place}, on ${day}, for ${durationS.toFixed(1)} s${browser ? `, with ${browser}` : ""}.`;
}
