import assert from "node:assert/strict";
import { mock, test } from "node:test";

import { ParleyError, reconnectDelay, shouldReconnect } from "../../signal_server/browser/js/parley.js";
import { inFakeTime, inRoom, newClient, opened } from "./clients.js";
import { FakeSocket, settle } from "./fakes.js";

inFakeTime();

test("reconnection delays use full jitter between zero and a doubling cap of ten seconds", () => {
  assert.equal(reconnectDelay(0, () => 0), 0);
  const longest = [0, 1, 2, 3, 4, 5, 50].map((attempt) => reconnectDelay(attempt, () => 1));
  assert.deepEqual(longest, [500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
  for (let i = 0; i < 1000; i++) {
    const delay = reconnectDelay(3);
    assert.ok(delay >= 0 && delay < 4000);
  }
});

test("close codes say whether to come back", () => {
  for (const code of [1001, 1006, 1011, 1012, 1013, 4000, 4001, 4029, 4499]) assert.ok(shouldReconnect(code), `${code}`);
  for (const code of [1000, 1002, 1003, 1007, 1009, 4500, 4502, 4999]) assert.ok(!shouldReconnect(code), `${code}`);
});

test("hello carries the token and the welcome opens the client", async () => {
  const client = await opened({ features: ["gated"] });
  const socket = FakeSocket.last;
  assert.deepEqual(socket.protocols, ["parley.v1.json"]);
  assert.equal(socket.sent[0].type, "hello");
  assert.equal(socket.sent[0].token, "t");
  assert.deepEqual(socket.sent[0].features, ["gated"]);
  assert.equal(client.state, "open");
  assert.equal(client.peer, "me");
});

test("every request has its own id and its own answer, in any order", async () => {
  const client = await opened();
  const first = client.request("message", { data: 1 });
  const second = client.request("message", { data: 2 });
  const [one, two] = FakeSocket.last.sent.slice(-2);
  assert.notEqual(one.id, two.id);
  FakeSocket.last.say({ type: "error", id: two.id, code: "rate_limited", message: "slow down", retryable: true, retry_after_ms: 250 });
  FakeSocket.last.say({ type: "ok", id: one.id });
  await first;
  await assert.rejects(second, (error) => {
    assert.ok(error instanceof ParleyError);
    assert.deepEqual([error.code, error.retryable, error.retryAfterMs], ["rate_limited", true, 250]);
    return true;
  });
});

test("a request without an answer times out", async () => {
  const client = await opened({});
  const request = client.request("update", { data: 1 });
  mock.timers.tick(10_000);
  await assert.rejects(request, { code: "timeout" });
});

test("a request while disconnected is refused at once", async () => {
  const client = newClient();
  await assert.rejects(client.request("leave"), { code: "unavailable", retryable: true });
  assert.equal(client.notify("bye"), false);
});

test("delays grow while connections fail and start over after a settled one", async () => {
  let uptime = 0;
  const clock = mock.method(performance, "now", () => uptime);
  const client = newClient({ connectTimeoutMs: 60_000 });
  client.connect().catch(() => {});
  await settle();
  for (const delay of [250, 500, 1000]) {
    const before = FakeSocket.all.length;
    FakeSocket.last.drop(1006);
    mock.timers.tick(delay - 1);
    await settle();
    assert.equal(FakeSocket.all.length, before);
    mock.timers.tick(1);
    await settle();
    assert.equal(FakeSocket.all.length, before + 1);
  }
  // Welcomed and lost at once is not settled; ten seconds are.
  for (const [lasted, delay] of [[9_000, 2000], [10_001, 250]]) {
    const before = FakeSocket.all.length;
    uptime = 1000;
    FakeSocket.last.welcome();
    uptime += lasted;
    FakeSocket.last.drop(1006);
    mock.timers.tick(delay - 1);
    await settle();
    assert.equal(FakeSocket.all.length, before);
    mock.timers.tick(1);
    await settle();
    assert.equal(FakeSocket.all.length, before + 1);
  }
  clock.mock.restore();
});

test("a terminal close code ends the client with the server's reason", async () => {
  const client = newClient();
  const connecting = client.connect();
  await settle();
  FakeSocket.last.open();
  const { id } = FakeSocket.last.lastSent("hello");
  FakeSocket.last.say({ type: "error", id, code: "token_expired", message: "the token has expired" });
  FakeSocket.last.drop(4500);
  await assert.rejects(connecting, { code: "token_expired" });
  assert.equal(client.state, "closed");
  mock.timers.tick(60_000);
  await settle();
  assert.equal(FakeSocket.all.length, 1);
});

test("an expired token is fetched anew when the client can, else it is the end", async () => {
  let issued = 0;
  await opened({ token: undefined, getToken: async () => `t${++issued}` });
  FakeSocket.last.drop(4005);
  mock.timers.tick(250);
  await settle();
  FakeSocket.last.open();
  assert.equal(FakeSocket.last.lastSent("hello").token, "t2");

  const fixed = await opened();
  FakeSocket.last.drop(4005);
  assert.equal(fixed.state, "closed");
});

test("connect gives up after its time limit", async () => {
  const client = newClient({ connectTimeoutMs: 3000 });
  const connecting = client.connect();
  await settle();
  mock.timers.tick(3000);
  await assert.rejects(connecting, { code: "unavailable", retryable: true });
  assert.equal(FakeSocket.last.closedWith, 1000);
});

test("a socket that answers no ping is given up without waiting for its close event", async () => {
  const client = await opened();
  mock.timers.tick(10_000);
  assert.equal(FakeSocket.last.lastSent("ping").type, "ping");
  const half = FakeSocket.last;
  mock.timers.tick(5000);
  await settle();
  assert.equal(half.closedWith, 4001);
  assert.equal(client.state, "reconnecting");
  half.say({ type: "room", seq: 1, room: "garden", epoch: 1, revision: 1, peers: [entry("ghost")] });
  assert.equal(client.peers.size, 0);
});

test("pongs keep the connection and measure the round trip", async () => {
  const client = await opened();
  for (let turn = 0; turn < 3; turn++) {
    mock.timers.tick(10_000);
    FakeSocket.last.say({ type: "pong", t: FakeSocket.last.lastSent("ping").t, server_time_ms: 1 });
    await settle();
  }
  assert.equal(client.state, "open");
  assert.equal(typeof client.roundTripMs, "number");
  assert.equal(FakeSocket.last.sent.filter(({ type }) => type === "ping").length, 3);
});

test("go_away moves the session by itself, no earlier than it says", async () => {
  const client = await opened();
  const first = FakeSocket.last;
  first.say({ type: "go_away", seq: 1, reason: "draining", reconnect_after_ms: 2000, deadline_ms: 5000 });
  mock.timers.tick(2249);
  assert.equal(client.state, "open");
  mock.timers.tick(1);
  await settle();
  assert.deepEqual([first.closedWith, FakeSocket.all.length], [4000, 2]);
  FakeSocket.last.resumed();
  assert.equal(client.state, "open");
});

test("go_away names the earliest return", async () => {
  await opened();
  FakeSocket.last.say({ type: "go_away", seq: 1, reason: "draining", reconnect_after_ms: 2000, deadline_ms: 5000 });
  FakeSocket.last.drop(4000);
  mock.timers.tick(2249);
  await settle();
  assert.equal(FakeSocket.all.length, 1);
  mock.timers.tick(1);
  await settle();
  assert.equal(FakeSocket.all.length, 2);
});

test("the roster follows joins, changes and departures", async () => {
  const client = await inRoom([entry("bob")]);
  const seen = [];
  for (const name of ["peer_joined", "peer_updated", "peer_left"]) {
    client.on(name, ({ peer }) => seen.push(`${name} ${peer}`));
  }
  FakeSocket.last.say({ type: "peer_joined", seq: 2, revision: 6, ...entry("eve", { polite: true }) });
  FakeSocket.last.say({ type: "peer_updated", seq: 3, revision: 7, peer: "bob", identity: "bob", data: { hand: true } });
  FakeSocket.last.say({ type: "peer_left", seq: 4, revision: 8, peer: "eve", identity: "eve", reason: "left" });
  assert.deepEqual(seen, ["peer_joined eve", "peer_updated bob", "peer_left eve"]);
  assert.deepEqual(client.peers.get("bob"), { peer: "bob", identity: "bob", polite: false, name: null, connected: true, data: { hand: true } });
  FakeSocket.last.say({ type: "peer_updated", seq: 5, revision: 9, peer: "bob", identity: "bob", connected: false });
  assert.deepEqual([client.peers.get("bob").connected, client.peers.get("bob").data], [false, { hand: true }]);
  assert.equal(client.peers.size, 1);
});

test("a change that the snapshot already contains is ignored", async () => {
  const client = await inRoom([entry("bob")]);
  FakeSocket.last.say({ type: "peer_left", seq: 2, revision: 5, peer: "bob", identity: "bob", reason: "left" });
  assert.ok(client.peers.has("bob"));
});

test("a missing revision asks for a new snapshot", async () => {
  const client = await inRoom([entry("bob")]);
  FakeSocket.last.say({ type: "peer_joined", seq: 2, revision: 8, ...entry("eve") });
  const joins = FakeSocket.last.sent.filter(({ type }) => type === "join");
  assert.equal(joins.length, 2);
  FakeSocket.last.say({ type: "room", seq: 3, room: "garden", epoch: 1, revision: 8, peers: [entry("eve")] });
  assert.deepEqual([...client.peers.keys()], ["eve"]);
});

test("the revision of an own update is not a gap, told or untold", async () => {
  const client = await inRoom([entry("bob")]);
  let seq = 1;
  for (const [base, echo] of [[6, false], [8, true]]) {
    const updated = client.update({ base });
    const { id } = FakeSocket.last.lastSent("update");
    FakeSocket.last.say({ type: "ok", id });
    await updated;
    if (echo) FakeSocket.last.say({ type: "peer_updated", seq: ++seq, revision: base, peer: "me", identity: "ada", data: 1 });
    FakeSocket.last.say({ type: "peer_updated", seq: ++seq, revision: base + 1, peer: "bob", identity: "bob", data: base });
  }
  assert.equal(FakeSocket.last.sent.filter(({ type }) => type === "join").length, 1);
  assert.equal(client.peers.get("bob").data, 8);
  assert.ok(!client.peers.has("me"));
});

test("a repeated server message is dropped by its number", async () => {
  const client = await inRoom();
  let heard = 0;
  client.on("message", () => heard++);
  const message = { type: "message", seq: 2, from: "bob", identity: "bob", data: "hi" };
  FakeSocket.last.say(message);
  FakeSocket.last.say(message);
  assert.equal(heard, 1);
});

test("ICE servers are answered by type, refused by id, and kept while they are good", async () => {
  const client = await opened();
  const asked = client.iceServers({ ttl: 600 });
  assert.equal(FakeSocket.last.lastSent("ice_servers").ttl, 600);
  const servers = [{ urls: ["turn:r"], username: "u", credential: "c" }];
  FakeSocket.last.say({ type: "ice_servers", seq: 1, ice_servers: servers, ttl: 600, expires_at: 600 });
  assert.deepEqual((await asked).iceServers, servers);
  assert.deepEqual(await client.freshIceServers(), servers);
  mock.timers.tick(541_000);
  const again = client.freshIceServers();
  FakeSocket.last.say({ type: "error", id: FakeSocket.last.lastSent("ice_servers").id, code: "forbidden", message: "no turn grant" });
  await assert.rejects(again, { code: "forbidden" });
});

test("text that is not JSON and types that are not known do no harm", async () => {
  const client = await inRoom();
  FakeSocket.last.say("{");
  FakeSocket.last.say({ type: "from_the_future", seq: 2 });
  FakeSocket.last.say({ type: "message", seq: 3, from: "bob", identity: "bob", data: { parley: "call", action: "invite" } });
  assert.equal(client.state, "open");
});

test("a listener that throws does not keep the others from hearing", async () => {
  const client = await inRoom();
  const reported = mock.method(console, "error", () => {});
  let heard = 0;
  client.on("message", () => assert.fail("on purpose"));
  client.on("message", () => heard++);
  FakeSocket.last.say({ type: "message", seq: 2, from: "bob", identity: "bob", data: 1 });
  assert.equal(heard, 1);
  assert.equal(reported.mock.callCount(), 1);
  reported.mock.restore();
});

test("close says bye and stays closed", async () => {
  const client = await opened();
  const socket = FakeSocket.last;
  client.close();
  assert.equal(socket.sent.at(-1).type, "bye");
  assert.equal(socket.closedWith, 1000);
  mock.timers.tick(60_000);
  await settle();
  assert.equal(FakeSocket.all.length, 1);
});

function entry(peer, more = {}) {
  return { peer, identity: peer, polite: false, ...more };
}
