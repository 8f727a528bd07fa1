/**
 * When to connect again, and why not.
 * @module
 */

import { ParleyError } from "./errors.js";

const RECONNECT_BASE_MS = 500;
const RECONNECT_CAP_MS = 10_000;
/** Codes below 4000 after which a new connection may work (RFC 6455 section 7.4.1 and IANA). */
const RECONNECT_CODES = new Set([1001, 1005, 1006, 1011, 1012, 1013, 1014]);

const REASONS = new Map([
  [4005, "token_expired"],
  [4500, "unauthenticated"],
  [4501, "forbidden"],
  [4502, "superseded"],
  [4503, "forbidden"],
  [4506, "unsupported_version"],
]);

/**
 * @param {number} code WebSocket close code
 * @returns {boolean}
 */
export function shouldReconnect(code) {
  return (code >= 4000 && code < 4500) || RECONNECT_CODES.has(code);
}

/**
 * Full jitter, so that clients of a restarted node do not return in step.
 * @param {number} attempt 0 for the first
 * @param {() => number} [random]
 * @returns {number} milliseconds
 */
export function reconnectDelay(attempt, random = Math.random) {
  return random() * Math.min(RECONNECT_CAP_MS, RECONNECT_BASE_MS * 2 ** Math.min(attempt, 10));
}

/**
 * @param {number} code
 * @returns {ParleyError}
 */
export function closedBy(code) {
  return new ParleyError(REASONS.get(code) ?? "unavailable", `the server closed the connection (${code})`);
}
