import assert from "node:assert/strict";
import { mock, test } from "node:test";

import { inFakeTime, opened } from "./clients.js";
import { FakeSocket, settle } from "./fakes.js";

inFakeTime();

const withReceipts = { features: ["receipts"] };
const receipt = (seq, ref, stage, reason) => FakeSocket.last.say({ type: "receipt", seq, ref, stage, reason });

test("a message is told in stages, by an event and by the promise that waits for one", async () => {
  const client = await opened(withReceipts);
  const told = [];
  client.on("receipt", (one) => told.push(one));
  let isDone = false;
  const sent = client.send("bob", "hi", { until: "received" }).then(() => (isDone = true));
  const { id } = FakeSocket.last.lastSent("message");
  FakeSocket.last.ok("message");
  receipt(1, id, "relayed");
  await settle();
  assert.equal(isDone, false);
  receipt(2, id, "received");
  await sent;
  assert.deepEqual(told, [
    { ref: id, type: "message", to: "bob", stage: "relayed", reason: null },
    { ref: id, type: "message", to: "bob", stage: "received", reason: null },
  ]);
});

test("a later stage means the earlier ones", async () => {
  const client = await opened(withReceipts);
  const sent = client.request("offer", { to: "bob", sdp: "" }, { until: "received" });
  const { id } = FakeSocket.last.lastSent("offer");
  receipt(1, id, "applied");
  FakeSocket.last.ok("offer", { negotiation: 4 });
  assert.equal((await sent).negotiation, 4);
});

for (const [stage, reason] of [["expired", "early_ttl"], ["dropped", "peer_left"]]) {
  test(`what is ${stage} is undelivered`, async () => {
    const client = await opened(withReceipts);
    const sent = client.send("bob", "hi", { until: "received" });
    const { id } = FakeSocket.last.lastSent("message");
    FakeSocket.last.ok("message");
    receipt(1, id, stage, reason);
    await assert.rejects(sent, { code: "undelivered", message: new RegExp(reason) });
  });
}

test("without the feature nobody can wait for a stage, and nothing is sent", async () => {
  const client = await opened();
  await assert.rejects(client.send("bob", "hi", { until: "received" }), { code: "wrong_state" });
  assert.equal(FakeSocket.last.lastSent("message"), undefined);
});

test("a refused message has no receipt, and one about nothing is no event", async () => {
  const client = await opened(withReceipts);
  client.on("receipt", () => assert.fail("no receipt"));
  const sent = client.send("bob", "hi", { until: "received" });
  const { id } = FakeSocket.last.lastSent("message");
  FakeSocket.last.say({ type: "error", id, code: "not_found", message: "no such peer" });
  await assert.rejects(sent, { code: "not_found" });
  receipt(1, id, "relayed");
  receipt(2, 999, "relayed");
});

test("receipts go on over a resume and end with the session", async () => {
  const client = await opened(withReceipts);
  const sent = client.send("bob", "hi", { until: "received" });
  FakeSocket.last.ok("message");
  const lost = assert.rejects(sent, { code: "undelivered" });
  FakeSocket.last.drop(1006);
  mock.timers.tick(250);
  await settle();
  FakeSocket.last.open();
  const { id } = FakeSocket.last.lastSent("hello");
  FakeSocket.last.say({ type: "error", id, code: "resume_expired", message: "too late" });
  await lost;
});

test("the oldest of too many followed messages gives way", async () => {
  const client = await opened(withReceipts);
  const told = [];
  client.on("receipt", ({ ref }) => told.push(ref));
  for (let i = 0; i < 1001; i++) {
    client.send("bob", i).catch(() => {});
    FakeSocket.last.ok("message");
  }
  const ids = FakeSocket.last.sent.filter(({ type }) => type === "message").map(({ id }) => id);
  receipt(1, ids[0], "relayed");
  receipt(2, ids[1], "relayed");
  assert.deepEqual(told, [ids[1]]);
});

// Glare and replaced devices ----------------------------------------------------------------------

async function inRoom(options = {}) {
  const client = await opened(options);
  const joined = client.join("garden");
  const peers = [{ peer: "bob1", identity: "bob", polite: true, data: { name: "Bob" } }];
  FakeSocket.last.say({ type: "room", seq: 1, room: "garden", epoch: 1, revision: 5, peers });
  FakeSocket.last.ok("join", { room: "garden" });
  await joined;
  client.on("error", (error) => assert.fail(error));
  return client;
}

for (const isLate of [false, true]) {
  test(`an offer that loses by the server's word ${isLate ? "after its ok " : ""}yields to the other`, async () => {
    const client = await inRoom();
    const link = client.peerConnection("bob1");
    link.on("error", (error) => assert.fail(error));
    link.rtc.needNegotiation();
    await settle();
    const { id } = FakeSocket.last.lastSent("offer");
    if (isLate) FakeSocket.last.ok("offer", { negotiation: 3 });
    FakeSocket.last.say({ type: "error", id, code: "glare", message: "another offer wins", winner_negotiation: 4 });
    await settle();
    assert.equal(link.rtc.signalingState, "have-local-offer");
    const sdp = "m=audio\r\na=ice-ufrag:theirs\r\n";
    FakeSocket.last.say({ type: "offer", seq: 2, from: "bob1", identity: "bob", pc: "main", negotiation: 4, sdp });
    await settle();
    assert.equal(FakeSocket.last.lastSent("answer").negotiation, 4);
    assert.equal(link.rtc.signalingState, "stable");
    link.rtc.needNegotiation();
    await settle();
    assert.equal(FakeSocket.last.sent.filter(({ type }) => type === "offer").length, 2);
  });
}

test("a replaced device: its connection is closed and the new one can be connected to at once", async () => {
  const client = await inRoom();
  const old = client.peerConnection("bob1");
  const left = [];
  client.on("peer_left", (peer) => left.push(peer));
  /** @type {any} */
  let fresh;
  client.on("peer_replaced", ({ peer, replaced, identity, polite }) => {
    assert.deepEqual([replaced, identity, polite], ["bob1", "bob", false]);
    assert.equal(old.closed, true);
    fresh = client.peerConnection(peer);
  });
  FakeSocket.last.say({ type: "peer_replaced", seq: 2, peer: "bob2", replaced: "bob1", identity: "bob", revision: 6, polite: false });
  assert.deepEqual([...client.peers.keys()], ["bob2"]);
  assert.deepEqual(left, []);
  assert.equal(fresh.polite, false);
  fresh.rtc.needNegotiation();
  await settle();
  assert.equal(FakeSocket.last.lastSent("offer").to, "bob2");
});

test("a client takes the place of one that is gone by its ticket, once the session is not resumed", async () => {
  const first = await opened();
  assert.deepEqual(first.ticket, { session: "s1", secret: "x" });
  const second = await opened({ replaces: first.ticket, room: "garden" });
  const { replaces, room } = FakeSocket.last.lastSent("hello");
  assert.deepEqual([replaces, room], [first.ticket, "garden"]);
  FakeSocket.last.drop(1006);
  mock.timers.tick(250);
  await settle();
  FakeSocket.last.open();
  assert.equal(FakeSocket.last.lastSent("hello").replaces, undefined);
  second.close();
  assert.equal(second.ticket, null);
});
