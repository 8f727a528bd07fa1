/** The diagnostics page without a page: words, report, charts, and runs against stand-ins. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { axisEnd, linesOf } from "../../probes/browser/js/chart.js";
import { checkDevices } from "../../probes/browser/js/devices-check.js";
import { browserOf, readReport, reportOf, withoutAddresses } from "../../probes/browser/js/diagnostics-report.js";
import { DiagnosticsRun } from "../../probes/browser/js/diagnostics-run.js";
import { ROWS, askOf, inMs, lineOf, rowOf, stateOfRow, whereOf } from "../../probes/browser/js/diagnostics-words.js";
import { isTriable } from "../../probes/browser/js/direct-check.js";
import { findingsOf, secondOf } from "../../probes/browser/js/quality-check.js";
import { REASONS } from "../../probes/browser/js/reasons.js";
import { ProbeError } from "../../probes/browser/js/settle.js";
import { verdictOf } from "../../probes/browser/js/verdict.js";

const OUTCOME = {
  findings: [
    { name: "api", state: "passed", reason: "", target: "calls.example:443", region: "eu", figures: { round_trip_ms: 12.34567 }, durationMs: 50.4 },
    { name: "turn", transport: "udp", state: "failed", reason: "unreachable", target: "192.0.2.7:3478", durationMs: 5000 },
    { name: "turn", transport: "tcp", state: "passed", reason: "", target: "192.0.2.7:3478", figures: { received: 50, sent: 50 } },
    { name: "quality-audio", state: "skipped", reason: "unsupported", transport: "tcp", hidden: true },
  ],
  seconds: [{ at_s: 1, bitrate_kbps: 900, round_trip_ms: null, loss_ratio: 0 }],
  server: "calls.example:443",
  region: "eu",
  node: "eu-1",
  browser: "Firefox 140 on Linux",
  testedAt: new Date("2026-11-21T12:34:56.789Z"),
  durationS: 17.25,
  wasHidden: true,
  addresses: ["198.51.100.4", "fe80::1"],
  canShare: true,
};

// Words

test("every reason has words, in every row", () => {
  const measured = new Set(["", "packet_loss", "bandwidth_too_low", "high_loss", "high_delay", "no_camera", "no_microphone", "device_in_use"]);
  for (const { id, title, about } of ROWS) {
    assert.ok(title && about, id);
    for (const reason of REASONS.filter((one) => !measured.has(one))) {
      assert.match(lineOf(id, [{ name: id, state: "failed", reason }]), /^[A-Z].*\.$/, `${id} ${reason}`);
    }
  }
});

test("a line says what came through, and how fast", () => {
  const figures = { sent: 50, received: 49, round_trip_ms: 34.2, loss_ratio: 0.02 };
  const turn = { name: "turn", transport: "udp", figures };
  const line = (/** @type {object} */ more) => lineOf("turn-udp", [{ ...turn, ...more }]);
  assert.equal(line({ state: "passed" }), "49 of 50 packets came through, in 34 ms.");
  assert.equal(line({ state: "warning", reason: "packet_loss" }), "Only 49 of 50 packets came through.");
  assert.equal(line({ state: "warning", reason: "hairpin" }), "Works, except between two people on this very relay.");
  assert.equal(line({ state: "failed", reason: "unreachable", figures: {} }), "Nothing answers.");
  assert.equal(lineOf("ws", []), "");
  assert.equal(lineOf("turn-tcp", [{ name: "turn", transport: "tcp", state: "skipped", reason: "unreachable" }]), "Not tested, because the first check failed.");
  assert.deepEqual([0, 0.4, 9.94, 10, 1234.5].map(inMs), ["under 1 ms", "0.4 ms", "9.9 ms", "10 ms", "1235 ms"]);
});

test("regions are counted, and those that fail are named with their reason", () => {
  const region = (id, state, reason = "", trip = 20) => ({ name: "ws", region: id, state, reason, figures: state === "passed" ? { round_trip_ms: trip } : {} });
  const of = (...findings) => lineOf("ws", findings);
  assert.equal(of(region("eu", "passed")), "Answers in 20 ms.");
  assert.equal(of(region("eu", "passed"), region("us", "passed", "", 90)), "Both regions answer, the nearest in 20 ms.");
  assert.equal(of(region("a", "passed"), region("b", "passed"), region("c", "passed")), "All 3 regions answer, the nearest in 20 ms.");
  assert.equal(of(region("eu", "passed"), region("us", "failed", "unreachable")), "1 of 2 regions answers, but not us (nothing answers).");
  assert.equal(of(region("eu", "failed", "unreachable"), region("us", "failed", "unreachable")), "None of 2 regions: nothing answers.");
  assert.match(of(region("eu", "failed", "upgrade_refused")), /refuses the WebSocket/);
});

test("quality is told in words, with what is known", () => {
  const audio = { name: "quality-audio", state: "passed", reason: "", figures: { mos: 4.3, bitrate_kbps: 30, loss_ratio: 0.01, round_trip_ms: 40 } };
  const video = { name: "quality-video", state: "passed", reason: "", figures: { mos: 3.5, bitrate_kbps: 970, loss_ratio: 0.02 } };
  assert.equal(lineOf("quality", [audio, video]), "Sound excellent, picture good: 1.0 Mbit/s, 40 ms, 2.0 % lost.");
  const { round_trip_ms: _, ...untold } = audio.figures;
  const bad = { ...video, state: "failed", reason: "bandwidth_too_low" };
  assert.equal(lineOf("quality", [{ ...audio, figures: untold }, bad]), "Sound excellent, too little for a picture: 1.0 Mbit/s, 2.0 % lost.");
  assert.match(lineOf("quality", [audio, { ...bad, figures: { ...bad.figures, loss_ratio: 0.12 } }]), /, too much lost for a picture:/);
  const gone = [audio, video].map((one) => ({ ...one, state: "failed", reason: "server_gone" }));
  assert.equal(lineOf("quality", gone), "The server answered at first, and does not any more.");
  const hidden = { name: "quality-audio", state: "skipped", reason: "unsupported", hidden: true };
  assert.match(lineOf("quality", [hidden, hidden]), /in the background/);
});

test("a row is as good as its parts", () => {
  const of = (...states) => stateOfRow(states.map((state) => ({ name: "ws", state })));
  assert.equal(of(), "waiting");
  assert.equal(of("waiting", "waiting"), "waiting");
  assert.equal(of("passed", "running"), "running");
  assert.equal(of("passed", "aborted"), "aborted");
  assert.equal(of("failed", "failed"), "failed");
  assert.equal(of("passed", "failed"), "warning");
  assert.equal(of("passed", "warning"), "warning");
  assert.equal(of("passed", "skipped"), "passed");
  assert.equal(of("skipped"), "skipped");
  assert.deepEqual(["turn", "quality-video", "ws"].map((name) => rowOf({ name, transport: "tls" })), ["turn-tls", "quality", "ws"]);
});

test("requests to a network's owner name host, port and protocol", () => {
  assert.equal(askOf("UDP", "turn.example:3478"), "UDP to turn.example, port 3478");
  assert.equal(askOf("TCP", "[2001:db8::1]:443"), "TCP to [2001:db8::1], port 443");
  assert.equal(askOf("HTTPS", "calls.example:443"), "HTTPS and WebSocket connections to calls.example, port 443");
  assert.match(askOf("UDP", "[address]:3478"), /left out\), port 3478$/);
});

test("a browser is named in a few words", () => {
  const chrome = "AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0";
  const cases = {
    [`Mozilla/5.0 (X11; Linux x86_64) ${chrome} Safari/537.36`]: "Chrome 156 on Linux",
    [`Mozilla/5.0 (Windows NT 10.0) ${chrome} Safari/537.36 Edg/156.0.1`]: "Edge 156 on Windows",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 19_0 like Mac OS X) AppleWebKit/605 Version/19.0 Mobile/15E Safari/604": "Safari 19 on iOS",
    "Mozilla/5.0 (Android 16; Mobile; rv:140.0) Gecko/140.0 Firefox/140.0": "Firefox 140 on Android",
    "a robot": "Browser",
  };
  for (const [agent, words] of Object.entries(cases)) assert.equal(browserOf(agent), words);
});

// Report

test("a report holds the outcome without addresses, unless the visitor wants them in it", () => {
  const report = reportOf(OUTCOME);
  assert.equal(report.include_addresses, false);
  assert.equal(report.addresses, undefined);
  assert.doesNotMatch(JSON.stringify(report), /192\.0\.2\.7|198\.51|fe80/);
  assert.deepEqual(report.checks[1], {
    name: "turn", transport: "udp", target: "[address]:3478", state: "failed", reason: "unreachable", duration_ms: 5000, figures: {},
  });
  assert.equal(report.checks[0].figures.round_trip_ms, 12.346);
  assert.equal(report.tested_at, "2026-11-21T12:34:56.789Z");
  const open = reportOf(OUTCOME, { withAddresses: true });
  assert.equal(open.include_addresses, true);
  assert.deepEqual(open.addresses, OUTCOME.addresses);
  assert.equal(open.checks[1].target, "192.0.2.7:3478");
});

test("addresses are found as the server finds them, and times are not addresses", () => {
  const given = { a: ["turn:[2001:db8::5]:3478", "at 12:34:56", "1.2.3.4.5"], b: "0b0d1b2c-aaaa-bbbb-cccc-0123456789ab.local", c: 7, d: null };
  const expected = { a: ["turn:[[address]]:3478", "at 12:34:56", "1.2.3.4.5"], b: "[address]", c: 7, d: null };
  assert.deepEqual(withoutAddresses(given), expected);
});

test("a report that comes back says the same", () => {
  const read = readReport(JSON.parse(JSON.stringify(reportOf(OUTCOME))));
  assert.ok(read);
  assert.deepEqual(read.verdict, verdictOf(read.findings));
  assert.equal(read.verdict.text, verdictOf(OUTCOME.findings).text);
  assert.deepEqual(read.findings.map(({ name, transport }) => [name, transport]), [["api", null], ["turn", "udp"], ["turn", "tcp"], ["quality-audio", "tcp"]]);
  assert.deepEqual(read.seconds, OUTCOME.seconds);
  assert.deepEqual([read.server, read.region, read.node, read.browser], ["calls.example:443", "eu", "eu-1", "Firefox 140 on Linux"]);
  assert.equal(read.wasHidden, true);
  assert.deepEqual(read.findings.map(({ hidden }) => hidden), [false, false, false, true]);
  assert.equal(read.testedAt.getTime(), OUTCOME.testedAt.getTime());
});

test("a stranger's report can neither speak nor grow", () => {
  const report = JSON.parse(JSON.stringify(reportOf(OUTCOME)));
  assert.equal(readReport(null), null);
  assert.equal(readReport({ ...report, format: "other/1" }), null);
  assert.equal(readReport({ ...report, checks: [] }), null);
  assert.equal(readReport({ ...report, tested_at: "yesterday" }), null);
  const check = { name: "api", state: "passed", reason: "", figures: { round_trip_ms: 5, "<b>": 1, big: 1e30, text: "x" } };
  const read = readReport({
    ...report,
    server: "evil.example/<script>", browser: "call 0900 <b>now</b>", region: "a b", node: 7,
    verdict: { state: "failed", text: "Pay here" },
    checks: [check, { ...check, name: "other" }, { ...check, state: "splendid" }, { ...check, reason: "because" }, { ...check, name: "turn" },
      ...Array(100).fill(check)],
    quality_seconds: [...Array(100).fill(report.quality_seconds[0]), { at_s: "1" }],
  });
  assert.ok(read);
  assert.deepEqual([read.server, read.browser, read.region, read.node], ["", "", "", ""]);
  assert.notEqual(read.verdict.text, "Pay here");
  assert.deepEqual(read.findings[0].figures, { round_trip_ms: 5 });
  assert.ok(read.findings.every(({ name }) => name === "api"));
  assert.ok(read.findings.length <= 64 && read.seconds.length <= 60);
});

// Figures

test("an axis ends at 1, 2 or 5 times a power of ten", () => {
  assert.deepEqual([0, 0.04, 0.3, 999, 1001, 6000].map((most) => axisEnd(most, 0.05)), [0.05, 0.05, 0.5, 1000, 2000, 10_000]);
});

test("a value that is not known leaves a gap", () => {
  const points = [1, 2, null, 4].map((value, at) => ({ at, value }));
  const lines = linesOf(points, { endX: 12, endY: 5 });
  assert.deepEqual(lines.map((line) => line.split(" ").length), [2, 1]);
  assert.deepEqual(linesOf([], { endX: 12, endY: 5 }), []);
});

const reading = (atMs, bytes, more = {}) => ({
  atMs, bytesSent: 0, bytesReceived: 0, roundTripMs: 20, availableBps: 3e6, limitedBy: "none", width: 640, height: 480,
  audio: { bytesReceived: bytes / 10, packetsReceived: atMs / 20, lostReceived: 0, framesReceived: 0, packetsSent: atMs / 20, lostSent: 0 },
  video: { bytesReceived: bytes, packetsReceived: atMs / 10, lostReceived: 0, framesReceived: atMs / 33, packetsSent: atMs / 10, lostSent: 0 },
  ...more,
});

test("a second holds what came back in it", () => {
  const second = secondOf([reading(1000, 100_000), reading(2000, 300_000, { roundTripMs: 33.333 })]);
  assert.deepEqual(second, { bitrate_kbps: 1760, round_trip_ms: 33.3, loss_ratio: 0 });
  assert.equal(secondOf([reading(1000, 0), reading(2000, 0, { roundTripMs: null, audio: null, video: null })]).round_trip_ms, null);
});

test("quality has figures only where enough was seen", () => {
  const readings = [0, 1, 2, 3, 4, 5, 6].map((at) => reading(1000 * at, 200_000 * at, { roundTripMs: at === 6 ? 0 : 10 * at }));
  const [audio, video] = findingsOf(readings, "eu");
  assert.equal(audio.figures.round_trip_ms, 20, "the median, not the last");
  assert.ok(audio.figures.mos > 4 && video.figures.bitrate_kbps > 1500);
  assert.deepEqual(findingsOf(readings.slice(0, 2), "eu").map(({ figures }) => figures), [undefined, undefined]);
});

test("only a server at a public address can be missed", () => {
  const sdp = (...addresses) => addresses.map((one) => `a=candidate:1 1 udp 2113 ${one} 40000 typ host`).join("\r\n");
  assert.equal(isTriable(sdp("10.0.0.7", "172.20.1.1", "fe80::1", "100.64.1.1")), false);
  assert.equal(isTriable(sdp("10.0.0.7", "203.0.113.9")), true);
  assert.equal(isTriable(""), false);
  assert.equal(isTriable(sdp("203.0.113.9").replace("typ host", "typ relay raddr 0.0.0.0 rport 9")), false);
});

// Devices

const signal = new AbortController().signal;
const devices = (kinds, open) => ({ enumerateDevices: async () => kinds.map((kind) => ({ kind })), getUserMedia: open });
const refusing = (name) => () => Promise.reject(Object.assign(new Error(name), { name }));

test("devices are counted, and opened only on request", async () => {
  const never = () => assert.fail("nobody asked for this");
  const seen = async (kinds) => (await checkDevices(devices(kinds, never), { open: false, signal })).finding;
  assert.equal((await seen(["videoinput", "audioinput"])).state, "passed");
  assert.equal((await seen(["audioinput"])).reason, "no_camera");
  assert.equal((await seen([])).reason, "no_microphone");
  assert.equal((await checkDevices(undefined, { open: true, signal })).finding.reason, "unsupported");
});

test("a device that does not open is a warning with its reason", async () => {
  const cases = { NotAllowedError: "permission_denied", NotReadableError: "device_in_use", NotFoundError: "no_camera", Odd: "internal" };
  for (const [name, reason] of Object.entries(cases)) {
    const { finding, media } = await checkDevices(devices(["audioinput"], refusing(name)), { open: true, signal });
    assert.deepEqual([finding.state, finding.reason, media], ["warning", reason, null], name);
  }
});

test("a permission that comes after the end does not leave the camera on", async () => {
  const ending = new AbortController();
  const track = { stopped: 0, stop: () => track.stopped++ };
  let allow = () => {};
  const open = () => new Promise((resolve) => (allow = () => resolve({ getTracks: () => [track] })));
  const checking = checkDevices(devices([], open), { open: true, signal: ending.signal });
  ending.abort(new ProbeError("aborted"));
  assert.equal((await checking).finding.state, "aborted");
  allow();
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(track.stopped, 1);
});

// Runs

const SESSION = {
  token: "t", expires_at: 1e12, now: 0, region: "eu", node: "eu-1", regions: [],
  ice_servers: { udp: [], tcp: [], tls: [] }, limits: { ttl_s: 300, peers: 0, peer_s: 60, reports: 1, report_bytes: 65536 },
};

/** @param {Record<string, any>} [own] */
function deployment(own = {}) {
  return {
    baseUrl: "https://calls.example", session: async () => SESSION, ping: async () => ({ region: "eu" }), log: async () => {},
    regions: async () => [], answers: async () => true, forgetSession: () => {}, serverNowS: () => 0, endPeer: async () => null,
    call: () => assert.fail("not asked for"), openPeer: () => assert.fail("not asked for"), ...own,
  };
}

/** @param {Record<string, any>} api @param {Record<string, any>} [platform] */
function aRun(api, platform = {}) {
  const rows = new Map();
  const own = { mediaDevices: devices([], refusing("NotFoundError")), syntheticMedia: () => null, isHidden: () => false, browser: "Test", ...platform };
  const run = new DiagnosticsRun(deployment(api), own, { onRow: (row, findings) => rows.set(row, findings), onSecond: () => {} });
  return { run, rows, go: () => run.go({ openDevices: false }) };
}

const states = (findings) => Object.fromEntries(findings.map((finding) => [rowOf(finding), `${finding.state} ${finding.reason}`.trim()]));

test("a server that cannot be reached ends the run, and the rest is left out", async () => {
  const { go, rows } = aRun({ session: () => Promise.reject(new ProbeError("unreachable")) });
  const { findings, region, server, canShare } = await go();
  const skipped = "skipped unreachable";
  assert.deepEqual(states(findings), {
    api: "failed unreachable", devices: "warning no_microphone", ws: skipped, "turn-udp": skipped, "turn-tcp": skipped, "turn-tls": skipped,
    direct: skipped, quality: skipped,
  });
  assert.equal(rows.size, ROWS.length, "every row has ended");
  assert.deepEqual([server, region, canShare], ["calls.example:443", "", false]);
  assert.match(verdictOf(findings).text, /server cannot be reached/);
});

test("a deployment that offers next to nothing is tested as far as it goes", async () => {
  const { findings } = await aRun({}).go();
  const found = states(findings);
  assert.equal(found.api, "passed");
  assert.deepEqual([found["turn-udp"], found.direct, found.quality], ["skipped not_offered", "skipped not_offered", "skipped not_offered"]);
});

test("a server that goes away during the test is said to have gone", async () => {
  const limits = { ...SESSION.limits, peers: 2 };
  class Broken extends EventTarget {
    constructor() {
      super();
      throw new ProbeError("unreachable");
    }
  }
  let forgotten = 0;
  const api = { session: async () => ({ ...SESSION, limits }), answers: async () => false, forgetSession: () => forgotten++ };
  const { findings } = await aRun(api, { RTCPeerConnection: Broken }).go();
  const found = states(findings);
  assert.deepEqual([found.api, found.direct], ["failed server_gone", "failed server_gone"]);
  assert.match(verdictOf(findings).text, /stopped answering/);
  assert.ok(forgotten > 0);
});

test("a browser that breaks ends as a failed check, not as a run without end", async () => {
  const { findings } = await aRun({ regions: () => Promise.reject(new TypeError("broken")) }).go();
  assert.equal(states(findings).ws, "failed internal");
});

test("a stop at any moment ends the run with what is known", async () => {
  const hang = (_, given) => new Promise((_resolve, reject) => (given ?? _).addEventListener("abort", () => reject((given ?? _).reason)));
  for (const step of ["session", "ping", "regions"]) {
    const { run, go } = aRun({ [step]: step === "regions" ? hang : (given) => hang(given, given) });
    const going = go();
    await new Promise((resolve) => setTimeout(resolve, 5));
    run.stop();
    run.stop();
    const { findings } = await going;
    assert.equal(verdictOf(findings).state, "aborted", step);
    assert.ok(findings.every(({ state }) => state !== "running" && state !== "waiting"), step);
  }
});

test("quality that was measured in the background is not held against the network", async () => {
  const { run, go } = aRun({});
  run.hidden();
  const { wasHidden } = await go();
  assert.equal(wasHidden, true);
});
