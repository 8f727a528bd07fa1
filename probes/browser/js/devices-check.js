/**
 * Are a camera and a microphone there, and do they open? They are opened only if the visitor wants
 * that; otherwise the browser is asked what there is, which needs no permission.
 * @module
 */

import { settled } from "./settle.js";

/** @typedef {import("./diagnostics-words.js").Finding} Finding */
/** @typedef {import("./synthetic-media.js").Media} Media */

const ANSWER_MS = 30_000;
const REASONS = /** @type {Record<string, import("./reasons.js").Reason>} */ ({
  NotAllowedError: "permission_denied", SecurityError: "permission_denied", NotReadableError: "device_in_use",
  AbortError: "device_in_use", NotFoundError: "no_camera", OverconstrainedError: "no_camera",
});

/**
 * @param {Pick<MediaDevices, "enumerateDevices" | "getUserMedia"> | undefined} devices
 * @param {{open: boolean, signal: AbortSignal}} wish
 * @returns {Promise<{finding: Finding, media: Media | null}>} never rejects; `media` is the caller's to stop
 */
export async function checkDevices(devices, { open, signal }) {
  const began = performance.now();
  /** @type {(found: Partial<Finding>, media?: Media | null) => {finding: Finding, media: Media | null}} */
  const concluded = (found, media = null) => ({
    finding: { name: "devices", state: "warning", reason: "", durationMs: performance.now() - began, ...found }, media,
  });
  if (!devices?.enumerateDevices) return concluded({ reason: "unsupported" });
  if (!open) return concluded(await counted(devices));
  try {
    const stream = await opened(devices, signal);
    const stop = () => stream.getTracks().forEach((track) => track.stop());
    return concluded({ state: "passed", figures: { opened: 1 } }, { stream, stop });
  } catch (error) {
    const { name, reason } = /** @type {any} */ (error);
    if (reason === "aborted") return concluded({ state: "aborted", reason });
    const known = reason ?? REASONS[name] ?? "internal";
    return concluded(known === "no_camera" ? await counted(devices) : { reason: known });
  }
}

/** @param {Pick<MediaDevices, "enumerateDevices">} devices @returns {Promise<Partial<Finding>>} */
async function counted(devices) {
  const found = await devices.enumerateDevices().catch(() => []);
  const cameras = found.filter(({ kind }) => kind === "videoinput").length;
  const microphones = found.filter(({ kind }) => kind === "audioinput").length;
  const figures = { cameras, microphones };
  if (!microphones) return { reason: "no_microphone", figures };
  return cameras ? { state: "passed", figures } : { reason: "no_camera", figures };
}

/**
 * @param {Pick<MediaDevices, "getUserMedia">} devices
 * @param {AbortSignal} signal
 * @returns {Promise<MediaStream>} rejects with a DOMException or a ProbeError
 */
function opened(devices, signal) {
  return settled(signal, ({ resolve, reject, after, release }) => {
    let isOver = false;
    release(() => (isOver = true));
    after(ANSWER_MS, () => reject(Object.assign(new Error("not answered"), { reason: "timeout" })));
    // A permission that is given after the end must not leave the camera on.
    const come = (/** @type {MediaStream} */ stream) => (isOver ? stream.getTracks().forEach((track) => track.stop()) : resolve(stream));
    devices.getUserMedia({ audio: true, video: { width: { ideal: 1280 }, height: { ideal: 720 } } }).then(come, reject);
  });
}
