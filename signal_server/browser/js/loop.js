/**
 * Sends data through a connection of this browser to itself, for a while: gathering a relay
 * candidate proves little, the relay may still refuse the peer.
 * @module
 */

import { pathOf } from "./path.js";

const EVERY_MS = 20;

/** Why a loop did not come about; `code` is an ICE error code, 0 when there is none. */
export class LoopError extends Error {
  /**
   * @param {"refused" | "unreachable" | "failed" | "late" | "stopped"} why
   * @param {number} [code]
   */
  constructor(why, code = 0) {
    super(why);
    this.why = why;
    this.code = code;
  }
}

/**
 * @typedef {object} LoopResult
 * @property {number} connectMs
 * @property {number} durationMs
 * @property {number} sent
 * @property {number} received
 * @property {number} roundTripMs median
 * @property {import("./parley.d.ts").Path | null} path
 */

/**
 * @param {RTCConfiguration} configuration
 * @param {{durationMs?: number, timeoutMs?: number, signal: AbortSignal}} options
 * @returns {Promise<LoopResult>} rejects with LoopError
 */
export async function loop(configuration, { durationMs = 1000, timeoutMs = 8000, signal }) {
  const here = new RTCPeerConnection(configuration);
  const there = new RTCPeerConnection(configuration);
  const began = performance.now();
  try {
    const channel = await connected(here, there, timeoutMs, signal);
    const connectMs = performance.now() - began;
    const measured = await echoes(channel, durationMs, signal);
    return { connectMs, durationMs, ...measured, path: pathOf(await here.getStats()) };
  } finally {
    here.close();
    there.close();
  }
}

/**
 * @param {RTCPeerConnection} here
 * @param {RTCPeerConnection} there
 * @param {number} timeoutMs
 * @param {AbortSignal} signal
 * @returns {Promise<RTCDataChannel>}
 */
function connected(here, there, timeoutMs, signal) {
  return new Promise((resolve, reject) => {
    let code = 0;
    let found = 0;
    const fail = (/** @type {LoopError["why"]} */ why) => {
      clearTimeout(timer);
      reject(new LoopError(code === 401 || code === 403 ? "refused" : why, code));
    };
    const timer = setTimeout(() => fail(found ? "late" : "unreachable"), timeoutMs);
    signal.addEventListener("abort", () => fail("stopped"), { once: true });
    for (const [from, to] of [[here, there], [there, here]]) {
      from?.addEventListener("icecandidate", ({ candidate }) => {
        if (!candidate?.candidate) return;
        found++;
        to?.addIceCandidate(candidate).catch(() => {});
      });
      from?.addEventListener("icecandidateerror", ({ errorCode }) => (code = errorCode));
      from?.addEventListener("connectionstatechange", () => {
        if (from.connectionState === "failed") fail("failed");
      });
    }
    here.addEventListener("icegatheringstatechange", () => {
      if (here.iceGatheringState === "complete" && !found) fail("unreachable");
    });
    const channel = here.createDataChannel("loop", { ordered: false, maxRetransmits: 0 });
    there.addEventListener("datachannel", ({ channel: other }) => {
      other.addEventListener("message", ({ data }) => other.send(data));
    });
    channel.addEventListener("open", () => {
      clearTimeout(timer);
      resolve(channel);
    });
    exchange(here, there).catch(() => fail("failed"));
  });
}

/**
 * @param {RTCPeerConnection} here
 * @param {RTCPeerConnection} there
 */
async function exchange(here, there) {
  const offer = await here.createOffer();
  // The other side first: candidates of `here` start with its own setLocalDescription.
  await there.setRemoteDescription(offer);
  await here.setLocalDescription(offer);
  const answer = await there.createAnswer();
  await here.setRemoteDescription(answer);
  await there.setLocalDescription(answer);
}

/**
 * @param {RTCDataChannel} channel
 * @param {number} durationMs
 * @param {AbortSignal} signal
 * @returns {Promise<{sent: number, received: number, roundTripMs: number}>}
 */
function echoes(channel, durationMs, signal) {
  return new Promise((resolve, reject) => {
    /** @type {number[]} */
    const trips = [];
    /** @type {Map<string, number>} */
    const underway = new Map();
    let sent = 0;
    const stop = () => {
      clearInterval(sending);
      clearTimeout(ending);
    };
    const sending = setInterval(() => {
      if (channel.readyState !== "open" || sent >= durationMs / EVERY_MS) return;
      const mark = `${sent++}`.padEnd(160, ".");
      underway.set(mark, performance.now());
      channel.send(mark);
    }, EVERY_MS);
    channel.addEventListener("message", ({ data }) => {
      const at = underway.get(data);
      underway.delete(data);
      if (at !== undefined) trips.push(performance.now() - at);
    });
    const ending = setTimeout(() => {
      stop();
      const median = trips.sort((a, b) => a - b)[Math.floor(trips.length / 2)];
      if (median === undefined) reject(new LoopError("failed"));
      else resolve({ sent, received: trips.length, roundTripMs: median });
    }, durationMs + 300);
    signal.addEventListener("abort", () => {
      stop();
      reject(new LoopError("stopped"));
    }, { once: true });
  });
}
