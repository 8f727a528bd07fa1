import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";

import { ParleyError, PeerConnection } from "../../signal_server/browser/js/parley.js";
import { FakeClient, FakeRtc, settle } from "./fakes.js";

beforeEach(() => mock.timers.enable({ apis: ["setTimeout"] }));
afterEach(() => mock.timers.reset());

function lone(options = {}) {
  const client = new FakeClient();
  client.wire = () => ({ negotiation: 1 });
  const link = new PeerConnection(client, "bob", options);
  link.on("error", (error) => (link.lastError = error));
  return { client, link, rtc: link.rtc };
}

const offer = (ufrag, negotiation = 1) => ({ type: "offer", sdp: `m=audio\r\na=ice-ufrag:${ufrag}\r\n`, negotiation });
const answer = (ufrag, negotiation = 1) => ({ ...offer(ufrag, negotiation), type: "answer" });
const candidates = (ufrag, ...lines) => ({
  type: "candidate",
  candidates: lines.map((line) => ({ candidate: line, sdpMid: "0", sdpMLineIndex: 0, usernameFragment: ufrag })),
});
const lines = (rtc) => rtc.added.map(({ candidate }) => candidate);

/** Two ends and the server between them: numbers offers, delivers after `flush`. */
function pair() {
  const ends = {};
  const inFlight = [];
  let number = 0;
  const make = (self, other, polite) => {
    const client = new FakeClient();
    client.wire = (message) => {
      const negotiation = message.type === "offer" ? ++number : message.negotiation;
      inFlight.push(() => ends[other].link.receive({ ...message, from: self, negotiation, candidates: [message.candidate] }));
      return { negotiation };
    };
    ends[self] = { client, link: new PeerConnection(client, other, { polite }) };
    ends[self].link.on("error", (error) => assert.fail(error));
  };
  make("ada", "bob", false);
  make("bob", "ada", true);
  const flush = async () => {
    await settle();
    while (inFlight.length) {
      inFlight.shift()();
      await settle();
    }
  };
  return { ada: ends.ada.link, bob: ends.bob.link, flush };
}

test("offer and answer pass with the server's number and are confirmed", async () => {
  const { client, link, rtc } = lone();
  client.wire = () => ({ negotiation: 7 });
  rtc.needNegotiation();
  await settle();
  assert.deepEqual(client.types(), ["offer"]);
  link.receive(answer("theirs", 7));
  await settle();
  assert.deepEqual(client.sent.at(-1), { type: "applied", to: "bob", pc: "main", negotiation: 7 });
  assert.equal(rtc.signalingState, "stable");
});

test("an answer to an older offer is not applied", async () => {
  const { client, link, rtc } = lone();
  client.wire = () => ({ negotiation: 7 });
  rtc.needNegotiation();
  await settle();
  link.receive(answer("theirs", 6));
  await settle();
  assert.equal(rtc.signalingState, "have-local-offer");
});

test("an answer that nobody waits for is ignored", async () => {
  const { link, rtc } = lone();
  link.receive(answer("theirs"));
  await settle();
  assert.deepEqual(rtc.log, []);
  assert.equal(link.lastError, undefined);
});

test("the answer echoes the offer's number, after `applied`", async () => {
  const { client, link } = lone();
  link.receive(offer("theirs", 3));
  await settle();
  assert.deepEqual(client.sent.map(({ type, negotiation }) => [type, negotiation]), [["applied", 3], ["answer", 3]]);
});

test("glare: both offer, the polite end yields, both end stable with one exchange", async () => {
  const { ada, bob, flush } = pair();
  ada.rtc.needNegotiation();
  bob.rtc.needNegotiation();
  await flush();
  assert.deepEqual(bob.rtc.log, ["local offer", "rollback", "remote offer", "local answer"]);
  assert.deepEqual(ada.rtc.log, ["local offer", "remote answer"]);
  assert.equal(ada.rtc.signalingState, "stable");
  assert.equal(bob.rtc.signalingState, "stable");
});

test("glare while setLocalDescription is still running resolves the same way", async () => {
  const { ada, bob, flush } = pair();
  let release;
  bob.rtc.delay = () => new Promise((resolve) => (release = resolve));
  bob.rtc.needNegotiation();
  ada.rtc.needNegotiation();
  await flush();
  bob.rtc.delay = async () => {};
  release();
  await flush();
  assert.equal(ada.rtc.signalingState, "stable");
  assert.equal(bob.rtc.signalingState, "stable");
  assert.ok(bob.rtc.log.includes("rollback"));
});

test("the impolite end ignores the colliding offer and the candidates of it", async () => {
  const { link, rtc } = lone({ polite: false });
  rtc.needNegotiation();
  await settle();
  link.receive(offer("loser"));
  link.receive(candidates("loser", "c1"));
  await settle();
  assert.equal(rtc.signalingState, "have-local-offer");
  assert.deepEqual(rtc.added, []);
  link.receive(answer("winner"));
  link.receive(candidates("winner", "c2"));
  await settle();
  assert.deepEqual(lines(rtc), ["c2"]);
  assert.equal(link.lastError, undefined);
});

test("candidates that come first wait for their description", async () => {
  const { link, rtc } = lone();
  link.receive(candidates("theirs", "c1", "c2", ""));
  await settle();
  assert.deepEqual(rtc.added, []);
  link.receive(offer("theirs"));
  await settle();
  assert.deepEqual(lines(rtc), ["c1", "c2", ""]);
});

test("candidates behind a description that takes its time are added after it, in order", async () => {
  const { link, rtc } = lone();
  let release;
  rtc.delay = () => new Promise((resolve) => (release = resolve));
  link.receive(offer("theirs"));
  link.receive(candidates("theirs", "c1"));
  link.receive(candidates("theirs", "c2"));
  await settle();
  assert.deepEqual(rtc.added, []);
  rtc.delay = async () => {};
  release();
  await settle();
  assert.deepEqual(lines(rtc), ["c1", "c2"]);
});

test("candidates of the next generation wait, those of a replaced one are dropped", async () => {
  const { link, rtc } = lone();
  link.receive(offer("old"));
  link.receive(candidates("new", "n1"));
  await settle();
  assert.deepEqual(rtc.added, []);
  link.receive(offer("new", 2));
  link.receive(candidates("old", "o1"));
  await settle();
  assert.deepEqual(lines(rtc), ["n1"]);
  assert.equal(link.lastError, undefined);
});

test("the ufrag is read from the candidate line when the member is missing", async () => {
  const { link, rtc } = lone();
  const line = "candidate:1 1 udp 1 192.0.2.1 9 typ host generation 0 ufrag late network-cost 10";
  link.receive({ type: "candidate", candidates: [{ candidate: line, sdpMid: "0" }] });
  link.receive(offer("early"));
  await settle();
  assert.deepEqual(rtc.added, []);
  link.receive(offer("late", 2));
  await settle();
  assert.deepEqual(lines(rtc), [line]);
});

test("a candidate without any ufrag belongs to the latest description", async () => {
  const { link, rtc } = lone();
  const bare = { type: "candidate", candidates: [{ candidate: "candidate:1 1 udp 1 192.0.2.1 9 typ host", sdpMid: "0" }] };
  link.receive(bare);
  await settle();
  assert.deepEqual(rtc.added, []);
  link.receive(offer("theirs"));
  await settle();
  assert.equal(rtc.added.length, 1);
});

test("candidates without a description are kept only up to a bound", async () => {
  const { link, rtc } = lone();
  for (let i = 0; i < 300; i++) link.receive(candidates("theirs", `c${i}`));
  link.receive(offer("theirs"));
  await settle();
  assert.equal(rtc.added.length, 200);
});

test("candidates of dead generations take no room from those that may still be used", async () => {
  const dead = (ufrag) => candidates(ufrag, ...Array.from({ length: 200 }, (_, i) => `${ufrag}${i}`));
  const { link, rtc } = lone();
  link.receive(offer("first"));
  link.receive(offer("second", 2));
  link.receive(dead("first"));
  link.receive(candidates("third", "c"));
  link.receive(offer("third", 3));
  await settle();
  assert.deepEqual(lines(rtc), ["c"]);

  const impolite = lone({ polite: false });
  impolite.rtc.needNegotiation();
  await settle();
  impolite.link.receive(offer("ignored"));
  impolite.link.receive(dead("ignored"));
  impolite.link.receive(candidates("theirs", "c"));
  impolite.link.receive(answer("theirs"));
  await settle();
  assert.deepEqual(lines(impolite.rtc), ["c"]);
});

test("own candidates travel with their ufrag, and their end once", async () => {
  const { client, rtc } = lone();
  rtc.needNegotiation();
  await settle();
  const [ufrag] = /u\d+g\d+/.exec(rtc.localDescription.sdp);
  rtc.gather({ candidate: "candidate:1", sdpMid: "0", sdpMLineIndex: 0, usernameFragment: ufrag });
  rtc.gather({ candidate: "", sdpMid: "0", sdpMLineIndex: 0, usernameFragment: ufrag });
  rtc.gather(null);
  const sent = client.sent.filter(({ type }) => type === "candidate").map(({ candidate }) => candidate);
  assert.deepEqual(sent, [
    { candidate: "candidate:1", sdpMid: "0", sdpMLineIndex: 0, usernameFragment: ufrag },
    { candidate: "", sdpMid: null, sdpMLineIndex: null, usernameFragment: ufrag },
  ]);
});

test("an offer that may be repeated is sent again, one that may not is rolled back", async () => {
  const { client, link, rtc } = lone();
  client.wire = () => new ParleyError("rate_limited", "slow down", { retryable: true, retryAfterMs: 50 });
  rtc.needNegotiation();
  await settle();
  client.wire = () => new ParleyError("not_found", "no such peer");
  mock.timers.tick(50);
  await settle();
  assert.deepEqual(client.types(), ["offer", "offer"]);
  assert.equal(rtc.signalingState, "stable");
  assert.equal(link.lastError.code, "not_found");
  rtc.needNegotiation();
  await settle();
  assert.equal(client.sent.length, 2);
});

test("on glare said by the server the own offer stays until the other's arrives", async () => {
  const { client, link, rtc } = lone({ polite: true });
  client.wire = (message) => (message.type === "offer" ? new ParleyError("glare", "the other offer wins") : {});
  rtc.needNegotiation();
  await settle();
  assert.equal(rtc.signalingState, "have-local-offer");
  link.receive(offer("theirs"));
  await settle();
  assert.equal(rtc.signalingState, "stable");
  assert.equal(link.lastError, undefined);
});

test("beforeAnswer runs between the offer and the answer", async () => {
  const { link, rtc } = lone({ beforeAnswer: async (pc) => pc.log.push(`prepared in ${pc.signalingState}`) });
  link.receive(offer("theirs"));
  await settle();
  assert.deepEqual(rtc.log, ["remote offer", "prepared in have-remote-offer", "local answer"]);
});

test("failed restarts ICE a bounded number of times, with fresh servers", async () => {
  const { link, rtc } = lone({ polite: false, iceRestarts: 2, rtcConfiguration: { iceServers: [] } });
  let failed = 0;
  link.on("failed", () => failed++);
  for (let round = 0; round < 3; round++) {
    rtc.become("failed");
    mock.timers.tick(0);
    await settle();
  }
  assert.equal(rtc.restarts, 2);
  assert.equal(failed, 1);
  assert.deepEqual(rtc.configuration.iceServers, [{ urls: ["turn:relay.example"] }]);
});

test("a connection that came back may fail as often again", async () => {
  const { rtc } = lone({ polite: false, iceRestarts: 1 });
  for (let round = 0; round < 3; round++) {
    rtc.become("failed");
    mock.timers.tick(0);
    await settle();
    rtc.become("connected");
    await settle();
  }
  assert.equal(rtc.restarts, 3);
});

test("disconnected restarts ICE only when it lasts", async () => {
  const { rtc } = lone({ polite: false });
  rtc.become("disconnected");
  mock.timers.tick(3999);
  rtc.become("connected");
  mock.timers.tick(10_000);
  await settle();
  assert.equal(rtc.restarts, 0);
  rtc.become("disconnected");
  mock.timers.tick(4000);
  await settle();
  assert.equal(rtc.restarts, 1);
});

test("the polite end leaves the restart to the other for a while", async () => {
  const { rtc } = lone({ polite: true });
  rtc.become("failed");
  mock.timers.tick(1999);
  await settle();
  assert.equal(rtc.restarts, 0);
  mock.timers.tick(1);
  await settle();
  assert.equal(rtc.restarts, 1);
});

test("the other side can ask for an offer and for a restart", async () => {
  const { client, link, rtc } = lone();
  link.receive({ type: "renegotiate", reason: "needed" });
  await settle();
  assert.deepEqual(client.types(), ["offer"]);
  link.receive(answer("theirs"));
  link.receive({ type: "renegotiate", reason: "ice_restart" });
  await settle();
  assert.equal(rtc.restarts, 1);
});

test("connection states are reported with the selected local candidate", async () => {
  const { client, rtc } = lone();
  rtc.getStats = async () => new Map(Object.entries({
    T: { id: "T", type: "transport", selectedCandidatePairId: "P" },
    P: { id: "P", type: "candidate-pair", localCandidateId: "L", remoteCandidateId: "R", currentRoundTripTime: 0.034 },
    L: { id: "L", candidateType: "relay", protocol: "udp", relayProtocol: "tcp" },
    R: { id: "R", candidateType: "host", protocol: "udp" },
  }));
  rtc.become("connected");
  await settle();
  assert.deepEqual(client.sent.at(-1), { type: "state", to: "bob", pc: "main", state: "connected", candidate_type: "relay" });
});

test("after close nothing is sent or applied", async () => {
  const { client, link, rtc } = lone();
  link.close("user_hangup");
  assert.deepEqual(client.types(), ["state"]);
  link.receive(offer("theirs"));
  rtc.needNegotiation();
  await settle();
  assert.equal(client.sent.length, 1);
  assert.ok(rtc instanceof FakeRtc);
});
