/**
 * Parley for browsers and React Native: signaling, perfect negotiation, calls. Types and
 * documentation in parley.d.ts. Plain ES modules, no dependency, no DOM.
 * @module
 */

export { Call } from "./call.js";
export { ParleyError } from "./errors.js";
export { PeerConnection } from "./peer-connection.js";
export { reconnectDelay, shouldReconnect } from "./reconnect.js";
export { SignalingClient } from "./signaling.js";
