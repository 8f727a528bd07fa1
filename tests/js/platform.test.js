import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import { closeAll, newClient } from "./clients.js";
import { FakeSocket, settle } from "./fakes.js";

/** @type {EventTarget} */
let page;

beforeEach(() => {
  FakeSocket.all = [];
  page = new EventTarget();
  for (const name of ["addEventListener", "removeEventListener"]) {
    globalThis[name] = (...how) => page[name](...how);
  }
});

afterEach(() => {
  closeAll();
  delete globalThis.addEventListener;
  delete globalThis.removeEventListener;
});

const tell = (name, fields = {}) => page.dispatchEvent(Object.assign(new Event(name), fields));

class FakeStorage extends Map {
  getItem = (key) => this.get(key) ?? null;
  setItem = (key, value) => void this.set(key, value);
  removeItem = (key) => void this.delete(key);
}

async function opened(options = {}) {
  const client = newClient({ room: "garden", ...options });
  const welcome = client.connect();
  await settle();
  FakeSocket.last.welcome();
  if (FakeSocket.last.lastSent("join")) FakeSocket.last.ok("join");
  FakeSocket.last.say({ type: "room", seq: 1, room: "garden", epoch: 1, revision: 1, peers: [] });
  await welcome;
  return client;
}

test("a page that goes says goodbye", async () => {
  const client = await opened();
  const socket = FakeSocket.last;
  tell("pagehide", { persisted: false });
  assert.ok(socket.lastSent("bye"));
  assert.equal(socket.closedWith, 1000);
  assert.equal(client.state, "closed");
});

test("a page that is put aside keeps its session, and looks at it when it is back", async () => {
  const client = await opened();
  tell("pagehide", { persisted: true });
  assert.equal(FakeSocket.last.lastSent("bye"), undefined);
  tell("pageshow", { persisted: true });
  assert.ok(FakeSocket.last.lastSent("ping"));
  assert.equal(client.state, "open");
});

test("a page with a storage leaves its ticket to the next one, once", async () => {
  const storage = new FakeStorage();
  await opened({ storage });
  assert.equal(storage.size, 0, "a copy of the tab finds nothing");
  tell("pagehide", { persisted: false });
  assert.equal(FakeSocket.last.lastSent("bye"), undefined);
  assert.equal(storage.size, 1);
  await opened({ storage });
  assert.deepEqual(FakeSocket.last.lastSent("hello").replaces, { session: "s1", secret: "x" });
  assert.equal(storage.size, 0);
});

test("no ticket is left that would be of no use, or cannot be kept", async () => {
  const full = new FakeStorage();
  full.setItem = () => {
    throw new Error("quota");
  };
  for (const options of [{ storage: full }, { storage: new FakeStorage(), room: undefined }]) {
    await opened(options);
    const socket = FakeSocket.last;
    tell("pagehide", { persisted: false });
    assert.ok(socket.lastSent("bye"));
  }
});

test("what is no ticket is not one", async () => {
  const storage = new FakeStorage();
  storage.getItem = () => "{";
  await opened({ storage });
  assert.equal(FakeSocket.last.lastSent("hello").replaces, undefined);
});

for (const name of ["online", "offline"]) {
  test(`the platform says ${name}: look at the connection`, async () => {
    const client = await opened();
    tell(name);
    assert.ok(FakeSocket.last.lastSent("ping"));
    client.close();
    tell("pagehide", { persisted: false });
    assert.equal(FakeSocket.all.length, 1);
  });
}
