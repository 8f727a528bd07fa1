import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { mock, test } from "node:test";

import { figuresOf, lossRatio } from "../../probes/browser/js/connection-figures.js";
import * as probes from "../../probes/browser/js/parley-probes.js";
import { ProbeClient } from "../../probes/browser/js/probe-client.js";
import { targetOf } from "../../probes/browser/js/relay-check.js";
import { FakeTrack, fakeDeployment, fakeRtc, fakeSocket } from "./probe-fakes.js";

function clientIn(world, deployment = fakeDeployment(world)) {
  const Rtc = fakeRtc(world);
  const client = new ProbeClient({ baseUrl: "http://parley.test/", fetch: deployment.fetch, RTCPeerConnection: Rtc });
  return { client, Rtc, deployment };
}

/** Runs a test that waits, with a clock that does not. */
async function fast(begin) {
  mock.timers.enable({ apis: ["setTimeout", "setInterval"] });
  const clock = mock.method(performance, "now", () => passed);
  let passed = 1000;
  try {
    let isDone = false;
    const found = begin().finally(() => (isDone = true));
    for (let step = 0; !isDone && step < 20_000; step++) {
      for (let turn = 0; turn < 10; turn++) await Promise.resolve();
      await new Promise((resolve) => setImmediate(resolve));
      passed += 10;
      mock.timers.tick(10);
    }
    return await found;
  } finally {
    clock.mock.restore();
    mock.timers.reset();
  }
}

const network = (world, options) => {
  const made = clientIn(world);
  return fast(() => made.client.testNetworkConnectivity(null, options)).then((result) => ({ ...made, result, udp: result.transports[0] }));
};

test("packets there and back pass, and everything is closed", async () => {
  const { result, udp, Rtc, deployment } = await network({});
  assert.deepEqual([result.result, result.reason, result.region, result.server], ["passed", "", "eu", "http://parley.test"]);
  assert.deepEqual([udp.state, udp.via, udp.sent, udp.received, udp.lossRatio], ["passed", "loop", 50, 50, 0]);
  assert.deepEqual(result.transports.map(({ state }) => state), ["passed", "skipped", "skipped"]);
  assert.deepEqual([Rtc.all.length, Rtc.open], [2, 0]);
  // The listener for the echo stays with the end that is closed.
  assert.ok(Rtc.all.every(({ listeners }) => listeners <= 1));
  assert.equal(Rtc.all[0].configuration.iceTransportPolicy, "relay");
  assert.equal(deployment.asked("GET /v1/probes/ping"), 1);
  assert.deepEqual(result.checks, result.transports);
});

test("what gets lost with all transports at once is tried alone, and what is better counts", async () => {
  const drop = (number, pc) => pc.number === 1 && number % 4 === 0;
  const narrow = await network({ offered: ["udp", "tcp", "tls"], drop });
  assert.deepEqual([narrow.result.reason, narrow.udp.state, narrow.udp.received], ["", "passed", 50]);
  assert.deepEqual([narrow.Rtc.all.length, narrow.Rtc.open], [8, 0]);
  const worse = await network({ drop: (number, pc) => number % (pc.number > 2 ? 2 : 4) === 0 });
  assert.deepEqual([worse.udp.reason, worse.udp.received], ["packet_loss", 37]);
});

for (const [name, world, expected] of [
  ["nothing answers", { candidates: 0, isEndless: true }, ["failed", "unreachable"]],
  ["nothing answers, and the browser says so", { candidates: 0, codes: [701] }, ["failed", "unreachable"]],
  ["the credential is wrong", { candidates: 0, codes: [701, 401] }, ["failed", "credential_rejected"]],
  ["the quota is used up", { candidates: 0, codes: [486] }, ["failed", "allocation_quota"]],
  ["the relay refuses itself", { loop: "fail" }, ["warning", "hairpin"]],
  ["the loop fails where packets get lost", { loop: "fail", drop: (number) => number % 5 === 0 }, ["warning", "packet_loss"]],
  ["the relay refuses everybody", { loop: "fail", server: "fail" }, ["failed", "peer_denied"]],
  ["the relay refuses itself, and there is no peer", { loop: "fail", peers: 0 }, ["failed", "peer_denied"]],
  ["the relay is silent", { loop: "silent", server: "silent" }, ["failed", "relay_silent"]],
  ["an older browser's state", { loop: "fail", server: "fail", hasNoConnectionState: true }, ["failed", "peer_denied"]],
  ["the relay takes packets and brings none", { drop: () => true }, ["failed", "relay_silent"]],
  ["every tenth packet is lost", { drop: (number) => number % 10 === 0 }, ["warning", "packet_loss"]],
  ["a lost packet in fifty is none", { drop: (number) => number === 7 }, ["passed", ""]],
]) {
  test(`relay: ${name}`, async () => {
    const { result, udp, Rtc, deployment } = await network(world);
    assert.deepEqual([udp.state, udp.reason], expected);
    assert.equal(result.result, expected[0] === "failed" ? "failed" : "passed");
    assert.equal(result.reason, expected[1]);
    assert.equal(Rtc.open, 0);
    assert.equal(deployment.asked("DELETE /v1/probes/peers/peer"), deployment.asked("POST /v1/probes/peers"));
    assert.ok(result.durationMs < 30_000);
  });
}

test("a credential that is over by the server's clock is expired, whatever this clock says", async () => {
  const past = { urls: ["turn:r"], username: "1000:x", credential: "c" };
  const session = { now: 2000, expires_at: 2300, ice_servers: { udp: [past], tcp: [], tls: [] } };
  const { result } = await network({ candidates: 0, codes: [401], session });
  assert.equal(result.reason, "credential_expired");
});

test("a session is used again, but not after its credential was refused", async () => {
  const world = {};
  const { client, deployment } = clientIn(world);
  const run = () => fast(() => client.testNetworkConnectivity());
  await run();
  await run();
  assert.equal(deployment.asked("POST /v1/probes/sessions"), 1);
  Object.assign(world, { candidates: 0, codes: [401] });
  await run();
  await run();
  assert.equal(deployment.asked("POST /v1/probes/sessions"), 2);
});

test("a session is not used again after the computer slept, though its steady clock stood still", async () => {
  const { client, deployment } = clientIn({});
  await fast(() => client.testNetworkConnectivity());
  const began = Date.now();
  const wall = mock.method(Date, "now", () => began + 270_000);
  await fast(() => client.testNetworkConnectivity());
  wall.mock.restore();
  assert.equal(deployment.asked("POST /v1/probes/sessions"), 2);
});

test("a server peer that comes after an abort is ended", async () => {
  const deployment = fakeDeployment();
  let late = null;
  const slow = (url, request) => {
    if (!url.endsWith("/peers")) return deployment.fetch(url, request);
    client.stopTestCallQuality();
    return new Promise((resolve) => (late = () => resolve(deployment.fetch(url, request))));
  };
  const Rtc = fakeRtc();
  const client = new ProbeClient({ baseUrl: "http://parley.test", fetch: slow, RTCPeerConnection: Rtc });
  const { result } = await fast(() => client.testCallQuality({ videoTrack: new FakeTrack() }));
  assert.deepEqual([result, Rtc.open, deployment.asked("DELETE /v1/probes/peers/peer")], ["aborted", 0, 0]);
  late();
  for (let turn = 0; turn < 5; turn++) await new Promise((resolve) => setImmediate(resolve));
  const [ended] = deployment.requests.filter(({ what }) => what === "DELETE /v1/probes/peers/peer");
  assert.equal(ended.headers.Authorization, "Bearer t");
});

for (const [status, reason] of [["down", "unreachable"], [429, "rate_limited"], [500, "http_status"]]) {
  test(`no session: ${reason}`, async () => {
    const { result, Rtc } = await network({ fail: { "POST /v1/probes/sessions": status } });
    assert.deepEqual([result.result, result.reason, result.transports], ["failed", reason, []]);
    assert.equal(result.verdict.state, "failed");
    assert.equal(Rtc.all.length, 0);
  });
}

test("a relay that outlives its server carries packets, and the verdict says what is wrong", async () => {
  const fail = { "GET /v1/probes/ping": "down" };
  const { client, result, udp } = await network({ fail });
  assert.deepEqual([result.result, result.reason, udp.state, result.verdict.state], ["passed", "server_gone", "passed", "failed"]);
  assert.match(result.verdict.text, /stopped answering/);
  assert.deepEqual(result.checks.at(-1), { name: "api", state: "failed", reason: "server_gone", target: "parley.test:80" });
  assert.deepEqual(probes.verdictOf(result.checks), result.verdict);
  fail["POST /v1/probes/sessions"] = "down";
  const again = await fast(() => client.testNetworkConnectivity());
  assert.deepEqual([again.result, again.reason, again.checks.length], ["failed", "unreachable", 1]);
});

test("a refused credential is told at once, though gathering never ends", async () => {
  const url = "turn:relay.example:3478?transport=udp";
  const refused = await network({ candidates: 0, codes: [401], url, isEndless: true });
  assert.deepEqual([refused.result.reason, refused.result.durationMs < 500], ["credential_rejected", true]);
  const partly = await network({ candidates: 0, codes: [701], url, isEndless: true });
  assert.deepEqual([partly.result.reason, partly.result.durationMs >= 5000], ["unreachable", true]);
});

test("a relay that is silent together with its server is gone", async () => {
  const { result } = await network({ drop: (number) => number > 10, fail: { "GET /v1/probes/ping": "down" } });
  assert.deepEqual([result.result, result.reason], ["failed", "server_gone"]);
});

test("one test at a time, once settled, with one event each", async () => {
  const { client } = clientIn({});
  const events = [];
  const off = ({ test }) => events.push(`never ${test}`);
  client.on("test-completed", ({ test, results }) => events.push(`${test} ${results.result}`)).on("test-completed", off).off("test-completed", off);
  client.once("test-completed", () => { throw new Error("a listener of the user's"); });
  const reported = mock.method(console, "error", () => {});
  await fast(async () => {
    const first = client.testNetworkConnectivity();
    await assert.rejects(client.testNetworkConnectivity(), /testNetworkConnectivity is running/);
    client.abortTestNetworkConnectivity();
    client.abortTestNetworkConnectivity();
    assert.equal((await first).result, "aborted");
    client.abortTestNetworkConnectivity();
    assert.equal((await client.testNetworkConnectivity()).result, "passed");
  });
  assert.equal(reported.mock.callCount(), 1);
  reported.mock.restore();
  assert.deepEqual(events, ["network-connectivity aborted", "network-connectivity passed"]);
});

test("only a live video track is a video track", async () => {
  const { client, Rtc } = clientIn({});
  const ended = Object.assign(new FakeTrack(), { readyState: "ended" });
  const sound = Object.assign(new FakeTrack(), { kind: "audio" });
  for (const wrong of [{}, "track", 7, ended, sound]) {
    await assert.rejects(client.testNetworkConnectivity(wrong), { message: "Video track error" });
    await assert.rejects(client.testPeerToPeerCallQuality({ videoTrack: wrong }), { message: "Video track error" });
  }
  await assert.rejects(client.testPeerToPeerCallQuality(), { message: "Video track error" });
  const track = new FakeTrack();
  assert.equal((await fast(() => client.testNetworkConnectivity(track))).result, "passed");
  assert.deepEqual([track.readyState, Rtc.all[0].transceivers[0].sendEncodings], ["live", [{ active: false }]]);
});

test("without WebRTC there is a reason", async () => {
  const client = new ProbeClient({ baseUrl: "http://parley.test", fetch: fakeDeployment().fetch });
  assert.equal((await client.testNetworkConnectivity()).reason, "unsupported");
});

test("a way that is too long to go twice is no relay that refuses itself", async () => {
  const { udp } = await network({ loop: "silent", delayMs: 400 });
  assert.deepEqual([udp.state, udp.reason, udp.via, udp.received], ["passed", "", "server", 10]);
  const { udp: near } = await network({ loop: "silent" });
  assert.deepEqual([near.state, near.reason], ["warning", "hairpin"]);
});

test("the time is over at each step", async () => {
  for (const [world, timeoutMs] of [[{ candidates: 0, isEndless: true }, 1000], [{ loop: "silent", server: "silent" }, 8000], [{}, 500]]) {
    const { result, Rtc } = await network(world, { timeoutMs });
    assert.deepEqual([result.result, result.reason, Rtc.open], ["failed", "timeout", 0]);
  }
});

// Quality ----------------------------------------------------------------------------------------

/** Counters that grow by the clock: bytes and packets of a video at that rate. */
const flowing = ({ bps = 2_000_000, loss = 0, trip = 0.05, until = Infinity, limitedBy = "none", queue = 0 }) => ({ number }) => {
  const seconds = Math.min((performance.now() - 1000) / 1000, until);
  const [bytes, packets] = [(bps / 8) * seconds, 200 * seconds];
  const isSender = number % 2 === 1;
  return {
    T: { type: "transport", id: "T", selectedCandidatePairId: "P" },
    P: { type: "candidate-pair", id: "P", currentRoundTripTime: seconds > 0.5 ? trip + queue : trip, availableOutgoingBitrate: limitedBy === "none" ? 3e6 : bps, bytesSent: bytes, bytesReceived: bytes },
    ...(isSender
      ? {
          O: { type: "outbound-rtp", id: "O", kind: "video", bytesSent: bytes, packetsSent: packets, qualityLimitationReason: limitedBy },
          R: { type: "remote-inbound-rtp", id: "R", kind: "video", packetsLost: loss * packets },
        }
      : { I: { type: "inbound-rtp", id: "I", kind: "video", bytesReceived: bytes, packetsReceived: (1 - loss) * packets, packetsLost: loss * packets } }),
  };
};
const quality = (flow, options = {}, test = "testPeerToPeerCallQuality") => {
  const made = clientIn({ stats: flowing(flow) });
  const videoTrack = new FakeTrack();
  return fast(() => made.client[test]({ videoTrack, duration: 5, ...options })).then((result) => ({ ...made, result, videoTrack }));
};

for (const [name, flow, expected] of [
  ["a good line", {}, ["good", ""]],
  ["a picture that needs little", { bps: 400_000 }, ["good", ""]],
  ["a narrow line", { bps: 900_000, limitedBy: "bandwidth" }, ["warning", "bandwidth_too_low"]],
  ["a very narrow line", { bps: 250_000, limitedBy: "bandwidth" }, ["bad", "bandwidth_too_low"]],
  ["some loss", { loss: 0.07 }, ["warning", "high_loss"]],
  ["a queue that is full from the first second on", { loss: 0.07, bps: 250_000, limitedBy: "bandwidth", queue: 0.2 }, ["bad", "bandwidth_too_low"]],
  ["a sender that slows down because of loss", { loss: 0.07, bps: 250_000, limitedBy: "bandwidth" }, ["bad", "high_loss"]],
  ["much loss", { loss: 0.2 }, ["bad", "high_loss"]],
  ["a way of less than a millisecond", { trip: 0 }, ["good", ""]],
  ["a long way", { trip: 0.4 }, ["warning", "high_delay"]],
  ["a very long way", { trip: 0.7 }, ["bad", "high_delay"]],
]) {
  for (const method of ["testPeerToPeerCallQuality", "testCallQuality"]) {
    test(`${method}: ${name}`, async () => {
      const { result, Rtc, videoTrack } = await quality(flow, {}, method);
      assert.deepEqual([result.result, result.reason], expected);
      assert.ok(Math.abs(result.secondsElapsed - 5) < 0.2);
      assert.equal(result.data.maxRoundTripTime.toFixed(6), ((flow.trip ?? 0.05) + (flow.queue ?? 0)).toFixed(6));
      assert.deepEqual([Rtc.open, videoTrack.readyState], [0, "live"]);
    });
  }
}

const LITTLE = [
  ["candidate pairs", ({ type }) => type === "candidate-pair" || type === "transport"],
  ["the other end's reports", ({ type }) => type === "remote-inbound-rtp"],
];
for (const [what, isUntold] of [...LITTLE, ["either", (entry) => LITTLE.some(([, is]) => is(entry))]]) {
  for (const method of ["testPeerToPeerCallQuality", "testCallQuality"]) {
    test(`${method} in a browser that does not tell ${what}`, async () => {
      const all = flowing({});
      const stats = (pc) => Object.fromEntries(Object.entries(all(pc)).filter(([, entry]) => !isUntold(entry)));
      const { client, Rtc } = clientIn({ stats });
      const asked = [];
      const onProgress = () => asked.push(client.getNetworkStats());
      const result = await fast(() => client[method]({ videoTrack: new FakeTrack(), duration: 3, onProgress }));
      assert.deepEqual([result.result, result.reason, Rtc.open], ["good", "", 0]);
      assert.ok(Object.values(result.data).every((value) => value === null || Number.isFinite(value)));
      assert.ok(["good", "unknown"].includes((await asked.at(-1)).networkState));
    });
  }
}

for (const [allowedBps, expected] of [[2_000_000, ["good", ""]], [900_000, ["warning", "bandwidth_too_low"]], [400_000, ["bad", "bandwidth_too_low"]]]) {
  test(`a picture that needs little in a browser that tells only what its encoder may use: ${allowedBps} bit/s`, async () => {
    const all = flowing({ bps: 240_000 });
    const stats = (pc) => {
      const { P: { availableOutgoingBitrate: _, ...P }, O: { qualityLimitationReason: __, ...O } = {}, ...rest } = all(pc);
      const allowed = (allowedBps / 8) * ((performance.now() - 1000) / 1000);
      return { ...rest, P, ...(O.id ? { O: { ...O, totalEncodedBytesTarget: 1 + allowed } } : {}) };
    };
    const { client } = clientIn({ stats });
    const found = await fast(() => client.testPeerToPeerCallQuality({ videoTrack: new FakeTrack(), duration: 4 }));
    assert.deepEqual([found.result, found.reason], expected);
    assert.ok(Math.abs(found.data.avgAvailableOutgoingBitrate - allowedBps) < 1);
  });
}

for (const [what, entries, expected] of [
  ["nothing of what was sent", { P: { type: "candidate-pair", nominated: true, state: "succeeded", currentRoundTripTime: 0.05 } }, ["good", ""]],
  ["nothing", {}, ["failed", "unsupported"]],
]) {
  test(`testCallQuality: a browser that tells ${what} does not look silent`, async () => {
    const { client } = clientIn({ stats: () => entries });
    const { result, reason, secondsElapsed } = await fast(() => client.testCallQuality({ videoTrack: new FakeTrack(), duration: 6 }));
    assert.deepEqual([result, reason, secondsElapsed], [...expected, 6]);
  });
}

for (const [what, world, transport, tried] of [
  ["UDP alone", {}, "udp", ["udp"]],
  ["TCP where UDP is blocked", { blocks: ["udp"] }, "tcp", ["udp", "tcp"]],
  ["TLS where the others are", { blocks: ["udp", "tcp"] }, "tls", ["udp", "tcp", "tls"]],
]) {
  test(`testCallQuality goes over ${what}`, async () => {
    const stats = () => flowing({})({ number: 1 });
    const { client, Rtc, deployment } = clientIn({ stats, offered: ["udp", "tcp", "tls"], ...world });
    const found = await fast(() => client.testCallQuality({ videoTrack: new FakeTrack(), duration: 2 }));
    assert.deepEqual([found.result, found.transport, Rtc.open], ["good", transport, 0]);
    assert.deepEqual(Rtc.all.map(({ configuration }) => configuration.iceServers[0].urls[0].split("=")[1]), tried);
    assert.equal(deployment.asked("POST /v1/probes/peers"), 1);
  });
}

for (const [what, world, reason, peers] of [
  ["every transport is blocked", { blocks: ["udp", "tcp", "tls"] }, "unreachable", 0],
  ["UDP is blocked, and the relay refuses peers", { blocks: ["udp"], server: "fail" }, "peer_denied", 2],
  ["the server has no peer to spare", { fail: { "POST /v1/probes/peers": 503 } }, "http_status", 1],
]) {
  test(`testCallQuality: ${what}`, async () => {
    const { client, Rtc, deployment } = clientIn({ offered: ["udp", "tcp", "tls"], ...world });
    const found = await fast(() => client.testCallQuality({ videoTrack: new FakeTrack() }));
    assert.deepEqual([found.result, found.reason, Rtc.open], ["failed", reason, 0]);
    assert.equal(deployment.asked("POST /v1/probes/peers"), peers);
  });
}

test("a connection that falls silent ends the test", async () => {
  const { result } = await quality({ until: 2 }, { duration: 20 });
  assert.deepEqual([result.result, result.reason, result.errorMsg], ["failed", "relay_silent", "The relay carries nothing."]);
  assert.ok(result.secondsElapsed < 10);
});

test("a track that ends, ends the test", async () => {
  const videoTrack = new FakeTrack();
  const onProgress = ({ secondsElapsed }) => secondsElapsed === 2 && videoTrack.dispatchEvent(new Event("ended"));
  const { result, Rtc } = await quality({}, { videoTrack, duration: 20, onProgress });
  assert.deepEqual([result.result, result.reason, Rtc.open, result.secondsElapsed], ["failed", "no_camera", 0, 2]);
});

test("a track that its owner stops, before or meanwhile, ends the test", async () => {
  for (const stopAt of [0, 2]) {
    const videoTrack = new FakeTrack();
    const { client } = clientIn({ stats: flowing({ until: stopAt }) });
    const { result, reason } = await fast(() => {
      const running = client.testPeerToPeerCallQuality({ videoTrack, duration: 20, onProgress: ({ secondsElapsed }) => secondsElapsed === stopAt && videoTrack.stop() });
      if (!stopAt) videoTrack.stop();
      return running;
    });
    assert.deepEqual([result, reason], ["failed", "no_camera"]);
  }
});

test("stopped, a test tells what it knows; aborted, that it was", async () => {
  const { client } = clientIn({ stats: flowing({}) });
  const ended = new AbortController();
  const [stopped, aborted] = await fast(async () => {
    const videoTrack = new FakeTrack();
    const stop = () => client.stopTestPeerToPeerCallQuality();
    return [
      await client.testPeerToPeerCallQuality({ videoTrack, onProgress: ({ secondsElapsed }) => secondsElapsed === 2 && stop() }),
      await client.testPeerToPeerCallQuality({ videoTrack, signal: ended.signal, onProgress: () => ended.abort() }),
    ];
  });
  assert.deepEqual([stopped.result, stopped.secondsElapsed], ["good", 2]);
  assert.deepEqual([aborted.result, aborted.reason, aborted.data.avgRecvPacketLoss], ["aborted", "aborted", 0]);
});

test("the statistics of the test that runs, and of any connection", async () => {
  const { client, Rtc } = clientIn({ stats: flowing({ loss: 0.07 }) });
  const asked = [];
  await fast(() => client.testPeerToPeerCallQuality({ videoTrack: new FakeTrack(), duration: 3, onProgress: () => asked.push(client.getNetworkStats()) }));
  const [first, , last] = await Promise.all(asked);
  assert.equal(first.networkState, "unknown");
  assert.deepEqual([last.networkState, last.networkStateReasons, last.threshold], ["warning", ["sendPacketLoss"], "low"]);
  assert.equal(Math.round(last.stats.latest.videoSendBitsPerSecond), 2_000_000);
  assert.equal(last.stats.latest.audioSendBitsPerSecond, null);
  assert.deepEqual(await client.getNetworkStats(), { networkState: "unknown", networkStateReasons: [], stats: {}, threshold: "good", quality: 100 });
  const other = new Rtc({});
  assert.equal((await client.getNetworkStats(other)).networkState, "unknown");
});

test("Daily's older quality test tells the same in fewer words", async () => {
  const { result } = await quality({ loss: 0.07, trip: 0.125 }, {}, "testConnectionQuality");
  assert.deepEqual([result.result, result.data.maxRTT, result.data.packetLoss.toFixed(3)], ["warning", 0.125, "0.070"]);
  const { client } = clientIn({});
  const aborted = await fast(() => {
    const running = client.testConnectionQuality({ videoTrack: new FakeTrack() });
    client.stopTestConnectionQuality();
    return running;
  });
  assert.deepEqual([aborted.result, aborted.data], ["aborted", { maxRTT: null, packetLoss: null }]);
});

// One after the other ----------------------------------------------------------------------------

test("tests that fill the line wait for each other, and their time begins after that", async () => {
  const { client, Rtc } = clientIn({ stats: flowing({}) });
  const ends = [];
  client.on("test-completed", ({ test }) => ends.push(test));
  const videoTrack = new FakeTrack();
  const [quality, network, call] = await fast(() => Promise.all([
    client.testPeerToPeerCallQuality({ videoTrack, duration: 30 }),
    client.testNetworkConnectivity(),
    client.testCallQuality({ videoTrack, duration: 2 }),
  ]));
  assert.deepEqual([quality.result, network.result, call.result], ["good", "passed", "good"]);
  assert.ok(network.durationMs < 3000);
  assert.deepEqual(ends, ["p2p-call-quality", "network-connectivity", "call-quality"]);
  assert.equal(Rtc.open, 0);
});

test("a test that waits can be ended, and holds nobody up", async () => {
  const { client } = clientIn({ stats: flowing({}) });
  const gone = new AbortController();
  const videoTrack = new FakeTrack();
  const [quality, network, call] = await fast(() => {
    const running = [
      client.testPeerToPeerCallQuality({ videoTrack, duration: 5 }),
      client.testNetworkConnectivity(null, { signal: gone.signal }),
      client.testCallQuality({ videoTrack, duration: 2 }),
    ];
    gone.abort();
    return Promise.all(running);
  });
  assert.deepEqual([quality.result, network.result, network.transports, call.result], ["good", "aborted", [], "good"]);
});

// The call object --------------------------------------------------------------------------------

/** Devices of which some can be opened; `error` is what the others say. */
function fakeDevices(there, error = "NotFoundError") {
  const tracks = [];
  const getUserMedia = async (wish) => {
    const kinds = ["video", "audio"].filter((kind) => wish[kind]);
    if (!kinds.every((kind) => there.includes(kind))) throw new DOMException("no", error);
    const opened = kinds.map((kind) => Object.assign(new FakeTrack(), { kind, label: kind, getSettings: () => ({ deviceId: `id of ${kind}` }) }));
    tracks.push(...opened);
    return { getTracks: () => opened, getVideoTracks: () => opened.filter(({ kind }) => kind === "video") };
  };
  return { getUserMedia, tracks };
}
function callObject(devices, world = {}) {
  const deployment = fakeDeployment();
  const call = ProbeClient.createCallObject({ baseUrl: "http://parley.test", fetch: deployment.fetch, RTCPeerConnection: fakeRtc(world), mediaDevices: devices });
  const events = [];
  for (const name of ["track-started", "track-stopped", "camera-error"]) call.on(name, (event) => events.push(event));
  return { call, events, told: () => events.map(({ action, type, error }) => `${action} ${type ?? error.type}`) };
}

test("a call object opens camera and microphone, and tells of each", async () => {
  const devices = fakeDevices(["video", "audio"]);
  const { call, events, told } = callObject(devices, { stats: flowing({}) });
  assert.equal(ProbeClient.getCallInstance(), call);
  assert.deepEqual(call.participants().local.tracks, { video: { state: "off" }, audio: { state: "off" } });
  const { camera, mic, speaker } = await call.startCamera();
  assert.deepEqual([camera, mic, speaker], [{ deviceId: "id of video", label: "video" }, { deviceId: "id of audio", label: "audio" }, {}]);
  const { local } = call.participants();
  const track = local.tracks.video.persistentTrack;
  assert.deepEqual([events[0].track, events[0].participant.session_id, local.video, local.tracks.video.state], [track, local.session_id, true, "playable"]);
  assert.equal((await fast(() => call.testCallQuality({ duration: 1 }))).result, "good");
  assert.deepEqual([devices.tracks.length, track.readyState], [2, "live"]);
  await call.startCamera();
  assert.equal(call.setLocalVideo(false).setLocalAudio(false).setLocalAudio(true), call);
  devices.tracks[1].dispatchEvent(new Event("ended"));
  await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual([track.readyState, call.participants().local.video], ["ended", false]);
  await call.destroy();
  assert.equal(ProbeClient.getCallInstance(), undefined);
  assert.ok(devices.tracks.every(({ readyState }) => readyState === "ended"));
  assert.deepEqual(told(), ["track-started video", "track-started audio", "track-stopped video", "track-stopped audio", "track-started audio", "track-stopped audio"]);
});

for (const [what, devices, error, opened] of [
  ["a camera without a microphone", fakeDevices(["video"]), "not-found", ["track-started video"]],
  ["a permission that is refused", fakeDevices(["video"], "NotAllowedError"), "permissions", []],
  ["a page that may not ask", undefined, "undefined-mediadevices", []],
  ["devices that others have", fakeDevices([], "NotReadableError"), "cam-mic-in-use", []],
  ["an error nobody knows", fakeDevices([], "AbortError"), "unknown", []],
]) {
  test(`a call object: ${what}`, async () => {
    const { call, events, told } = callObject(devices);
    const { camera, mic } = await call.startCamera();
    assert.deepEqual(told(), [...opened, `camera-error ${error}`]);
    const isOpen = opened.length > 0;
    assert.deepEqual([Object.keys(camera).length > 0, mic, events.at(-1).errorMsg.videoOk], [isOpen, {}, isOpen]);
    const { video, audio } = call.participants().local.tracks;
    assert.deepEqual([video.state, audio.state], [isOpen ? "playable" : "blocked", "blocked"]);
    await call.destroy();
  });
}

test("a permission that comes after the end leaves no camera on", async () => {
  const devices = fakeDevices(["video", "audio"]);
  const { call, told } = callObject(devices);
  const starting = call.startCamera({ startAudioOff: true });
  await call.destroy();
  await starting;
  assert.deepEqual([devices.tracks.map(({ readyState }) => readyState), told()], [["ended"], []]);
});

// WebSockets -------------------------------------------------------------------------------------

const answering = (changes = {}) => (socket, frame) => {
  if (!frame) {
    socket.up();
    socket.say({ type: "hello", nonce: "", region: "eu", node: "n1" });
  } else if (frame.type === "hello") socket.say({ type: "hello", nonce: frame.nonce, region: "eu", node: "n1", ...changes });
  else if (frame.type === "ping") socket.say({ type: "pong", seq: frame.seq });
};
const sockets = async (behave, { deployment = fakeDeployment(), ...options } = {}) => {
  const Socket = fakeSocket(behave);
  const client = new ProbeClient({ baseUrl: "http://parley.test", fetch: deployment.fetch, WebSocket: Socket });
  const result = await fast(() => client.testWebsocketConnectivity(options));
  assert.equal(Socket.open, 0);
  return result;
};

for (const [name, behave, expected, fail] of [
  ["answers", answering(), ""],
  ["is another region", answering({ region: "us" }), "wrong_region"],
  ["is something else", answering({ nonce: "stale" }), "wrong_nonce"],
  ["never repeats the nonce", answering({ nonce: "" }), "wrong_nonce"],
  ["talks something else", (socket, frame) => (frame ? socket.say("HTTP") : socket.up()), "wrong_nonce"],
  ["opens and is silent", (socket, frame) => frame || socket.up(), "frames_blocked"],
  ["opens and closes", (socket, frame) => (frame ? socket.close() : socket.up()), "frames_blocked"],
  ["does not open, though HTTP does", (socket) => socket.close(), "upgrade_refused"],
  ["does not open at all", (socket) => socket.close(), "unreachable", { "GET /v1/probes/ping": "down" }],
  ["hangs", () => {}, "unreachable", { "GET /v1/probes/ping": "down" }],
  ["goes away", (socket, frame) => (frame?.type === "ping" ? socket.close() : answering()(socket, frame)), "server_gone", { "GET /v1/probes/ping": "down" }],
]) {
  test(`a region that ${name}`, async () => {
    const result = await sockets(behave, { deployment: fakeDeployment({ fail }) });
    assert.deepEqual([result.result, result.reason], [expected ? "failed" : "passed", expected]);
    assert.deepEqual(expected ? result.failedRegions : result.passedRegions, ["eu"]);
    assert.ok(result.durationMs < 15_000);
  });
}

test("some regions are a warning, none is a failure", async () => {
  const behave = (socket, frame) => (socket.url.includes("eu") ? answering()(socket, frame) : socket.close());
  const far = { id: "us", ws_url: "ws://us/ws", http_url: "http://us" };
  const some = await sockets(behave, { regions: ["eu", far, "mars"] });
  assert.deepEqual([some.result, some.passedRegions, some.failedRegions], ["warning", ["eu"], ["us", "mars"]]);
  assert.deepEqual(some.regions.map(({ reason }) => reason), ["", "upgrade_refused", "not_offered"]);
  const down = fakeDeployment({ fail: { "GET /v1/probes/regions": "down" } });
  const none = await sockets(behave, { deployment: down });
  assert.deepEqual([none.result, none.reason, none.regions], ["failed", "unreachable", []]);
  assert.deepEqual(none.checks, [{ name: "api", state: "failed", reason: "unreachable", target: "parley.test:80" }]);
});

test("when the list cannot be had, the regions of the last one are tested", async () => {
  const fail = {};
  const deployment = fakeDeployment({ fail });
  const far = [{ id: "us", ws_url: "ws://us/ws", http_url: "http://us" }, { id: "eu", ws_url: "ws://eu/ws", http_url: "http://parley.test" }];
  const fetched = async (url, request) => (url.endsWith("/v1/probes/regions") && !fail.down ? new Response(JSON.stringify({ regions: far })) : deployment.fetch(url, request));
  const Socket = fakeSocket((socket, frame) => (socket.url.includes("eu") && fail.down ? socket.close() : answering({ region: socket.url.slice(5, 7) })(socket, frame)));
  const client = new ProbeClient({ baseUrl: "http://parley.test", fetch: fetched, WebSocket: Socket });
  assert.equal((await fast(() => client.testWebsocketConnectivity())).result, "passed");
  Object.assign(fail, { down: true, "GET /v1/probes/regions": "down", "GET /v1/probes/ping": "down" });
  const { result, passedRegions, failedRegions, checks, regions } = await fast(() => client.testWebsocketConnectivity());
  assert.deepEqual([result, passedRegions, failedRegions, checks], ["warning", ["us"], ["eu"], regions]);
});

test("aborted, what is done is kept", async () => {
  const ended = new AbortController();
  const behave = (socket, frame) => (socket.url.includes("eu") ? answering()(socket, frame) : undefined);
  const far = { id: "us", ws_url: "ws://us/ws", http_url: "http://us" };
  const onProgress = ({ regions }) => regions.some(({ state }) => state === "passed") && ended.abort();
  const result = await sockets(behave, { regions: ["eu", far], signal: ended.signal, onProgress });
  assert.deepEqual([result.result, result.passedRegions, result.abortedRegions, result.failedRegions], ["aborted", ["eu"], ["us"], []]);
});

// Browsers that tell less ------------------------------------------------------------------------

test("Firefox's statistics: no transport, no estimate, older names", () => {
  const report = new Map(Object.entries({
    P: { type: "candidate-pair", id: "P", state: "succeeded", selected: true, nominated: true, bytesSent: 10, bytesReceived: 20 },
    Q: { type: "candidate-pair", id: "Q", state: "failed", bytesSent: 99 },
    O: { type: "outbound-rtp", id: "O", mediaType: "audio", bytesSent: 5, packetsSent: 2 },
    R: { type: "remote-inbound-rtp", id: "R", mediaType: "audio", packetsLost: 1, jitter: 0.01, roundTripTime: 0.08 },
    I: { type: "inbound-rtp", id: "I", kind: "video", bytesReceived: 7, packetsReceived: 3, jitter: 0.02 },
  }));
  const { audio, video, ...rest } = figuresOf(report, 1);
  assert.deepEqual(rest, { atMs: 1, bytesSent: 10, bytesReceived: 20, roundTripMs: 80, availableBps: null, allowedBytes: null, limitedBy: null });
  assert.deepEqual([audio.lostSent, audio.sendJitterS, video.lostSent, video.lostReceived], [1, 0.01, null, 0]);
  assert.deepEqual(figuresOf(new Map(), 0), { atMs: 0, bytesSent: 0, bytesReceived: 0, roundTripMs: null, availableBps: null, allowedBytes: null, limitedBy: null, audio: null, video: null });
});

test("what nobody tells is no loss", () => {
  assert.equal(lossRatio(null, 100, true), null);
  assert.equal(lossRatio(0, 0, false), null);
  assert.equal(lossRatio(-3, 10, false), 0);
  assert.equal(lossRatio(1, 9, false), 0.1);
  assert.equal(lossRatio(1, 10, true), 0.1);
});

test("the address of a relay", () => {
  for (const [url, target] of [
    ["turn:relay.example", "relay.example:3478"],
    ["turns:relay.example?transport=tcp", "relay.example:5349"],
    ["turn:192.0.2.1:443?transport=udp", "192.0.2.1:443"],
    ["turn:[2001:db8::1]", "[2001:db8::1]:3478"],
    ["turn:[2001:db8::1]:80", "[2001:db8::1]:80"],
  ]) {
    assert.equal(targetOf(url), target);
  }
});

test("the types declare exactly what the module exports", () => {
  const text = readFileSync(new URL("../../probes/browser/js/parley-probes.d.ts", import.meta.url), "utf8");
  const own = [...text.matchAll(/^export (?:class|function|const) (\w+)/gm)].map(([, name]) => name);
  const passedOn = [...text.matchAll(/^export \{(.*)\} from/gm)].flatMap(([, names]) => names.split(",").map((name) => name.trim().split(" as ").at(-1)));
  assert.deepEqual([...own, ...passedOn].sort(), Object.keys(probes).sort());
});

test("modules are short", () => {
  const folder = new URL("../../probes/browser/js/", import.meta.url);
  for (const name of readdirSync(folder).filter((one) => one.endsWith(".js"))) {
    const lines = readFileSync(new URL(name, folder), "utf8").split("\n").length;
    assert.ok(lines <= 400, `${name} has ${lines} lines`);
  }
});
