import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";

import { closeAll, newClient } from "./clients.js";
import { FakeSocket, settle } from "./fakes.js";

/** The HTTP side of a server: each request waits in `asked` until the test answers it. */
class FakeServer {
  asked = [];
  secrets = 0;

  fetch = (url, init = {}) =>
    new Promise((resolve, reject) => {
      const { method = "GET", headers = {}, body } = init;
      const request = {
        method, headers, path: url.replace("http://x", ""), keepalive: init.keepalive === true,
        body: body === undefined ? null : JSON.parse(body),
        answer: (status, value) => resolve(new Response(JSON.stringify(value), { status })),
        fail: () => reject(new TypeError("failed to fetch")),
        stream: () => {
          const { readable, writable } = new TransformStream();
          const writer = writable.getWriter();
          init.signal.addEventListener("abort", () => writer.abort(init.signal.reason).catch(() => {}));
          resolve(new Response(readable, { headers: { "Content-Type": "text/event-stream" } }));
          return (text) => writer.write(new TextEncoder().encode(text));
        },
      };
      init.signal?.addEventListener("abort", () => reject(new DOMException("", "AbortError")));
      this.asked.push(request);
    });

  /** The oldest unanswered request of that kind. */
  take(method, path) {
    const at = this.asked.findIndex((request) => request.method === method && request.path.startsWith(path));
    assert.ok(at >= 0, `no ${method} ${path} in ${this.asked.map((r) => `${r.method} ${r.path}`)}`);
    return this.asked.splice(at, 1)[0];
  }

  has(method, path) {
    return this.asked.some((request) => request.method === method && request.path.startsWith(path));
  }

  async greet(fields = {}) {
    const hello = this.take("POST", "/v1/sessions");
    const { resume } = hello.body;
    const answer = {
      type: resume ? "resumed" : "welcome", session: "s1", peer: "me", identity: "ada", node: "n", region: "local",
      resume: { secret: `h${++this.secrets}`, window_s: 60 }, ping_interval_s: 10, limits: {},
      ...(resume && { from_seq: resume.last_seq + 1, replayed: 0, rooms: [], calls: [] }), ...fields,
    };
    hello.answer(201, { results: [], ...answer });
    await settled();
    return hello;
  }
}

/** Enough turns for a body to be read. */
async function settled() {
  for (let turn = 0; turn < 10; turn++) await settle();
}

/** @type {FakeServer} */
let server;

function started(options = {}) {
  const client = newClient({ transport: "auto", fetch: server.fetch, ...options });
  client.connect().catch(() => {});
  return client;
}

/** Over HTTP, because the WebSocket cannot be opened. */
async function fallenBack(options = {}) {
  const client = started(options);
  await settle();
  FakeSocket.last.drop(1006);
  await settle();
  await server.greet();
  return client;
}

beforeEach(() => {
  FakeSocket.all = [];
  server = new FakeServer();
  mock.timers.enable({ apis: ["setTimeout", "Date"] });
});

afterEach(async () => {
  closeAll();
  await settled();
  mock.timers.reset();
});

test("a WebSocket that cannot be opened is replaced by HTTP at once", async () => {
  const client = started();
  const transports = [];
  client.on("transport", (kind) => transports.push(kind));
  await settle();
  FakeSocket.last.drop(1006);
  await settle();
  const hello = await server.greet();
  assert.deepEqual([hello.path, hello.body.type, hello.body.token], ["/v1/sessions", "hello", "t"]);
  assert.deepEqual([client.state, client.transport, transports], ["open", "http", ["http"]]);
});

test("what else answers a hello is heard, too", async () => {
  const client = started({ transport: "http" });
  const refused = [];
  client.on("error", ({ code }) => refused.push(code));
  await settle();
  const results = [{ type: "error", id: 1, code: "forbidden", message: "not that room", retryable: false }];
  await server.greet({ results });
  assert.deepEqual([client.state, client.peer, refused], ["open", "me", ["forbidden"]]);
});

for (const opens of [true, false]) {
  test(`a WebSocket that ${opens ? "opens and brings nothing" : "does not open"} is given up after 5 s`, async () => {
    const client = started();
    await settle();
    if (opens) FakeSocket.last.open();
    mock.timers.tick(4_999);
    await settle();
    assert.equal(server.asked.length, 0);
    mock.timers.tick(1);
    await settled();
    await server.greet();
    assert.equal(client.transport, "http");
  });
}

test("a refusal over a WebSocket is an answer, and no reason to try HTTP", async () => {
  const client = started();
  await settle();
  FakeSocket.last.drop(4500);
  await settled();
  assert.deepEqual([client.state, server.asked.length], ["closed", 0]);
});

test("neither works: both are tried again, after a growing delay", async () => {
  started({ connectTimeoutMs: 60_000 });
  for (const delay of [250, 500]) {
    await settle();
    FakeSocket.last.drop(1006);
    await settled();
    server.take("POST", "/v1/sessions").fail();
    await settled();
    const before = FakeSocket.all.length;
    mock.timers.tick(delay);
    await settle();
    assert.equal(FakeSocket.all.length, before + 1);
  }
});

test("messages go out one request at a time, in order, and results answer them", async () => {
  const client = await fallenBack();
  const all = [1, 2, 3].map((data) => client.request("message", { data }));
  await settled();
  const first = server.take("POST", "/v1/sessions/s1/messages");
  assert.deepEqual([first.body.map(({ data }) => data), first.headers.Authorization], [[1, 2, 3], "Bearer h1"]);
  const fourth = client.request("message", { data: 4 });
  await settled();
  assert.ok(!server.has("POST", "/v1/sessions/s1/messages"));
  first.answer(200, { results: first.body.map(({ id }) => ({ type: "ok", id })) });
  await Promise.all(all);
  await settled();
  const second = server.take("POST", "/v1/sessions/s1/messages");
  second.answer(200, { results: [{ type: "ok", id: second.body[0].id }] });
  await fourth;
});

test("events come as a stream, in pieces, and each one once", async () => {
  const client = await fallenBack();
  const heard = [];
  client.on("message", ({ data }) => heard.push(data));
  const events = server.take("GET", "/v1/sessions/s1/events?after=0");
  assert.equal(events.headers.Authorization, "Bearer h1");
  const say = events.stream();
  await say("retry: 1000\n\n");
  const line = (seq, data) => `id: ${seq}\ndata: ${JSON.stringify({ type: "message", seq, from: "bob", identity: "bob", data })}\n\n`;
  const text = line(1, "ä") + ":\n\n" + line(2, "b").replaceAll("\n", "\r\n") + line(2, "b");
  for (const piece of text.match(/[\s\S]{1,7}/g)) await say(piece);
  await settled();
  assert.deepEqual(heard, ["ä", "b"]);
});

test("the last event says why the connection is closed", async () => {
  const client = await fallenBack();
  const say = server.take("GET", "/v1/sessions/s1/events").stream();
  await say('event: close\ndata: {"code":"superseded","status":401}\n\n');
  await settled();
  assert.equal(client.state, "closed");
});

test("a stream that something on the way holds back is replaced by long polling", async () => {
  const client = await fallenBack();
  const heard = [];
  client.on("message", ({ data }) => heard.push(data));
  server.take("GET", "/v1/sessions/s1/events").stream();
  await settled();
  mock.timers.tick(5_000);
  await settled();
  const message = { type: "message", seq: 1, from: "bob", identity: "bob", data: "polled" };
  server.take("GET", "/v1/sessions/s1/messages?after=0&wait=25").answer(200, { messages: [message], next: 1 });
  await settled();
  assert.deepEqual(heard, ["polled"]);
  assert.ok(server.has("GET", "/v1/sessions/s1/messages?after=1&wait=25"));
});

test("a request that fails is repeated by a resume, with the same ids", async () => {
  const client = await fallenBack();
  const request = client.request("message", { data: 1 });
  await settled();
  const { body, fail } = server.take("POST", "/v1/sessions/s1/messages");
  fail();
  await settled();
  assert.equal(client.state, "reconnecting");
  mock.timers.tick(250);
  await settled();
  const hello = await server.greet();
  assert.deepEqual(hello.body.resume, { session: "s1", secret: "h1", last_seq: 0 });
  const again = server.take("POST", "/v1/sessions/s1/messages");
  assert.deepEqual(again.body.map(({ id }) => id), body.map(({ id }) => id));
  again.answer(200, { results: [{ type: "ok", id: again.body[0].id }] });
  await request;
});

test("a session that is over begins anew over HTTP, too", async () => {
  const client = await fallenBack();
  const lost = [];
  client.on("session_lost", ({ reason }) => lost.push(reason));
  server.take("GET", "/v1/sessions/s1/events").answer(410, { code: "resume_gap" });
  await settled();
  mock.timers.tick(250);
  await settled();
  const hello = server.take("POST", "/v1/sessions");
  hello.answer(410, { type: "error", id: hello.body.id, code: "resume_expired", message: "over" });
  await settled();
  await server.greet({ session: "s2" });
  assert.deepEqual([lost, client.welcome.session, client.state], [["resume_expired"], "s2", "open"]);
});

test("goodbye leaves even when the page does", async () => {
  const client = await fallenBack();
  client.close();
  await settled();
  const last = server.take("POST", "/v1/sessions/s1/messages");
  assert.deepEqual([last.body.at(-1).type, last.keepalive], ["bye", true]);
});

/** Time goes by, and the server answers pings. */
async function pass(ms) {
  for (let passed = 0; passed < ms; passed += 1_000) {
    mock.timers.tick(1_000);
    await settled();
    if (!server.has("POST", "/v1/sessions/s1/messages")) continue;
    const { body, answer } = server.take("POST", "/v1/sessions/s1/messages");
    answer(200, { results: body.map(({ t }) => ({ type: "pong", t })) });
    await settled();
  }
}

test("back to a WebSocket once one brings something, by a resume and without losing anything", async () => {
  const client = await fallenBack();
  const states = [];
  client.on("state", ({ state }) => states.push(state));
  await pass(29_000);
  assert.equal(FakeSocket.all.length, 1);
  await pass(1_000);
  assert.equal(FakeSocket.all.length, 2);
  // The first try brings nothing; the next one comes after twice the time.
  FakeSocket.last.open();
  await pass(64_000);
  assert.equal(FakeSocket.all.length, 2);
  await pass(1_000);
  assert.equal(FakeSocket.all.length, 3);
  const probe = FakeSocket.last;
  probe.open();
  assert.deepEqual(probe.sent.map(({ type }) => type), ["ping"]);
  const request = client.request("message", { data: 1 });
  probe.say({ type: "error", code: "unauthenticated", message: "say hello first" });
  await settled();
  assert.equal(FakeSocket.all.length, 4);
  FakeSocket.last.resumed();
  const socket = FakeSocket.last;
  assert.deepEqual([socket.lastSent("hello").resume.secret, client.transport], ["h1", "websocket"]);
  socket.ok("message");
  await request;
  assert.deepEqual(states, []);
});
