/**
 * The session over HTTP, behind the part of the WebSocket interface that session.js uses: messages
 * go out by POST, one request at a time, and come in as a stream of events, or by long polling
 * where the platform or something on the way does not stream.
 *
 * It reads of the messages only what names the session and their numbers.
 * @module
 */

import { eventsOf } from "./event-stream.js";

const REQUEST_MS = 10_000;
const POLL_S = 25;
const BATCH_CHARS = 100_000;
const BATCH = 64;
const RETRIES = 2;
const RETRY_MS = 1_000;
/** Two heartbeats of the server and some; then something on the way holds the stream back. */
const STREAM_SILENCE_MS = 40_000;
const FIRST_EVENT_MS = 5_000;
/** The close code that a WebSocket would have had, by error code. */
const CLOSE_CODES = /** @type {Record<string, number>} */ ({
  unauthenticated: 4500,
  forbidden: 4501,
  superseded: 4502,
  token_expired: 4005,
  resume_gap: 4003,
  unsupported_version: 4506,
});
const LOST = 1006;

export class HttpSocket {
  readyState = 0;
  /** @type {((event: object) => void) | null} */
  onopen = null;
  /** @type {((event: {data: string}) => void) | null} */
  onmessage = null;
  /** @type {((event: {code: number}) => void) | null} */
  onclose = null;
  #sessions;
  #fetch;
  #streams;
  #abort = new AbortController();
  /** @type {{url: string, secret: string} | null} */
  #session = null;
  #last = 0;
  /** @type {string[]} */
  #queue = [];
  #isPosting = false;

  /**
   * @param {string} url of the WebSocket
   * @param {{fetch?: typeof fetch, streams?: boolean}} [options]
   */
  constructor(url, { fetch = globalThis.fetch, streams = true } = {}) {
    this.#sessions = new URL("sessions", url.replace(/^ws/, "http")).href;
    // Not called as a method: the browser's function insists on its own `this`.
    this.#fetch = (/** @type {string} */ to, /** @type {RequestInit} */ init) => fetch(to, init);
    this.#streams = streams && typeof TextDecoder === "function";
    queueMicrotask(() => {
      if (this.readyState !== 0) return;
      this.readyState = 1;
      this.onopen?.({});
    });
  }

  /** @param {string} text */
  send(text) {
    this.#queue.push(text);
    // What is said in one go travels in one request, and a goodbye knows that it is the last.
    queueMicrotask(() => void this.#flush());
  }

  /**
   * With 1000 what was sent still leaves; with any other code the session waits to be resumed.
   * @param {number} [code]
   */
  close(code = 1000) {
    if (this.readyState >= 2) return;
    this.readyState = 2;
    this.onmessage = this.onclose = null;
    if (code !== 1000) this.#queue = [];
    if (code !== 1000 || this.#queue.length === 0) this.#abort.abort();
  }

  async #flush() {
    if (this.#isPosting) return;
    this.#isPosting = true;
    try {
      while (this.#queue.length) {
        if (this.#session) await this.#post(this.#session);
        else if (this.readyState === 1) await this.#hello(this.#queue.shift() ?? "");
        else this.#queue = [];
      }
    } catch {
      this.#lost(LOST);
    } finally {
      this.#isPosting = false;
      if (this.readyState >= 2) this.#abort.abort();
    }
  }

  /** @param {string} text */
  async #hello(text) {
    const answer = await this.#ask(this.#sessions, { method: "POST", body: text });
    if (answer.status !== 201) return this.#refused(answer);
    const { results, ...greeting } = await answer.json();
    this.#session = {
      url: `${this.#sessions}/${encodeURIComponent(greeting.session)}`,
      secret: greeting.resume.secret,
    };
    this.#last = greeting.type === "resumed" ? greeting.from_seq - 1 : 0;
    this.#deliver([greeting, ...results]);
    if (this.readyState === 1) void this.#listen(this.#session);
  }

  /** @param {{url: string}} session */
  async #post({ url }) {
    const batch = [this.#queue.shift() ?? ""];
    let size = batch[0]?.length ?? 0;
    for (let next = this.#queue[0]; next !== undefined && batch.length < BATCH; next = this.#queue[0]) {
      if ((size += next.length) > BATCH_CHARS) break;
      batch.push(next);
      this.#queue.shift();
    }
    // After close() the page may be on its way out.
    const keepalive = this.readyState === 2;
    const init = { method: "POST", body: `[${batch.join(",")}]`, keepalive };
    const answer = await this.#ask(`${url}/messages`, init);
    if (!answer.ok) return this.#refused(answer);
    this.#deliver((await answer.json()).results);
  }

  /** @param {{url: string}} session */
  async #listen({ url }) {
    let failures = 0;
    while (this.readyState === 1) {
      try {
        const answer = await (this.#streams ? this.#stream(url) : this.#poll(url));
        if (answer && !answer.ok && answer.status < 500) return this.#refused(answer);
        if (answer && !answer.ok) throw new Error(`status ${answer.status}`);
        failures = 0;
      } catch {
        if (this.readyState !== 1) return;
        if (this.#streams) this.#streams = false;
        else if (++failures > RETRIES) return this.#lost(LOST);
        else await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      }
    }
  }

  /**
   * @param {string} url
   * @returns {Promise<Response>}
   */
  async #poll(url) {
    const to = `${url}/messages?after=${this.#last}&wait=${POLL_S}`;
    const answer = await this.#ask(to, { method: "GET" }, POLL_S * 1000 + REQUEST_MS);
    if (answer.ok) this.#deliver((await answer.json()).messages);
    return answer;
  }

  /**
   * @param {string} url
   * @returns {Promise<Response | null>} rejects when nothing comes through
   */
  async #stream(url) {
    const stop = new AbortController();
    const onAbort = () => stop.abort();
    this.#abort.signal.addEventListener("abort", onAbort);
    let silence = setTimeout(onAbort, FIRST_EVENT_MS);
    const heard = () => {
      clearTimeout(silence);
      silence = setTimeout(onAbort, STREAM_SILENCE_MS);
    };
    try {
      const headers = { ...this.#authorization(), Accept: "text/event-stream" };
      const answer = await this.#fetch(`${url}/events?after=${this.#last}`, { headers, signal: stop.signal, cache: "no-store" });
      if (!answer.ok) return answer;
      if (!answer.body?.getReader) throw new Error("no streams");
      for await (const { name, data } of eventsOf(answer.body, heard)) {
        const said = JSON.parse(data);
        if (name === "close") this.#lost(CLOSE_CODES[said.code] ?? LOST);
        else this.#deliver([said]);
      }
      return null;
    } finally {
      clearTimeout(silence);
      stop.abort();
      this.#abort.signal.removeEventListener("abort", onAbort);
    }
  }

  /**
   * @param {string} to
   * @param {RequestInit} init
   * @param {number} [timeoutMs] for the whole answer
   * @returns {Promise<Response>}
   */
  async #ask(to, init, timeoutMs = REQUEST_MS) {
    const stop = new AbortController();
    const onAbort = () => stop.abort();
    const isLast = init.keepalive === true;
    if (!isLast) this.#abort.signal.addEventListener("abort", onAbort);
    const timer = setTimeout(onAbort, timeoutMs);
    try {
      const headers = { ...this.#authorization(), "Content-Type": "application/json" };
      const answer = await this.#fetch(to, { ...init, headers, signal: stop.signal, cache: "no-store" });
      const body = await answer.text();
      return /** @type {any} */ ({ ok: answer.ok, status: answer.status, json: async () => JSON.parse(body) });
    } finally {
      clearTimeout(timer);
      this.#abort.signal.removeEventListener("abort", onAbort);
    }
  }

  /** @returns {Record<string, string>} */
  #authorization() {
    return this.#session ? { Authorization: `Bearer ${this.#session.secret}` } : {};
  }

  /** @param {any[]} messages */
  #deliver(messages) {
    for (const message of messages ?? []) {
      if (!message || this.readyState !== 1) continue;
      if (typeof message.seq === "number" && message.seq === this.#last + 1) this.#last = message.seq;
      this.onmessage?.({ data: JSON.stringify(message) });
    }
  }

  /** @param {Response} answer */
  async #refused(answer) {
    /** @type {any} */
    const said = await answer.json().catch(() => null);
    if (said?.type === "error") this.#deliver([said]);
    // Then the client says hello once more, without the session.
    if (!this.#session && /^resume_/.test(said?.code)) return;
    this.#lost(CLOSE_CODES[said?.code] ?? LOST);
  }

  /** @param {number} code */
  #lost(code) {
    this.#abort.abort();
    this.#queue = [];
    if (this.readyState >= 2) return;
    this.readyState = 3;
    this.onclose?.({ code });
  }
}
