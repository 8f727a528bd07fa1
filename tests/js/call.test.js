import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";

import { SignalingClient } from "../../signal_server/browser/js/parley.js";
import { FakeRtc, FakeSocket, settle } from "./fakes.js";

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

/** Clients of one room, each able to write to the other at once. */
async function room(...names) {
  const people = {};
  for (const [rank, name] of names.entries()) {
    const client = new SignalingClient({
      url: "ws://x", token: "t", WebSocket: FakeSocket, RTCPeerConnection: FakeCallRtc, MediaStream: FakeStream,
    });
    clients.push(client);
    const welcome = client.connect();
    await settle();
    const socket = FakeSocket.last;
    socket.welcome({ peer: name, ice_servers: SERVERS, ice_expires_at: 4e9 });
    await welcome;
    const entry = (other) => ({ peer: other, identity: other, polite: names.indexOf(other) < rank });
    const joined = client.join("garden");
    socket.say({ type: "room", room: "garden", epoch: 1, revision: 1, peers: names.filter((n) => n !== name).map(entry) });
    socket.say({ type: "ok", id: socket.lastSent("join").id });
    await joined;
    people[name] = { client, socket, outbox: [] };
  }
  let number = 0;
  for (const [name, person] of Object.entries(people)) {
    person.socket.send = (text) => {
      const message = JSON.parse(text);
      person.outbox.push(message);
      const target = people[message.to];
      if (!target) return;
      const negotiation = message.type === "offer" ? ++number : message.negotiation;
      queueMicrotask(() => {
        target.socket.say({ ...message, id: undefined, from: name, identity: name, negotiation });
        if (message.id) person.socket.say({ type: "ok", id: message.id, negotiation });
      });
    };
  }
  return people;
}

const actions = ({ outbox }) => outbox.filter(({ type }) => type === "message").map(({ data }) => data.action);
const rings = ({ client }) => new Promise((resolve) => client.on("call", resolve));
const ends = (call) => new Promise((resolve) => call.on("ended", ({ reason }) => resolve(reason)));

beforeEach(() => {
  FakeSocket.all = [];
  mock.timers.enable({ apis: ["setTimeout"] });
});

afterEach(() => {
  for (const client of clients.splice(0)) client.close();
  mock.timers.reset();
});

test("a call is rung, accepted and negotiated, with the server's ICE servers", async () => {
  const { ada, bob } = await room("ada", "bob");
  const ringing = rings(bob);
  const call = ada.client.call("bob", { stream: new FakeStream("audio", "video"), iceTransportPolicy: "relay" });
  const incoming = await ringing;
  assert.deepEqual(incoming.remoteMedia, { audio: true, video: true });
  assert.equal(incoming.state, "ringing");
  await incoming.accept({ stream: new FakeStream("audio") });
  await settle();
  assert.equal(call.state, "connecting");
  assert.deepEqual(call.connection.rtc.configuration.iceServers, SERVERS);
  assert.equal(call.connection.rtc.configuration.iceTransportPolicy, "relay");
  assert.deepEqual(call.connection.rtc.transceivers.map(({ direction }) => direction), ["sendrecv", "sendrecv"]);
  assert.equal(call.connection.rtc.signalingState, "stable");
  assert.deepEqual(call.remoteMedia, { audio: true, video: false });
  call.connection.rtc.become("connected");
  assert.equal(call.state, "active");
});

test("a declined call ends on both sides", async () => {
  const { ada, bob } = await room("ada", "bob");
  const ringing = rings(bob);
  const over = ends(ada.client.call("bob"));
  (await ringing).decline();
  assert.equal(await over, "declined");
});

test("a caller who gives up stops the ringing", async () => {
  const { ada, bob } = await room("ada", "bob");
  const ringing = rings(bob);
  const call = ada.client.call("bob");
  const over = ends(await ringing);
  call.hangup();
  assert.equal(call.endReason, "canceled");
  assert.equal(await over, "canceled");
});

test("nobody answers: the caller cancels after its patience", async () => {
  const { ada, bob } = await room("ada", "bob");
  const ringing = rings(bob);
  const call = ada.client.call("bob");
  const over = ends(await ringing);
  mock.timers.tick(45_000);
  assert.equal(call.endReason, "no_answer");
  assert.equal(await over, "canceled");
});

test("whoever is in a call is busy", async () => {
  const { ada, bob, eve } = await room("ada", "bob", "eve");
  const ringing = rings(bob);
  ada.client.call("bob");
  await ringing;
  assert.equal(await ends(eve.client.call("bob")), "busy");
});

test("two who ring each other get one call", async () => {
  const { ada, bob } = await room("ada", "bob");
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

test("hanging up, and leaving, end the call for the other", async () => {
  const { ada, bob } = await room("ada", "bob");
  const ringing = rings(bob);
  const call = ada.client.call("bob");
  const incoming = await ringing;
  await incoming.accept();
  await settle();
  const over = ends(incoming);
  call.hangup();
  assert.equal(await over, "user_hangup");
  assert.equal(incoming.connection.closed, true);

  const again = rings(bob);
  ada.client.call("bob");
  const second = ends(await again);
  bob.socket.say({ type: "peer_left", revision: 2, peer: "ada", identity: "ada", reason: "left" });
  assert.equal(await second, "unreachable");
});

test("mute and tracks change without a new negotiation and are told", async () => {
  const { ada, bob } = await room("ada", "bob");
  const ringing = rings(bob);
  const stream = new FakeStream("audio");
  const call = ada.client.call("bob", { stream });
  const incoming = await ringing;
  await incoming.accept();
  await settle();
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
  const { ada, bob } = await room("ada", "bob");
  const ringing = rings(bob);
  const call = ada.client.call("bob");
  const incoming = await ringing;
  await incoming.accept();
  await settle();
  const before = [call.connection, incoming.connection];
  await incoming.setIceTransportPolicy("relay");
  await settle();
  assert.ok(before.every(({ closed }) => closed));
  assert.equal(incoming.connection.rtc.configuration.iceTransportPolicy, "relay");
  assert.equal(call.connection.rtc.configuration.iceTransportPolicy, undefined);
  assert.equal(call.connection.rtc.signalingState, "stable");
  assert.equal(call.state, "connecting");
  assert.deepEqual(actions(bob).slice(-1), ["reconnect"]);
});

test("both change the ICE policy at once and still agree on one connection", async () => {
  const { ada, bob } = await room("ada", "bob");
  const ringing = rings(bob);
  const call = ada.client.call("bob");
  const incoming = await ringing;
  await incoming.accept();
  await settle();
  await Promise.all([call.setIceTransportPolicy("relay"), incoming.setIceTransportPolicy("relay")]);
  await settle();
  for (const { connection } of [call, incoming]) {
    assert.equal(connection.rtc.configuration.iceTransportPolicy, "relay");
    assert.equal(connection.rtc.signalingState, "stable");
    assert.ok(connection.rtc.currentRemoteDescription);
  }
});

test("nobody answers the wish for a new connection: the call ends", async () => {
  const { ada, bob } = await room("ada", "bob");
  const ringing = rings(bob);
  const call = ada.client.call("bob");
  await (await ringing).accept();
  await settle();
  bob.client.onMessage = () => {};
  await call.setIceTransportPolicy("relay");
  mock.timers.tick(15_000);
  assert.equal(call.endReason, "unreachable");
});
