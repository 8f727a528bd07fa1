/**
 * What an original's session is here: a deployment, a probe session of it, and a token to check.
 * @module
 */

import { NetworkTestError } from "./error-names.js";
import { probeError } from "./settle.js";

/** @typedef {import("./probe-api.js").ProbeApi} ProbeApi */
/** @typedef {import("./probe-api.js").ProbeSession} ProbeSession */
/** @typedef {import("./network-test.d.ts").SessionInfo} SessionInfo */

const MAX_ID_CHARS = 256;

/**
 * @param {unknown} OT
 * @param {SessionInfo | null | undefined} sessionInfo
 */
export function checkArguments(OT, sessionInfo) {
  if (!(/** @type {any} */ (OT)?.initSession) && !sessionInfo?.baseUrl) throw new NetworkTestError("MISSING_OPENTOK_INSTANCE");
  if (!sessionInfo || typeof sessionInfo !== "object") throw new NetworkTestError("MISSING_SESSON_CREDENTIALS");
  if (sessionInfo.baseUrl) return;
  const { apiKey, sessionId, token } = sessionInfo;
  if (!apiKey || !sessionId || !token) throw new NetworkTestError("INCOMPLETE_SESSON_CREDENTIALS");
}

/**
 * Where the deployment is: a baseUrl, a sessionId that is a URL, or where this module comes from.
 * @param {SessionInfo} sessionInfo
 * @returns {string | undefined}
 */
export function baseUrlOf({ baseUrl, sessionId }) {
  if (baseUrl) return baseUrl;
  const module = new URL(import.meta.url);
  return urlOf(sessionId)?.origin ?? (/^https?:$/.test(module.protocol) ? module.origin : undefined);
}

/** @param {unknown} text */
function urlOf(text) {
  if (typeof text !== "string" || !/^https?:\/\//i.test(text)) return null;
  try {
    return new URL(text);
  } catch {
    return null;
  }
}

/**
 * Begins a probe session.
 * @param {ProbeApi} api
 * @param {SessionInfo} sessionInfo
 * @param {AbortSignal} signal
 * @returns {Promise<ProbeSession>} rejects with NetworkTestError; an abort with the signal's reason
 */
export async function enter(api, { sessionId, token }, signal) {
  if (sessionId !== undefined && !isSessionId(sessionId)) throw new NetworkTestError("CONNECT_TO_SESSION_ID_ERROR");
  let session;
  try {
    session = await api.session(signal);
  } catch (error) {
    throw signal.aborted ? signal.reason : refusal(error);
  }
  if (token && !(await isAccepted(api, token, signal))) {
    throw new NetworkTestError("CONNECT_TO_SESSION_TOKEN_ERROR");
  }
  return session;
}

/** @param {unknown} error */
function refusal(error) {
  const { reason, code } = probeError(error);
  if (code === 401 || code === 403) return new NetworkTestError("CONNECT_TO_SESSION_TOKEN_ERROR", reason);
  return new NetworkTestError(code ? "API_CONNECTIVITY_ERROR" : "CONNECT_TO_SESSION_NETWORK_ERROR", reason);
}

/** A URL of a server, or a name. @param {unknown} id */
function isSessionId(id) {
  if (typeof id !== "string" || id.length > MAX_ID_CHARS) return false;
  return !id.includes("://") || urlOf(id) !== null;
}

/**
 * Whether the token may probe, by ending a server peer that nobody has.
 * @param {ProbeApi} api
 * @param {string} token
 * @param {AbortSignal} signal
 * @returns {Promise<boolean>} rejects with NetworkTestError when there is no answer
 */
async function isAccepted(api, token, signal) {
  try {
    await api.call("DELETE", "/v1/probes/peers/none", { token, signal });
  } catch (error) {
    const { reason, code } = probeError(error);
    if (signal.aborted) throw signal.reason;
    if (code === 401 || code === 403) return false;
    throw new NetworkTestError("CONNECT_TO_SESSION_NETWORK_ERROR", reason);
  }
  return true;
}
