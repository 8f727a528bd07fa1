/**
 * Camera and microphone for the call page: as much as there is, and in words what is missing.
 * @module
 */

const AUDIO = { echoCancellation: true, noiseSuppression: true, autoGainControl: true };
const VIDEO = { width: { ideal: 1280 }, height: { ideal: 720 }, frameRate: { ideal: 30 } };
const NAMES = { audio: "microphone", video: "camera" };

/** @typedef {"audio" | "video"} Kind */

/**
 * Open what is wanted; what does not open is left out and explained.
 * @param {{video: boolean}} wanted
 * @returns {Promise<{stream: MediaStream, missing: string[]}>}
 */
export async function openMedia({ video }) {
  const stream = new MediaStream();
  try {
    // One question to the visitor instead of two.
    const both = await getUserMedia({ audio: AUDIO, ...(video && { video: VIDEO }) });
    for (const track of both.getTracks()) stream.addTrack(track);
    return { stream, missing: [] };
  } catch {
    // Not both: then each alone, and its own error.
  }
  const missing = [];
  for (const kind of /** @type {Kind[]} */ (video ? ["audio", "video"] : ["audio"])) {
    try {
      stream.addTrack(await openTrack(kind));
    } catch (error) {
      missing.push(/** @type {Error} */ (error).message);
    }
  }
  return { stream, missing };
}

/**
 * @param {Kind} kind
 * @returns {Promise<MediaStreamTrack>} rejects with words for the visitor
 */
export async function openTrack(kind) {
  try {
    const opened = await getUserMedia(kind === "audio" ? { audio: AUDIO } : { video: VIDEO });
    return /** @type {MediaStreamTrack} */ (opened.getTracks()[0]);
  } catch (error) {
    throw new Error(wordsFor(/** @type {Error} */ (error).name, NAMES[kind]));
  }
}

/** @param {MediaStreamConstraints} constraints */
async function getUserMedia(constraints) {
  if (!navigator.mediaDevices?.getUserMedia) throw new DOMException("", "InsecureContext");
  return navigator.mediaDevices.getUserMedia(constraints);
}

/**
 * @param {string} name of the DOMException
 * @param {string} device
 */
export function wordsFor(name, device) {
  switch (name) {
    case "NotAllowedError":
      return `The browser may not use the ${device}. Allow it in the address bar, then turn it on again.`;
    case "NotFoundError":
    case "OverconstrainedError":
      return `No ${device} was found. Connect one, then turn it on again.`;
    case "NotReadableError":
    case "AbortError":
      return `The ${device} is used by another program. Close that program, then turn it on again.`;
    case "InsecureContext":
      return `Browsers open the ${device} only on pages with https, or on localhost.`;
    default:
      return `The ${device} could not be opened (${name}).`;
  }
}
