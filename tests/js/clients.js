/** Signaling clients on fake sockets, for tests; all are closed when their test ends. */

import { afterEach, beforeEach, mock } from "node:test";

import { SignalingClient } from "../../signal_server/browser/js/parley.js";
import { FakeRtc, FakeSocket, settle } from "./fakes.js";

/** @type {SignalingClient[]} */
const clients = [];

/** Every test of the file has fake timers and no sockets yet. */
export function inFakeTime() {
  beforeEach(() => {
    FakeSocket.all = [];
    mock.timers.enable({ apis: ["setTimeout", "Date"] });
  });
  afterEach(() => {
    closeAll();
    mock.timers.reset();
  });
}

export function closeAll() {
  for (const client of clients.splice(0)) client.close();
}

/** Not connected yet. */
export function newClient(options = {}) {
  const client = new SignalingClient({
    url: "ws://x/v1/signal", token: "t", transport: "websocket", WebSocket: FakeSocket,
    RTCPeerConnection: FakeRtc, random: () => 0.5, ...options,
  });
  clients.push(client);
  return client;
}

/** Welcomed, with these fields. */
export async function opened({ welcome, ...options } = {}) {
  const client = newClient(options);
  const connecting = client.connect();
  await settle();
  FakeSocket.last.welcome(welcome);
  await connecting;
  return client;
}

/** In the room "garden" at revision 5, with these others. */
export async function inRoom(peers = [], options = {}) {
  const client = await opened(options);
  const joined = client.join("garden", { name: "Ada" });
  FakeSocket.last.say({ type: "room", seq: 1, room: "garden", epoch: 1, revision: 5, peers });
  FakeSocket.last.ok("join", { room: "garden" });
  await joined;
  return client;
}
