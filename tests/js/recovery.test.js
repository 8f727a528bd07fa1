import assert from "node:assert/strict";
import { mock, test } from "node:test";

import { PeerConnection } from "../../signal_server/browser/js/parley.js";
import { inFakeTime, opened } from "./clients.js";
import { FakeClient, FakeSocket, settle } from "./fakes.js";

inFakeTime();

/** An impolite end whose path has brought that many bytes. */
function connected() {
  const client = new FakeClient();
  const link = new PeerConnection(client, "bob", { polite: false });
  const { rtc } = link;
  rtc.bytesReceived = 100;
  rtc.getStats = async () =>
    new Map([["P", { id: "P", type: "candidate-pair", bytesReceived: rtc.bytesReceived }]]);
  rtc.become("connected");
  return { client, link, rtc };
}

async function pass(ms) {
  await settle();
  mock.timers.tick(ms);
  await settle();
}

test("on another network a path that brings nothing for a second gets a new ICE session", async () => {
  const { link, rtc } = connected();
  link.networkChanged();
  await pass(999);
  assert.equal(rtc.restarts, 0);
  await pass(1);
  await pass(0);
  assert.equal(rtc.restarts, 1);
});

test("on another network a path that still brings something is left alone", async () => {
  const { link, rtc } = connected();
  link.networkChanged();
  await settle();
  rtc.bytesReceived += 1;
  await pass(1000);
  await pass(10_000);
  assert.equal(rtc.restarts, 0);
});

test("where the platform does not say what arrives, a connected path is left alone", async () => {
  const { link, rtc } = connected();
  rtc.getStats = async () => new Map();
  link.networkChanged();
  await pass(10_000);
  assert.equal(rtc.restarts, 0);
});

test("an ICE session that has just begun is not doubted", async () => {
  const { link, rtc } = connected();
  await link.networkChanged();
  await pass(1000);
  await pass(0);
  link.networkChanged();
  await pass(1000);
  await pass(0);
  assert.equal(rtc.restarts, 1);
});

test("a lost path is restored at once when the network is another one", async () => {
  const { link, rtc } = connected();
  rtc.become("disconnected");
  link.networkChanged();
  await pass(0);
  assert.equal(rtc.restarts, 1);
});

test("a lost path raises doubts about the way to the server", () => {
  const { client, rtc } = connected();
  assert.equal(client.checks, 0);
  rtc.become("disconnected");
  assert.equal(client.checks, 1);
});

test("a doubted connection that does not answer within 2.5 s is given up and the next one resumes", async () => {
  const client = await opened();
  client.checkConnection();
  mock.timers.tick(2499);
  await settle();
  assert.equal(client.state, "open");
  mock.timers.tick(1);
  await settle();
  assert.equal(client.state, "reconnecting");
  mock.timers.tick(500);
  await settle();
  assert.equal(FakeSocket.all.length, 2);
  FakeSocket.last.resumed();
  assert.equal(client.state, "open");
});

test("a doubted connection that answers goes on", async () => {
  const client = await opened();
  client.checkConnection();
  FakeSocket.last.say({ type: "pong", t: FakeSocket.last.lastSent("ping").t });
  await pass(5000);
  assert.equal(client.state, "open");
});

test("a token that does not come is asked for again", async () => {
  let asked = 0;
  const getToken = () => (++asked === 2 ? new Promise(() => {}) : "t");
  await opened({ getToken });
  FakeSocket.last.drop(1006);
  await pass(250);
  assert.equal(asked, 2);
  await pass(10_000);
  await pass(500);
  assert.equal(asked, 3);
  assert.equal(FakeSocket.all.length, 2);
});

const servers = (name) => [{ urls: ["turn:relay.example"], username: name, credential: "c" }];
const pushed = (seq, name, expires_at = 9e9) =>
  ({ type: "ice_servers", seq, ice_servers: servers(name), ttl: 600, expires_at });

test("fresh ICE servers reach the configuration when they come, and the next restart uses them", async () => {
  const client = await opened({ welcome: { ice_servers: servers("old"), ice_expires_at: 9e9 } });
  const link = client.peerConnection("bob", { rtcConfiguration: { iceServers: servers("old"), bundlePolicy: "max-bundle" } });
  FakeSocket.last.say(pushed(1, "new"));
  assert.deepEqual(link.rtc.configuration, { iceServers: servers("new"), bundlePolicy: "max-bundle" });
  assert.equal(link.rtc.restarts, 0);
  await link.restartIce();
  assert.deepEqual(link.rtc.configuration.iceServers, servers("new"));
  assert.equal(FakeSocket.last.lastSent("ice_servers"), undefined);
});

test("ICE servers of one's own are not replaced", async () => {
  const client = await opened();
  const own = client.peerConnection("bob", { rtcConfiguration: { iceServers: servers("own") }, refreshIceServers: false });
  const none = client.peerConnection("cleo");
  FakeSocket.last.say(pushed(1, "new"));
  assert.deepEqual(own.rtc.configuration.iceServers, servers("own"));
  assert.deepEqual(none.rtc.configuration, {});
});

test("servers that are about to expire are asked for again before a restart", async () => {
  const client = await opened({ welcome: { ice_servers: servers("old"), ice_expires_at: Date.now() / 1000 + 59 } });
  const link = client.peerConnection("bob", { rtcConfiguration: { iceServers: servers("old") } });
  const restarted = link.restartIce();
  await settle();
  FakeSocket.last.say(pushed(1, "new"));
  FakeSocket.last.ok("ice_servers");
  await restarted;
  assert.deepEqual(link.rtc.configuration.iceServers, servers("new"));
  assert.equal(link.rtc.restarts, 1);
});
