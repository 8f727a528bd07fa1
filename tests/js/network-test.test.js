import assert from "node:assert/strict";
import { mock, test } from "node:test";

import NetworkTest, { ErrorNames } from "../../probes/browser/js/parley-probes.js";
import { NetworkTestError } from "../../probes/browser/js/error-names.js";
import { FakeTrack, fakeDeployment, fakeRtc, fakeSocket } from "./probe-fakes.js";

const REGION = { id: "eu", ws_url: "ws://eu/ws", http_url: "http://parley.test" };
const SESSION = { apiKey: "AC1", sessionId: "http://parley.test/ignored", token: "good" };
/** Asks whether the token is good. */
const TOKEN = "DELETE /v1/probes/peers/none";
/** As much of OpenTok.js as is looked for. */
const OT = { initSession() {} };
const greeting = fakeSocket((socket, frame) => {
  if (frame === null) socket.up();
  else if (frame.type === "hello") socket.say({ type: "hello", nonce: frame.nonce, region: "eu", node: "n1" });
  else if (frame.type === "ping") socket.say({ type: "pong", seq: frame.seq });
});

/** Microphone and camera; `refuses` is the DOMException of getUserMedia. */
class FakeDevices {
  kinds = ["audioinput", "videoinput", "audiooutput"];
  refuses = null;
  /** The one that cannot be met. */
  constraint = "deviceId";
  isAnswered = true;
  asked = [];
  tracks = [];

  async enumerateDevices() {
    if (this.kinds === null) throw new Error("no");
    return this.kinds.map((kind) => ({ kind, deviceId: "" }));
  }

  getUserMedia(constraints) {
    this.asked.push(constraints);
    if (this.refuses) return Promise.reject(Object.assign(new DOMException("no", this.refuses), { constraint: this.constraint }));
    const stream = new FakeStream(["audio", "video"].filter((kind) => constraints[kind]));
    this.tracks.push(...stream.tracks);
    return new Promise((resolve) => (this.answer = () => resolve(stream)) && this.isAnswered && resolve(stream));
  }

  get live() {
    return this.tracks.filter(({ readyState }) => readyState === "live").length;
  }
}

class FakeStream {
  constructor(kinds) {
    this.tracks = kinds.map((kind) => Object.assign(new FakeTrack(), { kind }));
  }
  getTracks() {
    return [...this.tracks];
  }
  getVideoTracks() {
    return this.tracks.filter(({ kind }) => kind === "video");
  }
  removeTrack(track) {
    this.tracks = this.tracks.filter((one) => one !== track);
  }
}

/** Everything an instance touches; `link` says what a second of the stream is like. */
function scene({ world = {}, fail = {}, session = {}, link = {}, options = {}, sessionInfo = SESSION, Socket = greeting } = {}) {
  const stream = { audioBps: 40_000, videoBps: 1_500_000, loss: 0, lossThere: 0, availableBps: 3e6, stillAt: Infinity, ...link };
  const Base = fakeRtc({ stats: (pc) => pc.figures(), ...world });
  class Rtc extends Base {
    added = [];
    addTrack(track) {
      this.added.push(track.kind);
      return { getParameters: () => ({}), setParameters: async () => {} };
    }
    getSenders() {
      return this.added.map((kind) => ({ track: { kind, getSettings: () => ({ width: 1280, height: 720 }) } }));
    }
    getTransceivers() {
      return [{ currentDirection: world.answersNothing ? "sendonly" : "sendrecv" }];
    }
    figures() {
      if (world.statsFail) throw new Error("no");
      this.began ??= performance.now();
      const seconds = Math.min((performance.now() - this.began) / 1000, stream.stillAt);
      const counters = {
        pair: { type: "candidate-pair", nominated: true, state: "succeeded", availableOutgoingBitrate: stream.availableBps, currentRoundTripTime: stream.trip?.() ?? 0.02 },
      };
      for (const kind of this.added) {
        const bytes = world.isSilent ? 0 : (stream[`${kind}Bps`] * (seconds + 0.001)) / 8;
        const packets = Math.round(bytes / 100);
        counters[`in-${kind}`] = {
          type: "inbound-rtp", kind, bytesReceived: bytes, packetsReceived: Math.round(packets * (1 - stream.loss)), packetsLost: Math.round(packets * stream.loss),
          ...(kind === "video" ? { frameWidth: 1280, frameHeight: 720, framesReceived: Math.round(30 * seconds) } : {}),
        };
        counters[`out-${kind}`] = { type: "outbound-rtp", kind, bytesSent: bytes, packetsSent: packets, ...(kind === "video" ? { qualityLimitationReason: "none" } : {}) };
        counters[`remote-${kind}`] = { type: "remote-inbound-rtp", kind, packetsLost: Math.round(packets * stream.lossThere) };
      }
      return world.told?.(counters) ?? counters;
    }
  }
  const deployment = fakeDeployment({ fail, session: { regions: [REGION], ...session } });
  const fetched = (url, request) => {
    const what = `${request.method} ${new URL(url).pathname}`;
    if (what === TOKEN) return answered(fail[what] ?? (request.headers.Authorization === "Bearer good" ? 204 : 401));
    if (what === "POST /v1/probes/log") return answered(fail[what] ?? 204);
    return deployment.fetch(url, request);
  };
  const devices = new FakeDevices();
  const platform = { mediaDevices: devices, RTCPeerConnection: Rtc, WebSocket: Socket, permissions: { query: async () => ({ state: "granted" }) } };
  const network = new NetworkTest(OT, sessionInfo, { fetch: fetched, platform, ...options });
  return { network, devices, Rtc, deployment, platform, stream };
}

async function answered(status) {
  if (status === "down") throw new TypeError("failed to fetch");
  return new Response(status === 204 ? null : "{}", { status });
}

/** Runs a test that waits, with a clock that does not. */
async function fast(begin, each = () => {}) {
  mock.timers.enable({ apis: ["setTimeout", "setInterval"] });
  let passed = 1000;
  const clock = mock.method(performance, "now", () => passed);
  try {
    let isDone = false;
    const found = begin().finally(() => (isDone = true));
    found.catch(() => {});
    for (let step = 0; !isDone && step < 6_000; step++) {
      await new Promise((resolve) => setImmediate(resolve));
      passed += 25;
      mock.timers.tick(25);
      each(passed - 1000);
    }
    assert.ok(isDone, "it settles");
    return await found;
  } finally {
    clock.mock.restore();
    mock.timers.reset();
  }
}

const connectivity = async (made) => {
  const { success, failedTests, ...rest } = await fast(() => made.network.testConnectivity());
  return { success, failed: failedTests.map(({ type, error }) => [type, error.name, error.reason]), ...rest };
};
const isReleased = ({ devices, Rtc, deployment }) => {
  assert.equal(devices.live, 0);
  assert.equal(Rtc.open, 0);
  assert.equal(deployment.asked("DELETE /v1/probes/peers/peer"), deployment.asked("POST /v1/probes/peers"));
};
/** A permission that is given after the end leaves no device on. */
const comesTooLate = async (made) => {
  made.devices.answer?.();
  await new Promise((resolve) => setImmediate(resolve));
  isReleased(made);
};
const rejects = async (made, name, reason) => {
  const error = await fast(() => made.network.testQuality()).then(() => null, (found) => found);
  assert.deepEqual([error?.name, error?.reason], [ErrorNames[name], reason]);
  assert.ok(error instanceof Error && error.message);
  await comesTooLate(made);
};

test("the thirty names, in the original's spelling", () => {
  assert.equal(Object.keys(ErrorNames).length, 30);
  assert.equal(new Set(Object.values(ErrorNames)).size, 30);
  assert.ok(Object.isFrozen(ErrorNames));
  assert.equal(ErrorNames.INCOMPLETE_SESSON_CREDENTIALS, "IncompleteSessionCredentialsError");
  for (const key of Object.keys(ErrorNames)) assert.ok(new NetworkTestError(key).message, key);
});

for (const [what, given, name] of [
  ["no OT", [undefined, SESSION], "MISSING_OPENTOK_INSTANCE"],
  ["an OT that is no object", ["OT", SESSION], "MISSING_OPENTOK_INSTANCE"],
  ["an OT that cannot begin a session", [{}, SESSION], "MISSING_OPENTOK_INSTANCE"],
  ["the session info alone", [SESSION], "MISSING_OPENTOK_INSTANCE"],
  ["no session info", [OT], "MISSING_SESSON_CREDENTIALS"],
  ["a session info that is no object", [OT, "session"], "MISSING_SESSON_CREDENTIALS"],
  ["no API key", [OT, { ...SESSION, apiKey: "" }], "INCOMPLETE_SESSON_CREDENTIALS"],
  ["no session id", [OT, { ...SESSION, sessionId: undefined }], "INCOMPLETE_SESSON_CREDENTIALS"],
  ["no token", [OT, { ...SESSION, token: null }], "INCOMPLETE_SESSON_CREDENTIALS"],
]) {
  test(`constructor: ${what}`, () => {
    assert.throws(() => new NetworkTest(...given), { name: ErrorNames[name] });
  });
}

test("constructor: a base URL is enough", () => {
  assert.ok(new NetworkTest(null, { baseUrl: "http://parley.test" }));
});

test("connectivity: all well, and everything is released", async () => {
  const made = scene();
  let told = null;
  const results = await fast(() => made.network.testConnectivity((found) => (told = found)));
  assert.deepEqual(results, { success: true, failedTests: [] });
  assert.equal(told, results);
  assert.deepEqual(made.devices.asked[0].video.width, { ideal: 1280 });
  assert.equal(made.Rtc.all[0].configuration.iceTransportPolicy, "relay");
  isReleased(made);
});

const MESSAGING = (name, reason) => [["messaging", ErrorNames[name], reason], ["media", ErrorNames.FAILED_MESSAGING_SERVER_TEST, reason]];
const mute = fakeSocket(() => {});
const PING = "GET /v1/probes/ping";
for (const [what, wrong, failed] of [
  ["the API is gone", { fail: { [PING]: "down" } }, [["api", "APIConnectivityError", "unreachable"]]],
  ["something else answers", { fail: { [PING]: 404 } }, [["api", "APIConnectivityError", "http_status"]]],
  ["no session by status", { fail: { "POST /v1/probes/sessions": 503 } }, [["api", "APIConnectivityError", "http_status"]]],
  ["too many tests", { fail: { "POST /v1/probes/sessions": 429 } }, [["api", "APIConnectivityError", "rate_limited"]]],
  ["no session by network", { fail: { "POST /v1/probes/sessions": "down" } }, [["api", "ConnectToSessionNetworkError", "unreachable"]]],
  ["the token is wrong", { sessionInfo: { ...SESSION, token: "bad" } }, MESSAGING("CONNECT_TO_SESSION_TOKEN_ERROR", "")],
  ["a gateway wants another token", { fail: { "POST /v1/probes/sessions": 401 } }, MESSAGING("CONNECT_TO_SESSION_TOKEN_ERROR", "http_status")],
  ["the token cannot be checked", { fail: { [TOKEN]: "down" } }, [["api", "ConnectToSessionNetworkError", "unreachable"]]],
  ["the session id is another URL", { sessionInfo: { ...SESSION, baseUrl: "http://parley.test", sessionId: "ftp://x" } }, MESSAGING("CONNECT_TO_SESSION_ID_ERROR", "")],
  ["the socket is mute", { Socket: mute }, MESSAGING("CONNECT_TO_SESSION_ERROR", "upgrade_refused")],
  ["there is no region", { session: { regions: [] } }, MESSAGING("CONNECT_TO_SESSION_ERROR", "not_offered")],
  ["no relay answers", { world: { candidates: 0 } }, [["media", "PublishToSessionError", "unreachable"]]],
  ["the relay's credential is wrong", { world: { candidates: 0, codes: [401] } }, [["media", "PublishToSessionError", "credential_rejected"]]],
  ["no relay is offered", { session: { ice_servers: { udp: [], tcp: [], tls: [] } } }, [["media", "PublishToSessionError", "not_offered"]]],
  ["the relay is silent", { world: { server: "silent" } }, [["media", "PublishToSessionError", "relay_silent"]]],
  ["no server peers", { fail: { "POST /v1/probes/peers": 503 } }, [["media", "PublishToSessionError", "http_status"]]],
  ["the session is forgotten", { fail: { "POST /v1/probes/peers": 401 } }, [["OpenTok.js", "PublishToSessionNotConnectedError", "http_status"]]],
  ["nothing is sent back", { world: { answersNothing: true } }, [["media", "MissingSubscriberError", ""]]],
  ["nothing comes back", { world: { isSilent: true } }, [["media", "SubscribeToSessionError", "relay_silent"]]],
  ["no statistics", { world: { statsFail: true } }, [["OpenTok.js", "SubscriberGetStatsError", "unsupported"]]],
  ["logging is blocked", { fail: { "POST /v1/probes/log": "down" } }, [["logging", "LoggingServerConnectionError", "unreachable"]]],
  [
    "API and logging are blocked", { fail: { [PING]: "down", "POST /v1/probes/log": 500 } },
    [["api", "APIConnectivityError", "unreachable"], ["logging", "LoggingServerConnectionError", "http_status"]],
  ],
]) {
  test(`connectivity: ${what}`, async () => {
    const made = scene(wrong);
    const { success, failed: found } = await connectivity(made);
    assert.deepEqual(found, failed);
    assert.equal(success, false);
    assert.equal(made.devices.live, 0);
    assert.equal(made.Rtc.open, 0);
  });
}

for (const [what, prepare, name, reason] of [
  ["no devices", (devices) => (devices.kinds = ["audiooutput"]), "FAILED_TO_OBTAIN_MEDIA_DEVICES", "no_microphone"],
  ["a page that is not secure", (devices) => (devices.enumerateDevices = undefined), "FAILED_TO_OBTAIN_MEDIA_DEVICES", "unsupported"],
  ["devices that cannot be listed", (devices) => (devices.kinds = null), "FAILED_TO_OBTAIN_MEDIA_DEVICES", ""],
  ["a refusal", (devices) => (devices.refuses = "NotAllowedError"), "PERMISSION_DENIED_ERROR", "permission_denied"],
  ["a device in use", (devices) => (devices.refuses = "NotReadableError"), "FAILED_TO_CREATE_LOCAL_PUBLISHER", "device_in_use"],
  ["a device that is not there", (devices) => (devices.refuses = "OverconstrainedError"), "NO_AUDIO_CAPTURE_DEVICES", "no_microphone"],
  ["no answer", (devices) => (devices.isAnswered = false), "PUBLISH_TO_SESSION_PERMISSION_OR_TIMEOUT_ERROR", "timeout"],
]) {
  test(`connectivity: ${what}`, async () => {
    const made = scene();
    prepare(made.devices);
    const { failed } = await connectivity(made);
    assert.deepEqual(failed, [["OpenTok.js", ErrorNames[name], reason]]);
    await comesTooLate(made);
  });
}

test("connectivity: the camera that was asked for is missing", async () => {
  const made = scene({ options: { videoSource: "cam" } });
  made.devices.refuses = "OverconstrainedError";
  const { failed } = await connectivity(made);
  assert.deepEqual(made.devices.asked[0].video.deviceId, { exact: "cam" });
  assert.deepEqual(failed, [["OpenTok.js", ErrorNames.NO_VIDEO_CAPTURE_DEVICES, "no_camera"]]);
});

test("connectivity: a microphone alone will do", async () => {
  const made = scene();
  made.devices.kinds = ["audioinput"];
  assert.equal((await connectivity(made)).success, true);
  assert.equal(made.devices.asked[0].video, false);
});

test("a camera that has not the resolution that was asked for", async () => {
  const made = scene({ options: { fullHd: true, videoSource: "cam" } });
  Object.assign(made.devices, { refuses: "OverconstrainedError", constraint: "height" });
  await rejects(made, "UNSUPPORTED_RESOLUTION_ERROR", "unsupported");
  const exactly = { width: { exact: 1920 }, height: { exact: 1080 }, frameRate: { ideal: 30 }, deviceId: { exact: "cam" } };
  assert.deepEqual(made.devices.asked.at(-1).video, exactly);
  await assert.rejects(made.network.checkCameraSupport(640, 480), { name: "UnsupportedResolutionError" });
  assert.deepEqual(made.devices.asked.at(-1), { audio: false, video: { ...exactly, width: { exact: 640 }, height: { exact: 480 } } });
  made.devices.refuses = "NotAllowedError";
  await assert.rejects(made.network.checkCameraSupport(640, 480), { name: "PermissionDeniedError" });
  made.devices.refuses = null;
  await made.network.checkCameraSupport(640, 480);
  assert.equal((await connectivity(made)).success, true);
  assert.deepEqual(made.devices.asked.at(-1).video.height, { ideal: 720 });
  isReleased(made);
});

test("connectivity: stop ends it at once", async () => {
  const made = scene({ world: { server: "silent" } });
  const { network, Rtc } = made;
  const results = await fast(() => network.testConnectivity(), () => Rtc.all.length && network.stop());
  assert.deepEqual(results, { success: false, failedTests: [], stopped: true });
  assert.equal(Rtc.open, 0);
});

test("connectivity: the server goes away while publishing", async () => {
  const fail = {};
  const made = scene({ fail, world: { server: "silent" } });
  const { network, Rtc } = made;
  const results = await fast(() => network.testConnectivity(), () => Rtc.all.length && (fail[PING] = "down"));
  assert.deepEqual(results.failedTests.map(({ error }) => [error.name, error.reason]), [[ErrorNames.PUBLISH_TO_SESSION_NETWORK_ERROR, "server_gone"]]);
});

test("quality: anything false is no update callback, as in the original", async () => {
  assert.ok(await fast(() => scene().network.testQuality(false)));
});

for (const callback of ["callback", 5, {}, () => {}, (_one, _two) => {}]) {
  test(`quality: ${callback} is no update callback`, () => {
    const { network } = scene();
    assert.throws(() => network.testQuality(callback), { name: ErrorNames.INVALID_ON_UPDATE_CALLBACK });
  });
}

test("quality: a good link, in five seconds", async () => {
  const made = scene();
  const updates = [];
  const results = await fast(() => made.network.testQuality((update) => updates.push(update)));
  const { audio, video } = results;
  assert.deepEqual([audio.supported, audio.rating, audio.packetLossRatio, video.supported], [true, "excellent", 0, true]);
  assert.deepEqual([video.recommendedResolution, video.recommendedFrameRate, video.recommendedByAvailable], ["1280x720", 30, "1920x1080"]);
  assert.ok(Math.abs(video.bitrate - 1_500_000) < 1000 && Math.abs(video.frameRate - 30) < 0.5);
  assert.ok(!("reason" in audio) && !("reason" in video));
  assert.deepEqual(results.checks.map(({ name, state }) => [name, state]), [["quality-audio", "passed"], ["quality-video", "passed"]]);
  assert.equal(updates.length, 5);
  const last = updates.at(-1);
  assert.deepEqual(Object.keys(last.audio), ["timestamp", "bytesReceived", "packetsReceived", "packetsLost", "bytesSent"]);
  assert.deepEqual([last.phase, last.video.frameRate, last.video.packetsLost], ["audio-video", 30, 0]);
  assert.ok(last.video.bytesReceived > updates[0].video.bytesReceived && last.timestamp > 1e12);
  isReleased(made);
});

for (const [what, link, resolution] of [
  ["a picture that needs little", { videoBps: 300_000 }, "1280x720"],
  ["no estimate of the sender", { videoBps: 300_000, availableBps: undefined }, "320x240"],
  ["a narrow link", { videoBps: 180_000, availableBps: 200_000 }, "320x240"],
  ["no room for video", { videoBps: 60_000, availableBps: 70_000 }, null],
]) {
  test(`quality: ${what}`, async () => {
    const { video } = await fast(() => scene({ link }).network.testQuality(null));
    assert.deepEqual([video.recommendedResolution, video.recommendedFrameRate], [resolution, resolution && 30]);
    assert.equal(video.supported, resolution !== null);
    assert.equal(video.reason, resolution === null ? "Bandwidth too low." : undefined);
  });
}

for (const [what, link] of [["back", { loss: 0.1 }], ["there", { lossThere: 0.1 }]]) {
  test(`quality: loss on the way ${what}`, async () => {
    const updates = [];
    const { audio, checks } = await fast(() => scene({ link }).network.testQuality((update) => updates.push(update)));
    assert.ok(Math.abs(audio.packetLossRatio - 0.1) < 0.01);
    assert.ok(audio.mos > 3 && audio.mos < 3.5);
    assert.equal(checks[0].reason, "high_loss");
    assert.ok(updates.at(-1).audio.packetsLost > 0);
  });
}

test("quality: bad sound is tried again without the picture", async () => {
  const made = scene({ link: { loss: 0.45, videoBps: 60_000, availableBps: 60_000 } });
  const updates = [];
  const { audio, video } = await fast(
    () => made.network.testQuality((update) => updates.push(update)),
    () => made.Rtc.all.length === 2 && (made.stream.loss = 0),
  );
  assert.equal(video.supported, false);
  assert.deepEqual([audio.supported, audio.packetLossRatio], [true, 0]);
  assert.equal(updates.at(-1).phase, "audio-only");
  assert.equal(updates.at(-1).video, null);
  assert.deepEqual(made.Rtc.all.map(({ added }) => added), [["audio", "video"], ["audio"]]);
  isReleased(made);
});

/** What Firefox and Safari leave out, one by one and together. */
const LITTLE = [
  ["candidate pairs", ({ type }) => type === "candidate-pair"],
  ["the other end's reports", ({ type }) => type === "remote-inbound-rtp"],
  ["what was sent", ({ type }) => type === "outbound-rtp"],
];
for (const [what, isUntold] of [...LITTLE, ["any of that", (entry) => LITTLE.some(([, is]) => is(entry))]]) {
  test(`quality: a browser that does not tell ${what}`, async () => {
    const without = (figures) => Object.fromEntries(Object.entries(figures).filter(([, entry]) => !isUntold(entry)));
    const made = scene({ world: { told: without } });
    const updates = [];
    const { audio, video } = await fast(() => made.network.testQuality((update) => updates.push(update)));
    assert.deepEqual([audio.supported, audio.packetLossRatio, video.recommendedResolution], [true, 0, "1280x720"]);
    assert.ok([audio.mos, video.mos, audio.bitrate, video.frameRate].every(Number.isFinite));
    assert.ok(updates.every(({ roundTripTime, availableOutgoingBitrate }) => roundTripTime !== undefined && availableOutgoingBitrate !== undefined));
    isReleased(made);
  });
}

test("quality: a browser that does not tell the size of the picture, nor names its states", async () => {
  const told = (figures) => Object.fromEntries(Object.entries(figures).map(([id, { frameWidth, frameHeight, qualityLimitationReason, framesReceived, ...rest }]) =>
    [id, framesReceived === undefined ? rest : { ...rest, framesDecoded: framesReceived }]));
  const [usual, terse] = [scene(), scene({ world: { told, hasNoConnectionState: true } })];
  const [one, other] = [await fast(() => usual.network.testQuality()), await fast(() => terse.network.testQuality())];
  assert.deepEqual([other.video.rating, other.video.qualityLimitationReason], [one.video.rating, null]);
  assert.ok(Math.abs(other.video.mos - one.video.mos) < 0.1 && other.video.frameRate > 25);
});

for (const [what, link, cause] of [
  ["packets are lost", {}, "high_loss"],
  ["packets wait, and are lost", { trip: () => 0.02 + (performance.now() % 2000) / 5000 }, "bandwidth_too_low"],
]) {
  test(`quality: sound that stays bad, because ${what}, is not supported`, async () => {
    const { audio, video, checks } = await fast(() => scene({ link: { loss: 0.4, ...link } }).network.testQuality());
    assert.deepEqual([audio.supported, audio.reason, audio.cause, video.cause], [false, "Bandwidth too low.", cause, cause]);
    assert.deepEqual(checks.map(({ state, reason, transport }) => [state, reason, transport]), Array(2).fill(["failed", cause, "udp"]));
  });
}

for (const [what, options, kinds, reason] of [
  ["no camera", {}, ["audioinput"], "No camera was found."],
  ["audioOnly", { audioOnly: true }, ["audioinput", "videoinput"], "The test was audio-only."],
  ["no video source", { videoSource: null }, ["audioinput", "videoinput"], "The test was audio-only."],
]) {
  test(`quality: ${what} is audio-only`, async () => {
    const made = scene({ options });
    made.devices.kinds = kinds;
    const updates = [];
    const { audio, video, checks } = await fast(() => made.network.testQuality((update) => updates.push(update)));
    assert.deepEqual(video, { supported: false, reason, mos: 1 });
    assert.ok(audio.supported && updates.length <= 10);
    assert.equal(checks[1].state, "skipped");
    assert.equal(updates[0].phase, "audio-only");
  });
}

for (const [what, options, seconds] of [
  ["30 s", {}, 30], ["a timeout", { timeout: 7_500 }, 8], ["too short a timeout is ignored", { timeout: 2_000 }, 30],
  ["too long a timeout is ignored", { timeout: 60_000 }, 30], ["audio-only, 10 s", { audioOnly: true }, 10],
]) {
  test(`quality: ${what}`, async () => {
    const made = scene({ options });
    Object.defineProperties(made.stream, {
      videoBps: { get: () => 1_000_000 + 1_000_000 * ((performance.now() >> 10) % 2) },
      audioBps: { get: () => 30_000 + 20_000 * ((performance.now() >> 10) % 2) },
    });
    made.stream.availableBps = undefined;
    let count = 0;
    await fast(() => made.network.testQuality((_update) => count++));
    assert.equal(count, seconds);
  });
}

test("quality: stop waits for five seconds", async () => {
  const made = scene();
  Object.defineProperty(made.stream, "videoBps", { get: () => 1_000_000 + 1_000_000 * ((performance.now() >> 10) % 2) });
  let count = 0;
  const { audio } = await fast(() => made.network.testQuality((_update) => count++), () => count === 1 && made.network.stop());
  assert.equal(count, 5);
  assert.ok(audio.supported && !Object.values(audio).some(Number.isNaN));
  isReleased(made);
});

for (const [what, wrong, name, reason] of [
  ["no server", { fail: { "POST /v1/probes/sessions": "down" } }, "CONNECT_TO_SESSION_NETWORK_ERROR", "unreachable"],
  ["a wrong token", { sessionInfo: { ...SESSION, token: "bad" } }, "CONNECT_TO_SESSION_TOKEN_ERROR", ""],
  ["a wrong session id", { sessionInfo: { ...SESSION, sessionId: 5 } }, "CONNECT_TO_SESSION_ID_ERROR", ""],
  ["no relay", { world: { candidates: 0 } }, "PUBLISH_TO_SESSION_ERROR", "unreachable"],
  ["nothing comes back", { world: { isSilent: true } }, "SUBSCRIBE_TO_SESSION_ERROR", "relay_silent"],
  ["no statistics", { world: { statsFail: true } }, "SUBSCRIBER_GET_STATS_ERROR", "unsupported"],
  ["no subscriber", { world: { answersNothing: true } }, "MISSING_SUBSCRIBER_ERROR", ""],
]) {
  test(`quality: ${what}`, () => rejects(scene(wrong), name, reason));
}

for (const [what, prepare, name, reason] of [
  ["no microphone", (devices) => (devices.kinds = ["videoinput"]), "NO_AUDIO_CAPTURE_DEVICES", "no_microphone"],
  ["a refusal", (devices) => (devices.refuses = "NotAllowedError"), "PERMISSION_DENIED_ERROR", "permission_denied"],
  ["a device in use", (devices) => (devices.refuses = "NotReadableError"), "INIT_PUBLISHER_ERROR", "device_in_use"],
  ["no answer", (devices) => (devices.isAnswered = false), "PUBLISH_TO_SESSION_PERMISSION_OR_TIMEOUT_ERROR", "timeout"],
]) {
  test(`quality: ${what}`, () => {
    const made = scene();
    prepare(made.devices);
    return rejects(made, name, reason);
  });
}

test("quality: a browser without WebRTC", async () => {
  const made = scene();
  delete made.platform.RTCPeerConnection;
  const platform = { ...made.platform, RTCPeerConnection: undefined };
  const network = new NetworkTest(OT, SESSION, { platform });
  await assert.rejects(network.testQuality(), { name: ErrorNames.UNSUPPORTED_BROWSER, reason: "unsupported" });
});

test("quality: the stream stops, and the server still answers", () => rejects(scene({ link: { stillAt: 2 } }), "SUBSCRIBE_TO_SESSION_ERROR", "relay_silent"));

test("quality: the stream stops, and the server is gone", () =>
  rejects(scene({ link: { stillAt: 2 }, fail: { [PING]: "down" } }), "CONNECT_TO_SESSION_NETWORK_ERROR", "server_gone"));

for (const [state, name, reason] of [["denied", "PERMISSION_DENIED_ERROR", "permission_denied"], ["granted", "FAILED_TO_OBTAIN_MEDIA_DEVICES", "no_microphone"]]) {
  test(`quality: the microphone ends and its permission is ${state}`, async () => {
    const made = scene();
    made.platform.permissions.query = async () => ({ state });
    let count = 0;
    const error = await fast(
      () => made.network.testQuality((_update) => ++count === 2 && made.devices.tracks[0].dispatchEvent(new Event("ended"))),
    ).catch((found) => found);
    assert.deepEqual([error.name, error.reason], [ErrorNames[name], reason]);
    isReleased(made);
  });
}

test("quality: a device that went away while the connection was opened", async () => {
  const made = scene({ isSilent: true });
  made.platform.permissions.query = async () => ({ state: "denied" });
  const lost = () => made.Rtc.all.length && made.devices.tracks[0].stop();
  const error = await fast(() => made.network.testQuality(), lost).catch((found) => found);
  assert.deepEqual([error.name, error.reason], [ErrorNames.PERMISSION_DENIED_ERROR, "permission_denied"]);
  isReleased(made);
});

test("quality: a signal ends it at once", async () => {
  const controller = new AbortController();
  const made = scene({ options: { signal: controller.signal } });
  const error = await fast(() => made.network.testQuality((_update) => controller.abort())).catch((found) => found);
  assert.deepEqual([error.name, error.reason], [ErrorNames.QUALITY_TEST_ERROR, "aborted"]);
  isReleased(made);
});

test("quality: a completion handler hears of results and errors", async () => {
  const good = scene();
  const heard = [];
  const results = await fast(() => good.network.testQuality(null, (...given) => heard.push(given)));
  const bad = scene();
  bad.devices.refuses = "NotAllowedError";
  await fast(() => bad.network.testQuality(null, (...given) => heard.push(given)).catch(() => {}));
  assert.deepEqual([heard[0], heard[1][0].name, heard[1].length], [[undefined, results], ErrorNames.PERMISSION_DENIED_ERROR, 1]);
});

test("quality: a callback that throws harms nothing, and two instances do not meet", async () => {
  const complaints = mock.method(console, "error", () => {});
  const [one, other] = [scene(), scene({ options: { audioOnly: true } })];
  const [a, b] = await fast(() =>
    Promise.all([one.network.testQuality((_update) => { throw new Error("mine"); }), other.network.testQuality(), one.network.testQuality()]));
  complaints.mock.restore();
  assert.ok(a.video.supported && !b.video.supported && b.audio.supported);
  isReleased(one);
  isReleased(other);
});
