import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";

import { SignalingClient } from "../../signal_server/browser/js/parley.js";
import { FakeCalls, FakeRtc, FakeSocket, settle } from "./fakes.js";

class FakeTrack {
  enabled = true;
  constructor(kind) {
    this.kind = kind;
  }
}

class FakeStream {
  tracks = [];
  constructor(...kinds) {
    this.tracks = kinds.map((kind) => new FakeTrack(kind));
  }
  getTracks() {
    return this.tracks;
  }
  addTrack(track) {
    this.tracks.push(track);
  }
}

/** Transceivers on top of the negotiation fake. */
class FakeCallRtc extends FakeRtc {
  transceivers = [];
  addTransceiver(trackOrKind, { direction }) {
    const kind = trackOrKind.kind ?? trackOrKind;
    const sender = { track: trackOrKind.kind ? trackOrKind : null, replaceTrack: async (track) => (sender.track = track) };
    this.transceivers.push({ direction, sender, receiver: { track: new FakeTrack(kind) } });
    if (this.transceivers.length === 1) queueMicrotask(() => this.needNegotiation());
  }
  getTransceivers() {
    return this.transceivers;
  }
}

const SERVERS = [{ urls: ["turn:relay.example"] }];
let clients = [];

/** Clients of one room; "bo.tablet" is a device of "bo". */
async function room(names, options = {}) {
  const people = {};
  for (const [rank, name] of names.entries()) {
    const client = new SignalingClient({
      url: "ws://x", token: "t", transport: "websocket", ...options,
      WebSocket: FakeSocket, RTCPeerConnection: FakeCallRtc, MediaStream: FakeStream,
    });
    clients.push(client);
    const welcome = client.connect();
    await settle();
    const socket = FakeSocket.last;
    socket.welcome({ peer: name, identity: identityOf(name), ice_servers: SERVERS, ice_expires_at: 4e9 });
    await welcome;
    const entry = (other) => ({ peer: other, identity: identityOf(other), polite: names.indexOf(other) < rank });
    const joined = client.join("garden");
    socket.say({ type: "room", room: "garden", epoch: 1, revision: 1, peers: names.filter((n) => n !== name).map(entry) });
    socket.ok("join");
    await joined;
    people[name] = { client, socket, identity: identityOf(name), outbox: [] };
  }
  const calls = new FakeCalls(people);
  let number = 0;
  for (const [name, person] of Object.entries(people)) {
    person.socket.send = (text) => {
      const message = JSON.parse(text);
      person.outbox.push(message);
      const target = typeof message.to === "string" ? people[message.to] : undefined;
      const negotiation = message.type === "offer" ? ++number : message.negotiation;
      queueMicrotask(() => {
        const ok = message.type.startsWith("call_") ? calls.handle(name, message) : {};
        if (target) target.socket.say({ ...message, id: undefined, from: name, identity: person.identity, negotiation });
        if (message.id) person.socket.say({ type: "ok", id: message.id, negotiation, ...ok });
      });
    };
  }
  return people;
}

const identityOf = (name) => name.split(".")[0];
const notes = ({ outbox }) => outbox.filter(({ type }) => type === "message").map(({ data }) => data.about);
const steps = ({ outbox }) => outbox.map(({ type }) => type).filter((type) => type.startsWith("call_"));
const rings = ({ client }) => new Promise((resolve) => client.on("call", resolve));
const ends = (call) => new Promise((resolve) => call.on("ended", ({ reason }) => resolve(reason)));

/** A call from ada to bob that bob has accepted. */
async function inCall(people, options = {}) {
  const ringing = rings(people.bob);
  const call = people.ada.client.call("bob", options);
  const incoming = await ringing;
  await incoming.accept();
  await settle();
  return [call, incoming];
}

beforeEach(() => {
  FakeSocket.all = [];
  mock.timers.enable({ apis: ["setTimeout"] });
});

afterEach(() => {
  for (const client of clients.splice(0)) client.close();
  mock.timers.reset();
});

test("a call is rung, accepted and negotiated, with the server's ICE servers", async () => {
  const { ada, bob } = await room(["ada", "bob"]);
  const ringing = rings(bob);
  const call = ada.client.call("bob", { stream: new FakeStream("audio", "video"), iceTransportPolicy: "relay" });
  assert.equal(call.state, "calling");
  const incoming = await ringing;
  assert.deepEqual([incoming.remoteMedia, incoming.identity], [{ audio: true, video: true }, "ada"]);
  assert.equal(incoming.state, "ringing");
  await settle();
  assert.equal(call.state, "ringing");
  const accepted = new Promise((resolve) => call.on("accepted", resolve));
  await incoming.accept({ stream: new FakeStream("audio") });
  assert.deepEqual(await accepted, { device: "bob", identity: "bob", media: { audio: true, video: false } });
  await settle();
  assert.deepEqual([call.state, call.peer], ["connecting", "bob"]);
  assert.deepEqual(call.connection.rtc.configuration.iceServers, SERVERS);
  assert.equal(call.connection.rtc.configuration.iceTransportPolicy, "relay");
  assert.deepEqual(incoming.connection.rtc.configuration.iceServers, SERVERS);
  assert.deepEqual(call.connection.rtc.transceivers.map(({ direction }) => direction), ["sendrecv", "sendrecv"]);
  assert.equal(call.connection.rtc.signalingState, "stable");
  assert.deepEqual(call.remoteMedia, { audio: true, video: false });
  call.connection.rtc.become("connected");
  assert.equal(call.state, "active");
});

test("a peer of the room is called in this room, a stranger in a room of the call's own", async () => {
  const { ada, bob } = await room(["ada", "bob"]);
  const invitation = () => ada.outbox.findLast(({ type }) => type === "call_invite");
  ada.client.call("bob", { lifetimeS: 20, data: { topic: 1 } });
  assert.deepEqual(invitation().to, ["bob"]);
  assert.deepEqual([invitation().room, invitation().lifetime_s, invitation().data], ["garden", 20, { topic: 1 }]);
  ada.client.call(bob.client.peers.get("ada"), { video: true });
  assert.equal(invitation().media.video, true);
  ada.client.call(["carol", "dora"]);
  assert.deepEqual([invitation().to, invitation().room], [["carol", "dora"], undefined]);
});

test("all devices of an identity ring, one answers, the others learn it", async () => {
  const people = await room(["ada", "bo.phone", "bo.tablet"]);
  const { ada } = people;
  const ringing = Promise.all([rings(people["bo.phone"]), rings(people["bo.tablet"])]);
  const call = ada.client.call("bo");
  const [phone, tablet] = await ringing;
  const elsewhere = ends(phone);
  await tablet.accept();
  assert.equal(await elsewhere, "answered_elsewhere");
  await settle();
  assert.equal(call.peer, "bo.tablet");
  assert.equal(ada.outbox.find(({ type }) => type === "offer").to, "bo.tablet");
});

test("a declined call ends on both sides", async () => {
  const { ada, bob } = await room(["ada", "bob"]);
  const ringing = rings(bob);
  const over = ends(ada.client.call("bob"));
  (await ringing).decline();
  assert.equal(await over, "declined");
});

test("busy is this device's answer: another one may still take the call", async () => {
  const people = await room(["ada", "bo.phone", "bo.tablet"]);
  const ringing = Promise.all([rings(people["bo.phone"]), rings(people["bo.tablet"])]);
  const call = people.ada.client.call("bo");
  const [phone, tablet] = await ringing;
  phone.busy();
  await settle();
  assert.equal(call.state, "ringing");
  await tablet.accept();
  await settle();
  assert.equal(call.peer, "bo.tablet");
});

test("a caller who gives up stops the ringing, even before the call has its name", async () => {
  const { ada, bob } = await room(["ada", "bob"]);
  const ringing = rings(bob);
  const call = ada.client.call("bob");
  call.hangup();
  assert.equal(call.endReason, "canceled");
  assert.equal(await ends(await ringing), "canceled");
});

test("a refused invitation ends the call with the server's words", async () => {
  const { ada } = await room(["ada"]);
  ada.socket.send = (text) => {
    const { id } = JSON.parse(text);
    queueMicrotask(() => ada.socket.say({ type: "error", id, code: "forbidden", message: "the token does not grant call" }));
  };
  const over = new Promise((resolve) => ada.client.call("bob").on("ended", resolve));
  const { reason, error } = await over;
  assert.deepEqual([reason, error.code], ["unreachable", "forbidden"]);
});

test("messages about a call that overtake its name are not lost", async () => {
  const { ada } = await room(["ada", "bob"]);
  ada.socket.send = (text) => ada.outbox.push(JSON.parse(text));
  const call = ada.client.call("bob");
  ada.socket.say({ type: "call_ringing", call: "c1", device: "bob", identity: "bob" });
  ada.socket.say({ type: "ok", id: ada.outbox.find(({ type }) => type === "call_invite").id, call: "c1" });
  await settle();
  assert.equal(call.state, "ringing");
});

test("a call whose name comes after everything else connects nevertheless", async () => {
  const { ada } = await room(["ada", "bob"]);
  ada.socket.send = (text) => ada.outbox.push(JSON.parse(text));
  const call = ada.client.call("carol");
  const sent = (type) => ada.outbox.findLast((message) => message.type === type);
  const media = { audio: true, video: false };
  ada.socket.say({ type: "call_accepted", call: "c1", from: "ada", device: "carol", identity: "carol", room: "c1", media });
  ada.socket.say({ type: "room", room: "c1", epoch: 2, revision: 2, peers: [{ peer: "carol", identity: "carol", polite: false }] });
  await settle();
  assert.equal(call.state, "calling");
  ada.socket.say({ type: "ok", id: sent("call_invite").id, call: "c1" });
  await settle();
  assert.deepEqual([call.state, sent("offer").to], ["connecting", "carol"]);
});

test("whoever is in a call is busy, or has a call waiting", async () => {
  const { ada, bob, eve } = await room(["ada", "bob", "eve"]);
  await inCall({ ada, bob });
  assert.equal(await ends(eve.client.call("bob")), "busy");
});

test("answering a waiting call ends the one before", async () => {
  const { ada, bob, eve } = await room(["ada", "bob", "eve"], { callWaiting: true });
  const [first, answered] = await inCall({ ada, bob });
  const ringing = rings(bob);
  eve.client.call("bob");
  const second = await ringing;
  assert.equal(second.isWaiting, true);
  const over = ends(first);
  await second.accept();
  assert.equal(await over, "user_hangup");
  assert.equal(answered.state, "ended");
  await settle();
  assert.deepEqual([second.peer, second.state], ["eve", "connecting"]);
});

test("two who ring each other get one call", async () => {
  const { ada, bob } = await room(["ada", "bob"]);
  const unexpected = [];
  for (const { client } of [ada, bob]) client.on("call", (call) => unexpected.push(call));
  const calls = [ada.client.call("bob"), bob.client.call("ada")];
  await settle();
  assert.deepEqual(unexpected, []);
  assert.equal(calls[0].id, calls[1].id);
  assert.deepEqual(calls.map(({ state }) => state), ["connecting", "connecting"]);
  const offers = [...ada.outbox, ...bob.outbox].filter(({ type }) => type === "offer");
  assert.equal(offers.length, 1);
});

test("hanging up ends the call for the other", async () => {
  const { ada, bob } = await room(["ada", "bob"]);
  const [call, incoming] = await inCall({ ada, bob });
  const over = ends(incoming);
  call.hangup();
  assert.equal(await over, "user_hangup");
  assert.equal(incoming.connection.closed, true);
  assert.deepEqual(steps(ada), ["call_invite", "call_hangup"]);
});

test("the other device leaves the room: the call is over and the server hears it", async () => {
  const { ada, bob } = await room(["ada", "bob"]);
  const [call, incoming] = await inCall({ ada, bob });
  bob.socket.say({ type: "peer_left", revision: 2, peer: "ada", identity: "ada", reason: "moved" });
  assert.equal(incoming.endReason, "unreachable");
  assert.equal(await ends(call), "user_hangup");
});

test("a call in a room of its own waits for the other there, and leads back", async () => {
  const { ada, bob } = await room(["ada", "bob"]);
  ada.socket.send = (text) => ada.outbox.push(JSON.parse(text));
  const call = ada.client.call("carol");
  const sent = (type) => ada.outbox.findLast((message) => message.type === type);
  ada.socket.say({ type: "ok", id: sent("call_invite").id, call: "c1" });
  await settle();
  const media = { audio: true, video: false };
  ada.socket.say({ type: "call_accepted", call: "c1", from: "ada", device: "carol", identity: "carol", room: "c1", media });
  ada.socket.say({ type: "room", room: "c1", epoch: 2, revision: 1, peers: [] });
  await settle();
  assert.equal(call.connection, null);
  ada.socket.say({ type: "peer_joined", revision: 2, peer: "carol", identity: "carol", polite: false });
  await settle();
  assert.equal(sent("offer").to, "carol");
  ada.socket.say({ type: "call_ended", call: "c1", reason: "user_hangup" });
  assert.equal(sent("join").room, "garden");
  assert.ok(bob);
});

test("mute and tracks change without a new negotiation and are told", async () => {
  const { ada, bob } = await room(["ada", "bob"]);
  const stream = new FakeStream("audio");
  const [call, incoming] = await inCall({ ada, bob }, { stream });
  const offers = () => ada.outbox.filter(({ type }) => type === "offer").length;
  const before = offers();
  call.mute(true);
  await settle();
  assert.equal(stream.tracks[0].enabled, false);
  assert.deepEqual(incoming.remoteMedia, { audio: false, video: false });
  const camera = new FakeTrack("video");
  await call.replaceTrack("video", camera);
  await settle();
  assert.equal(call.connection.rtc.transceivers[1].sender.track, camera);
  assert.deepEqual(incoming.remoteMedia, { audio: false, video: true });
  assert.equal(offers(), before);
});

test("a change of the ICE policy takes a new connection on both sides", async () => {
  const { ada, bob } = await room(["ada", "bob"]);
  const [call, incoming] = await inCall({ ada, bob });
  const before = [call.connection, incoming.connection];
  await incoming.setIceTransportPolicy("relay");
  await settle();
  assert.ok(before.every(({ closed }) => closed));
  assert.equal(incoming.connection.rtc.configuration.iceTransportPolicy, "relay");
  assert.equal(call.connection.rtc.configuration.iceTransportPolicy, undefined);
  assert.equal(call.connection.rtc.signalingState, "stable");
  assert.equal(call.state, "connecting");
  assert.deepEqual(notes(bob).slice(-1), ["reconnect"]);
});

test("both change the ICE policy at once and still agree on one connection", async () => {
  const { ada, bob } = await room(["ada", "bob"]);
  const [call, incoming] = await inCall({ ada, bob });
  await Promise.all([call.setIceTransportPolicy("relay"), incoming.setIceTransportPolicy("relay")]);
  await settle();
  for (const { connection } of [call, incoming]) {
    assert.equal(connection.rtc.configuration.iceTransportPolicy, "relay");
    assert.equal(connection.rtc.signalingState, "stable");
    assert.ok(connection.rtc.currentRemoteDescription);
  }
});

test("nobody answers the wish for a new connection: the call ends", async () => {
  const { ada, bob } = await room(["ada", "bob"]);
  const [call] = await inCall({ ada, bob });
  bob.client.onMessage = () => {};
  await call.setIceTransportPolicy("relay");
  mock.timers.tick(15_000);
  assert.equal(call.endReason, "unreachable");
});

test("a lost connection to the server leaves the call and its connection alone", async () => {
  const { ada, bob } = await room(["ada", "bob"]);
  const [call] = await inCall({ ada, bob });
  const { connection } = call;
  connection.rtc.become("connected");
  ada.socket.drop(1006);
  mock.timers.tick(500);
  await settle();
  FakeSocket.last.resumed({ rooms: [{ room: "garden", epoch: 1, revision: 1, peers: [{ peer: "bob", identity: "bob", polite: false }] }], calls: [{ call: call.id }] });
  assert.deepEqual([call.state, call.connection === connection, connection.closed], ["active", true, false]);
  assert.equal(connection.rtc.restarts, 0);
});

test("a path that is lost with the connection is restored as soon as the session goes on", async () => {
  const { ada, bob } = await room(["ada", "bob"]);
  const [call] = await inCall({ ada, bob });
  const { rtc } = call.connection;
  rtc.become("connected");
  ada.socket.drop(1006);
  rtc.become("disconnected");
  mock.timers.tick(500);
  await settle();
  FakeSocket.last.resumed({ rooms: [{ room: "garden", epoch: 1, revision: 1, peers: [{ peer: "bob", identity: "bob", polite: false }] }], calls: [{ call: call.id }] });
  mock.timers.tick(0);
  await settle();
  assert.equal(rtc.restarts, 1);
  assert.equal(FakeSocket.last.lastSent("offer").to, "bob");
});

test("a call that ended unheard while the connection was lost ends here, too", async () => {
  const { ada, bob } = await room(["ada", "bob"]);
  const [call] = await inCall({ ada, bob });
  ada.socket.drop(1006);
  mock.timers.tick(500);
  await settle();
  FakeSocket.last.resumed({ rooms: [{ room: "garden", epoch: 1, revision: 1, peers: [{ peer: "bob", identity: "bob", polite: false }] }] });
  assert.equal(call.state, "connecting");
  mock.timers.tick(5_000);
  assert.equal(call.endReason, "unreachable");
});
