/**
 * Sends packets through a channel whose other end sends them back, at a steady pace, and counts.
 * @module
 */

import { settled } from "./settle.js";

/** @typedef {{sent: number, received: number, lossRatio: number, roundTripMs: number | null, maxRoundTripMs: number | null, durationMs: number}} Trips */

const PACKETS = 50;
const EVERY_MS = 20;
/** Share of the packets that must come back for a pass. */
export const ENOUGH = 0.95;
const BYTES = 160;
/** After the last packet: at least this, at most that, and in between twice the slowest trip. */
const LATE_MS = 500;
const LATEST_MS = 3_000;

/** All that an echo has to say of a packet. @param {string} data */
export const numberOf = (data) => Number.parseInt(data, 10);

/**
 * @param {RTCDataChannel} channel open
 * @param {AbortSignal} signal
 * @param {number} [count]
 * @returns {Promise<Trips>} also when the channel closes on the way
 */
export function sendPackets(channel, signal, count = PACKETS) {
  return settled(signal, ({ resolve, listen, release }) => {
    const began = performance.now();
    /** When each went out. @type {Map<number, number>} */
    const underway = new Map();
    /** @type {number[]} */
    const trips = [];
    let sent = 0;
    let lastAt = began;
    const done = () => resolve(tripsOf(sent, trips, performance.now() - began));
    const tick = () => {
      const now = performance.now();
      // A hidden page has slow timers: what is due goes out, however late the timer is.
      const due = Math.min(count, 1 + Math.floor((now - began) / EVERY_MS));
      while (sent < due && channel.readyState === "open") {
        channel.send(`${sent}`.padEnd(BYTES, "."));
        underway.set(sent++, now);
        lastAt = now;
      }
      const slowest = Math.max(0, ...trips);
      if (sent === count && now - lastAt > Math.min(LATEST_MS, Math.max(LATE_MS, 2 * slowest))) done();
    };
    listen(channel, "message", ({ data }) => {
      const number = numberOf(data);
      const at = underway.get(number);
      if (at === undefined) return;
      underway.delete(number);
      trips.push(performance.now() - at);
      if (trips.length === count) done();
    });
    listen(channel, "close", done);
    const timer = setInterval(tick, EVERY_MS);
    release(() => clearInterval(timer));
    tick();
  });
}

/**
 * @param {number} sent
 * @param {number[]} trips
 * @param {number} durationMs
 * @returns {Trips}
 */
function tripsOf(sent, trips, durationMs) {
  const sorted = [...trips].sort((a, b) => a - b);
  return {
    sent,
    received: sorted.length,
    lossRatio: sent ? 1 - sorted.length / sent : 1,
    roundTripMs: sorted[Math.floor(sorted.length / 2)] ?? null,
    maxRoundTripMs: sorted.at(-1) ?? null,
    durationMs,
  };
}
