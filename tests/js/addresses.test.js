import assert from "node:assert/strict";
import { beforeEach, mock, test } from "node:test";

import { nearestFirst } from "../../signal_server/browser/js/nearest.js";
import { inFakeTime, newClient } from "./clients.js";
import { FakeSocket, settle } from "./fakes.js";

const [A, B, C] = ["a", "b", "c"].map((host) => `ws://${host}/v1/signal`);

/** The hosts that answer pings. */
let answering = "a";

/** @param {string} to */
const fetch = async (to) => {
  const [, host] = /^http:\/\/(\w)\/v1\/probes\/ping$/.exec(to) ?? [];
  if (!answering.includes(host)) throw new TypeError("failed to fetch");
  return new Response("{}");
};

async function settled() {
  for (let turn = 0; turn < 20; turn++) await settle();
}

async function started(options = {}) {
  const client = newClient({ url: [A, B, C], fetch, ...options });
  client.connect().catch(() => {});
  await settled();
  return client;
}

const tried = () => FakeSocket.all.map(({ url }) => url);

inFakeTime();
beforeEach(() => {
  answering = "a";
});

test("the nearest is the one with the shortest median of three round trips", async () => {
  mock.timers.reset();
  const asked = { a: 0, b: 0, c: 0 };
  const delays = { a: [40, 40, 40], b: [200, 5, 5], c: [] };
  const found = await nearestFirst([A, C, B], async (to, { signal }) => {
    const { hostname } = new URL(to);
    const ms = delays[hostname][asked[hostname]++];
    await new Promise((resolve, reject) => {
      if (ms !== undefined) setTimeout(resolve, ms);
      signal.addEventListener("abort", () => reject(signal.reason));
    });
    return new Response("{}");
  });
  assert.deepEqual(found, [B, A, C]);
  assert.deepEqual(asked, { a: 3, b: 3, c: 1 });
});

test("nobody answers pings: the order is the given one", async () => {
  mock.timers.reset();
  assert.deepEqual(await nearestFirst([B, A], async () => new Response("", { status: 404 })), [B, A]);
});

test("one address is not measured", async () => {
  answering = "";
  await started({ url: A, fetch: () => assert.fail("asked") });
  await started({ url: [B], fetch: () => assert.fail("asked") });
  assert.deepEqual(tried(), [A, B]);
});

test("the nearest is taken, the next ones at once while it fails, then all again after a while", async () => {
  answering = "b";
  const client = await started();
  for (const url of [B, A, C]) {
    assert.equal(FakeSocket.last.url, url);
    FakeSocket.last.drop(1006);
    await settled();
  }
  assert.equal(FakeSocket.all.length, 3);
  // Measured anew.
  answering = "c";
  mock.timers.tick(250);
  await settled();
  assert.deepEqual(tried(), [B, A, C, C]);
  FakeSocket.last.welcome();
  assert.equal(client.state, "open");
});

test("a session that is lost is resumed at the nearest, or at the next", async () => {
  const client = await started();
  FakeSocket.last.drop(1006);
  await settled();
  FakeSocket.last.welcome();
  FakeSocket.last.drop(1006);
  mock.timers.tick(500);
  await settled();
  assert.deepEqual(tried(), [A, B, A]);
  FakeSocket.last.drop(1006);
  await settled();
  FakeSocket.last.resumed();
  assert.deepEqual([FakeSocket.last.url, client.state], [B, "open"]);
});

test("a node that takes nobody in is left for the next; one that says no for good is not", async () => {
  const client = await started();
  FakeSocket.last.open();
  FakeSocket.last.say({ type: "error", code: "draining", message: "", retryable: true });
  FakeSocket.last.drop(4000);
  await settled();
  assert.deepEqual(tried(), [A, B]);
  FakeSocket.last.open();
  FakeSocket.last.say({ type: "error", code: "unauthenticated", message: "", retryable: false });
  FakeSocket.last.drop(4500);
  await settled();
  assert.deepEqual([tried(), client.state], [[A, B], "closed"]);
});

for (const [url, next] of [[undefined, B], ["ws://d/v1/signal", "ws://d/v1/signal"], ["http://d/", B]]) {
  test(`a node that goes away and names ${url} is left for ${next}`, async () => {
    await started();
    FakeSocket.last.welcome();
    FakeSocket.last.say({ type: "go_away", seq: 1, reason: "shutdown", reconnect_after_ms: 100, deadline_ms: 500, url });
    mock.timers.tick(350);
    await settled();
    assert.deepEqual(tried(), [A, next]);
    FakeSocket.last.drop(1006);
    await settled();
    assert.equal(FakeSocket.last.url, next === B ? C : B, "and what follows is the list");
  });
}

test("whoever came encrypted does not go on in clear", async () => {
  await started({ url: "wss://a/v1/signal" });
  FakeSocket.last.welcome();
  const url = "ws://d/v1/signal";
  FakeSocket.last.say({ type: "go_away", seq: 1, reason: "shutdown", reconnect_after_ms: 0, deadline_ms: 500, url });
  mock.timers.tick(250);
  await settled();
  assert.deepEqual(tried(), ["wss://a/v1/signal", "wss://a/v1/signal"]);
});

test("HTTP is for when no address lets a WebSocket through", async () => {
  const posted = [];
  const both = async (to, init) => (init.method === "POST" ? (posted.push(to), Promise.reject(new TypeError())) : fetch(to));
  await started({ transport: "auto", fetch: both, url: [A, B] });
  FakeSocket.last.drop(1006);
  await settled();
  FakeSocket.last.drop(1006);
  await settled();
  assert.deepEqual(tried(), [A, B]);
  assert.deepEqual(posted, ["http://a/v1/sessions", "http://b/v1/sessions"]);
});
