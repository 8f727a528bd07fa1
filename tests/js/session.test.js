import assert from "node:assert/strict";
import { mock, test } from "node:test";

import { inFakeTime, inRoom as inRoomWith, opened } from "./clients.js";
import { FakeSocket, settle } from "./fakes.js";

inFakeTime();

const entry = (peer, more = {}) => ({ peer, identity: peer, polite: false, ...more });
const roomOf = (revision, ...peers) => ({ room: "garden", epoch: 1, revision, peers: peers.map((peer) => entry(peer)) });

const inRoom = (...peers) => inRoomWith(roomOf(5, ...peers).peers);

/** The connection breaks; returns the next one, on which nothing has been said. */
async function broken(code = 1006) {
  FakeSocket.last.drop(code);
  mock.timers.tick(1_000);
  await settle();
  return FakeSocket.last;
}

const note = (seq, data) => ({ type: "message", seq, from: "bob", identity: "bob", data });

test("a lost connection is resumed: same peer, same room, no second join", async () => {
  const client = await inRoom("bob");
  const states = [];
  client.on("state", ({ state }) => states.push(state));
  const socket = await broken();
  socket.resumed({ rooms: [roomOf(5, "bob")] });
  assert.deepEqual(socket.lastSent("hello").resume, { session: "s1", secret: "x", last_seq: 1 });
  assert.deepEqual(states, ["reconnecting", "open"]);
  assert.equal(socket.lastSent("join"), undefined);
  assert.deepEqual([...client.peers.keys()], ["bob"]);
});

test("every resume uses the latest secret and number", async () => {
  const client = await inRoom("bob");
  const heard = [];
  client.on("message", ({ data }) => heard.push(data));
  (await broken()).resumed({ rooms: [roomOf(5, "bob")] });
  FakeSocket.last.say(note(2, "missed"));
  const socket = await broken();
  socket.resumed({ rooms: [roomOf(5, "bob")] });
  assert.deepEqual(socket.lastSent("hello").resume, { session: "s1", secret: "y", last_seq: 2 });
  socket.say(note(2, "missed"));
  socket.say(note(3, "new"));
  assert.deepEqual(heard, ["missed", "new"]);
});

test("a new secret takes the place of the former one, and is nobody's news", async () => {
  const client = await inRoom("bob");
  const heard = [];
  client.on("message", (message) => heard.push(message));
  FakeSocket.last.say({ type: "new_secret", resume: { secret: "n", window_s: 60 } });
  assert.deepEqual(client.ticket, { session: "s1", secret: "n" });
  const socket = await broken();
  socket.resumed({ rooms: [roomOf(5, "bob")] });
  assert.deepEqual(socket.lastSent("hello").resume, { session: "s1", secret: "n", last_seq: 1 });
  assert.deepEqual(heard, []);
});

test("a hole in the numbers is not passed over: the client resumes from before it", async () => {
  const client = await inRoom("bob");
  const heard = [];
  client.on("message", ({ data }) => heard.push(data));
  const first = FakeSocket.last;
  first.say(note(3, "too early"));
  assert.equal(first.closedWith, 4003);
  mock.timers.tick(250);
  await settle();
  FakeSocket.last.resumed({ rooms: [roomOf(5, "bob")] });
  assert.equal(FakeSocket.last.lastSent("hello").resume.last_seq, 1);
  assert.deepEqual(heard, []);
});

test("what arrived is acknowledged with the next message, after 20 messages, or after 5 s", async () => {
  const client = await inRoom("bob");
  const socket = FakeSocket.last;
  const rest = client.request("message", { data: 1 });
  assert.equal(socket.sent.at(-1).ack, 1);
  socket.ok("message");
  await rest;
  client.notify("applied", {});
  assert.equal(socket.sent.at(-1).ack, undefined);

  for (let seq = 2; seq <= 20; seq++) socket.say(note(seq, seq));
  assert.equal(socket.lastSent("ack"), undefined);
  socket.say(note(21, 21));
  assert.equal(socket.lastSent("ack").seq, 21);

  socket.say(note(22, 22));
  mock.timers.tick(4_999);
  assert.equal(socket.lastSent("ack").seq, 21);
  mock.timers.tick(1);
  assert.equal(socket.lastSent("ack").seq, 22);
});

test("unanswered requests are sent again with their ids, in their order", async () => {
  const client = await inRoom("bob");
  const before = FakeSocket.last;
  const answered = client.request("message", { data: 0 });
  before.ok("message");
  await answered;
  const first = client.request("message", { data: 1 });
  client.post("candidate", { to: "bob" });
  const ids = before.sent.slice(-2).map(({ id }) => id);
  const socket = await broken();
  const third = client.request("message", { data: 3 });
  socket.resumed({ rooms: [roomOf(5, "bob")] });
  const again = socket.sent.slice(1);
  assert.deepEqual(again.map(({ type }) => type), ["message", "candidate", "message"]);
  assert.deepEqual(again.slice(0, 2).map(({ id }) => id), ids);
  for (const { id } of again) socket.say({ type: "ok", id });
  await Promise.all([first, third]);
});

test("a request's time runs only on a connection", async () => {
  const client = await inRoom("bob");
  const request = client.request("message", { data: 1 });
  mock.timers.tick(9_000);
  FakeSocket.last.drop(1006);
  mock.timers.tick(8_000);
  await settle();
  FakeSocket.last.resumed({ rooms: [roomOf(5, "bob")] });
  mock.timers.tick(9_999);
  FakeSocket.last.ok("message");
  await request;
});

for (const code of ["resume_expired", "resume_gap"]) {
  test(`${code}: the application is told and everything begins anew on the same connection`, async () => {
    const client = await inRoom("bob");
    const lost = [];
    client.on("session_lost", ({ reason }) => lost.push(reason));
    const waiting = client.request("message", { data: 1 });
    const socket = await broken();
    socket.open();
    socket.say({ type: "error", id: socket.lastSent("hello").id, code, message: "over" });
    await assert.rejects(waiting, { code, retryable: true });
    assert.deepEqual([lost, client.peers.size], [[code], 0]);
    assert.equal(socket.lastSent("hello").resume, undefined);
    socket.readyState = 1;
    socket.say({
      type: "welcome", session: "s2", peer: "me2", identity: "ada", node: "n", region: "local",
      resume: { secret: "z", window_s: 60 }, ping_interval_s: 10, limits: {},
    });
    assert.deepEqual([client.peer, client.state], ["me2", "open"]);
    assert.deepEqual(socket.lastSent("join").data, { name: "Ada" });
    socket.say({ type: "room", seq: 1, ...roomOf(9, "carol") });
    assert.deepEqual([...client.peers.keys()], ["carol"]);
  });
}

test("the snapshot of a resume leaves no ghost, and what it contains is not told again", async () => {
  const client = await inRoom("bob", "carol");
  const left = [];
  client.on("peer_left", ({ peer }) => left.push(peer));
  const links = ["bob", "carol"].map((peer) => client.peerConnection(peer));
  const socket = await broken();
  socket.resumed({ rooms: [roomOf(7, "carol", "dora")] });
  socket.say({ type: "peer_left", seq: 2, revision: 6, peer: "bob", identity: "bob", reason: "left" });
  socket.say({ type: "peer_joined", seq: 3, revision: 7, ...entry("dora") });
  assert.deepEqual([left, [...client.peers.keys()]], [["bob"], ["carol", "dora"]]);
  assert.deepEqual(links.map(({ closed }) => closed), [true, false]);
  socket.say({ type: "peer_left", seq: 4, revision: 8, peer: "dora", identity: "dora", reason: "left" });
  assert.deepEqual(left, ["bob", "dora"]);
});

test("superseded ends the client with an event", async () => {
  const client = await opened();
  const heard = [];
  client.on("superseded", () => heard.push("superseded"));
  client.on("error", ({ code }) => heard.push(code));
  FakeSocket.last.drop(4502);
  assert.deepEqual([heard, client.state], [["superseded", "superseded"], "closed"]);
  mock.timers.tick(60_000);
  await settle();
  assert.equal(FakeSocket.all.length, 1);
});

test("an expiring token is refreshed with a new one from getToken", async () => {
  let issued = 0;
  await opened({ token: undefined, getToken: async () => `t${++issued}` });
  FakeSocket.last.say({ type: "token_expiring", seq: 1, expires_in_s: 60 });
  await settle();
  assert.equal(FakeSocket.last.lastSent("refresh").token, "t2");
  FakeSocket.last.ok("refresh");
});

test("without getToken the application is told, and refreshes", async () => {
  const client = await opened();
  const told = [];
  client.on("token_expiring", ({ expiresInS }) => told.push(expiresInS));
  FakeSocket.last.say({ type: "token_expiring", seq: 1, expires_in_s: 60 });
  assert.deepEqual([told, FakeSocket.last.lastSent("refresh")], [[60], undefined]);
  const done = client.refresh("fresh");
  FakeSocket.last.ok("refresh");
  await done;
  (await broken()).resumed();
  assert.equal(FakeSocket.last.lastSent("hello").token, "fresh");
});

test("a posted message that was too fast is sent again, one that is moot is not an error", async () => {
  const client = await inRoom("bob");
  const errors = [];
  client.on("error", ({ code }) => errors.push(code));
  const socket = FakeSocket.last;
  client.post("candidate", { to: "bob" });
  socket.say({ type: "error", id: socket.lastSent("candidate").id, code: "rate_limited", message: "", retry_after_ms: 300 });
  await settle();
  const before = socket.sent.length;
  mock.timers.tick(300);
  assert.equal(socket.sent.length, before + 1);
  for (const code of ["not_found", "stale_generation", "bad_request"]) {
    if (code !== "not_found") client.post("candidate", { to: "bob" });
    socket.say({ type: "error", id: socket.lastSent("candidate").id, code, message: "" });
  }
  await settle();
  assert.deepEqual(errors, ["bad_request"]);
});
