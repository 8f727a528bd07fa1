/**
 * What the server says when a session begins or goes on.
 * @module
 */

/** Until the server has named one. */
export const DEFAULT_PING_S = 10;

/**
 * @param {any} message welcome or resumed
 * @returns {import("./parley.d.ts").Welcome}
 */
export function welcomeOf(message) {
  return {
    session: message.session,
    peer: message.peer,
    identity: message.identity,
    node: message.node,
    region: message.region,
    pingIntervalS: message.ping_interval_s ?? DEFAULT_PING_S,
    limits: message.limits ?? {},
  };
}
