/**
 * OpenTok's connectivity test: API, messaging, media, and logging. The first step that fails ends
 * the chain; logging is tested in any case.
 * @module
 */

import { NetworkTestError, named, typeOf } from "./error-names.js";
import { capture, deviceKinds, publish, stopTracks, subscribed } from "./publisher.js";
import { ProbeError, probeError } from "./settle.js";
import { enter } from "./test-session.js";
import { checkRegion } from "./websocket-check.js";

/** @typedef {import("./probe-api.js").ProbeApi} ProbeApi */
/** @typedef {import("./probe-api.js").ProbeSession} ProbeSession */
/**
 * @typedef {object} Scene of a test
 * @property {import("./publisher.js").Platform} platform
 * @property {ProbeApi} api
 * @property {import("./network-test.d.ts").SessionInfo} sessionInfo
 * @property {import("./network-test.d.ts").NetworkTestOptions} options
 * @property {import("./settle.js").Run} run
 */
/** @typedef {import("./network-test.d.ts").ConnectivityResults} ConnectivityResults */

/** Of the whole chain; a question for camera and microphone may take half of it. */
export const CONNECTIVITY_LIMIT_MS = 60_000;

/** @param {Scene} scene @returns {Promise<ConnectivityResults>} never rejects */
export async function testConnectivity(scene) {
  const { run } = scene;
  /** @type {NetworkTestError[]} */
  const errors = [];
  try {
    await checkApi(scene);
    const session = await enter(scene.api, scene.sessionInfo, run.signal);
    await checkMessaging(scene, session);
    await checkMedia(scene);
  } catch (error) {
    if (!isEnded(run)) errors.push(named(error, "CONNECTIVITY_ERROR"));
    if (run.ended === "timeout") errors.push(new NetworkTestError("PUBLISH_TO_SESSION_PERMISSION_OR_TIMEOUT_ERROR", "timeout"));
  }
  if (errors[0] && typeOf(errors[0]) === "messaging") errors.push(new NetworkTestError("FAILED_MESSAGING_SERVER_TEST", errors[0].reason));
  if (!isEnded(run)) errors.push(...(await loggingErrors(scene)));
  return {
    success: errors.length === 0 && !isEnded(run),
    failedTests: errors.map((error) => ({ type: typeOf(error), error })),
    ...(isEnded(run) ? { stopped: true } : {}),
  };
}

/** Somebody ended it. @param {import("./settle.js").Run} run */
const isEnded = ({ ended }) => ended === "aborted" || ended === "stopped";

/** @param {Scene} scene */
async function checkApi({ api, run }) {
  await api.ping(run.signal, { timeoutMs: 8_000 }).catch((error) => {
    throw new NetworkTestError("API_CONNECTIVITY_ERROR", probeError(error).reason);
  });
}

/**
 * @param {Scene} scene
 * @param {ProbeSession} session
 */
async function checkMessaging({ platform, api, run }, { regions, region }) {
  const own = regions.find(({ id }) => id === region) ?? regions[0];
  if (!own) throw new NetworkTestError("CONNECT_TO_SESSION_ERROR", "not_offered");
  const Socket = /** @type {typeof WebSocket} */ (platform.WebSocket);
  const { state, reason } = await checkRegion(own, { api, Socket, signal: run.signal });
  if (state !== "passed") throw new NetworkTestError("CONNECT_TO_SESSION_ERROR", reason);
}

/** @param {Scene} scene */
async function checkMedia({ platform, api, options, run }) {
  const kinds = await deviceKinds(platform);
  const wanted = { audio: kinds.audio, video: kinds.video && !options.audioOnly && options.videoSource !== null };
  if (!wanted.audio && !wanted.video) throw new NetworkTestError("FAILED_TO_OBTAIN_MEDIA_DEVICES", "no_microphone");
  const stream = await capture(platform, wanted, options, "FAILED_TO_CREATE_LOCAL_PUBLISHER", run.signal);
  /** @type {import("./publisher.js").Publishing | null} */
  let publishing = null;
  try {
    publishing = await publish(platform, api, stream, run.signal);
    await subscribed(publishing.pc, stream, run.signal);
  } finally {
    stopTracks(stream);
    await publishing?.close();
  }
}

/** @param {Scene} scene @returns {Promise<NetworkTestError[]>} none, or one */
async function loggingErrors({ api }) {
  try {
    await api.log({ event: "network-test" });
    return [];
  } catch (error) {
    return [new NetworkTestError("LOGGING_SERVER_CONNECTION_ERROR", error instanceof ProbeError ? error.reason : "internal")];
  }
}
