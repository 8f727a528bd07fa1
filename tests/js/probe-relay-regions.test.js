import assert from "node:assert/strict";
import { test } from "node:test";

import { DiagnosticsRun } from "../../probes/browser/js/diagnostics-run.js";
import { lineOf, stateOfRow } from "../../probes/browser/js/diagnostics-words.js";
import { ProbeApi } from "../../probes/browser/js/probe-api.js";
import { ProbeClient } from "../../probes/browser/js/probe-client.js";
import { ProbeError } from "../../probes/browser/js/settle.js";
import { verdictOf } from "../../probes/browser/js/verdict.js";
import { fakeDeployment, fakeRtc } from "./probe-fakes.js";

const REGIONS = { turn_regions: ["us", "eu"], turn_region: "eu" };

/** Relays in two regions; one of `broken` cannot be reached. */
function twoRegions({ broken = [], session = {} } = {}) {
  const deployment = fakeDeployment({ session: { ...REGIONS, limits: { peers: 0 }, ...session } });
  const asked = [];
  const fetch = async (url, request) => {
    if (url.endsWith("/log")) return new Response(null, { status: 204 });
    const answer = await deployment.fetch(url, request);
    if (!url.endsWith("/sessions")) return answer;
    const { region } = JSON.parse(request.body ?? "{}");
    asked.push(region ?? null);
    return new Response((await answer.text()).replaceAll("relay.example", `${region ?? "eu"}.example`));
  };
  const made = [];
  class Rtc extends fakeRtc({}) {
    constructor(configuration) {
      super(configuration);
      const [{ urls: [url] }] = configuration.iceServers;
      made.push(url);
      if (broken.some((region) => url.includes(`${region}.example`))) throw new ProbeError("unreachable");
    }
  }
  return { fetch, asked, made, Rtc };
}

const clientOf = ({ fetch, Rtc }) => new ProbeClient({ baseUrl: "http://parley.test", fetch, RTCPeerConnection: Rtc });

test("the relays of one region are tested by its name", async () => {
  const world = twoRegions();
  const client = clientOf(world);
  const found = await client.testNetworkConnectivity(null, { region: "us", transports: ["udp"] });
  assert.deepEqual([found.result, found.region, found.transports[0].region], ["passed", "us", "us"]);
  assert.equal(found.transports[0].target, "us.example:3478");
  assert.ok(world.made.length && world.made.every((url) => url.includes("us.example")));
  await client.testNetworkConnectivity(null, { region: "us", transports: ["tcp"] });
  assert.deepEqual(world.asked, [null, "us"], "a session is used again");
});

test("a region that is none has no relays, and one where nothing is offered is no fault", async () => {
  const world = twoRegions();
  const found = await clientOf(world).testNetworkConnectivity(null, { region: "nowhere" });
  assert.deepEqual([found.result, found.reason, found.region], ["failed", "not_offered", "nowhere"]);
  assert.deepEqual([...new Set(found.transports.map(({ state }) => state))], ["skipped"]);
  assert.deepEqual([world.made, world.asked], [[], [null]]);
});

test("a server with relays that gives no credentials is to blame", async () => {
  const world = twoRegions({ session: { ice_servers: { udp: [], tcp: [], tls: [] } } });
  const client = clientOf(world);
  const found = await client.testNetworkConnectivity();
  assert.deepEqual([found.result, found.reason], ["failed", "no_credentials"]);
  assert.match(found.verdict.text, /does not accept/);
  await client.testNetworkConnectivity();
  assert.equal(world.asked.length, 2, "the next test asks anew");
});

async function pageIn(world) {
  const api = new ProbeApi({ baseUrl: "http://parley.test", fetch: world.fetch });
  const platform = {
    RTCPeerConnection: world.Rtc, WebSocket: class { constructor() { throw new Error("none"); } },
    mediaDevices: undefined, syntheticMedia: () => null, isHidden: () => false, browser: "Test",
  };
  const rows = new Map();
  const run = new DiagnosticsRun(api, platform, { onRow: (row, findings) => rows.set(row, findings), onSecond: () => {} });
  return { run, rows };
}

test("the page tests the relays of each region, nearest first", async () => {
  const world = twoRegions({ broken: ["us"] });
  const { run, rows } = await pageIn(world);
  const { findings } = await run.go({ openDevices: false });
  assert.deepEqual(rows.get("turn-udp").map(({ region, state, reason }) => [region, state, reason]), [
    ["eu", "passed", ""], ["us", "failed", "unreachable"],
  ]);
  assert.deepEqual(rows.get("turn-tls").map(({ state }) => state), ["skipped", "skipped"]);
  const relays = findings.filter(({ name }) => name === "turn");
  assert.equal(verdictOf(relays).text, "Calls work from here, but not the relay of every region: us.");
  assert.match(lineOf("turn-udp", rows.get("turn-udp")), /^Works in 1 of 2 regions, in .+, but not in us \(nothing answers\)\.$/);
});

test("one region is not named, and a run that is stopped leaves none waiting", async () => {
  const one = await pageIn(twoRegions({ session: { turn_regions: ["eu"] } }));
  await one.run.go({ openDevices: false });
  assert.deepEqual(one.rows.get("turn-udp").map(({ region, state }) => [region, state]), [[null, "passed"]]);

  const { run, rows } = await pageIn(twoRegions());
  const going = run.go({ openDevices: false });
  while (!rows.has("turn-udp")) await new Promise((resolve) => setTimeout(resolve, 1));
  run.stop();
  const { findings } = await going;
  assert.equal(verdictOf(findings).state, "aborted");
  assert.deepEqual(rows.get("turn-udp").map(({ region, state }) => [region, state]), [["eu", "aborted"], ["us", "aborted"]]);
});

test("several regions in one line", () => {
  const relay = (region, state, reason = "", figures = {}) => ({ name: "turn", transport: "udp", region, state, reason, figures });
  const good = { sent: 50, received: 50, round_trip_ms: 20 };
  const of = (...findings) => lineOf("turn-udp", findings);
  assert.equal(of(relay("eu", "passed", "", good), relay("us", "passed", "", { ...good, round_trip_ms: 90 })), "Works in both regions, the nearest in 20 ms.");
  assert.equal(of(...["a", "b", "c"].map((name) => relay(name, "passed", "", good))), "Works in all 3 regions, the nearest in 20 ms.");
  assert.equal(of(relay("eu", "failed", "unreachable"), relay("us", "failed", "unreachable")), "Works in none of 2 regions: nothing answers.");
  const lossy = relay("us", "warning", "packet_loss", { sent: 50, received: 40, round_trip_ms: 30 });
  assert.equal(of(relay("eu", "passed", "", good), lossy), "Works in both regions, the nearest in 20 ms, but in us only 40 of 50 packets came through.");
  assert.equal(of(relay("eu", "skipped", "not_offered"), relay("us", "skipped", "not_offered")), "Not offered by this server.");
  assert.equal(of(relay("eu", "passed", "", good), relay("us", "skipped", "not_offered")), "Works in 1 of 2 regions, in 20 ms.");
  assert.equal(of(relay("eu", "running"), relay("us", "waiting")), "");
  assert.equal(stateOfRow([relay("eu", "passed"), relay("us", "failed")]), "warning");
});
