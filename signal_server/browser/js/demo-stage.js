/**
 * What the call page shows of one call: the stage, the toolbar, and the line below it.
 * @module
 */

import { curtainWords } from "./demo-words.js";
import { initial } from "./demo-people.js";
import { byId, icon, inMs, setIcon, wayOf } from "./page.js";

/** @typedef {import("./parley.d.ts").Call} Call */

/** @param {Call | null} call */
export const isRung = (call) => call?.direction === "incoming" && call.state === "ringing";

/** @param {Call | null} call */
const isUp = (call) => call?.state === "connecting" || call?.state === "active";

/**
 * @param {Call | null} call
 * @param {string} who the other party
 * @param {number} count of people in the room
 */
export function drawStage(call, who, count) {
  const seesVideo = isUp(call) && call?.remoteMedia.video === true;
  byId("remote-video").hidden = !seesVideo;
  byId("curtain").hidden = seesVideo || isRung(call);
  byId("nameplate").hidden = !isUp(call);
  byId("remote-name").textContent = who;
  byId("remote-muted").toggleAttribute("hidden", call?.remoteMedia.audio !== false);
  byId("avatar").classList.toggle("ringing", call?.state === "calling" || call?.state === "ringing");
  byId("avatar").replaceChildren(call ? initial(who) : icon("person"));
  const [title, text] = curtainWords(call?.state ?? null, who, count);
  byId("curtain-title").textContent = title;
  byId("curtain-text").textContent = text;
}

/**
 * @param {Call | null} rung the call that may be answered
 * @param {string} who
 * @param {string} endsWith whom answering takes leave of; "" when nobody
 */
export function drawRing(rung, who, endsWith) {
  byId("ring").hidden = rung === null;
  byId("ring-title").textContent = rung?.remoteMedia.video ? `${who} is calling` : `${who} is calling, without video`;
  byId("ring-text").textContent = endsWith && `Accepting ends your call with ${endsWith}.`;
  byId("ring-text").hidden = endsWith === "";
  byId("ring-avatar").textContent = initial(who);
}

/** @param {MediaStream | null} stream */
export function drawSelf(stream) {
  const camera = stream?.getVideoTracks()[0] ?? null;
  const video = byId("local-video");
  byId("self").hidden = !stream;
  if (video.srcObject !== stream) video.srcObject = stream;
  video.hidden = !camera;
  byId("self-text").hidden = camera !== null;
}

/**
 * @param {Call | null} call
 * @param {MediaStream | null} stream
 * @param {boolean} relayOnly
 */
export function drawTools(call, stream, relayOnly) {
  const canUse = isUp(call);
  const isSilent = canUse && (!stream?.getAudioTracks().length || call?.isMuted === true);
  drawTool("mic", canUse, isSilent, isSilent ? "mic-off" : "mic", isSilent ? "Unmute" : "Mute");
  const isDark = canUse && !stream?.getVideoTracks().length;
  drawTool("camera", canUse, isDark, isDark ? "camera-off" : "camera", isDark ? "Camera on" : "Camera off");
  drawTool("relay", true, relayOnly, "shield", relayOnly ? "Relay forced" : "Force relay");
  byId("hangup").disabled = !call || isRung(call);
}

/**
 * @param {string} id
 * @param {boolean} enabled
 * @param {boolean} pressed
 * @param {string} symbol
 * @param {string} label
 */
function drawTool(id, enabled, pressed, symbol, label) {
  const button = byId(id);
  button.disabled = !enabled;
  button.setAttribute("aria-pressed", String(pressed));
  setIcon(button.querySelector(".icon"), symbol);
  button.querySelector("span").textContent = label;
}

/**
 * @param {Call} call
 * @param {string} who
 * @param {import("./parley.d.ts").Path | null | undefined} path
 * @returns {string} the line below the stage
 */
export function callWords(call, who, path) {
  switch (call.state) {
    case "calling":
      return `Calling ${who}.`;
    case "ringing":
      return isRung(call) ? `${who} is calling.` : `Ringing ${who}.`;
    case "active": {
      if (call.connection?.rtc.connectionState === "disconnected") return "The connection is interrupted. Trying to restore it.";
      if (path) return `Connected ${wayOf(path)}${path.roundTripMs === null ? "" : `, ${inMs(path.roundTripMs)}`}`;
      const before = byId("status").textContent;
      return before.startsWith("Connected") ? before : "Connected";
    }
    default:
      return "Connecting.";
  }
}

/** @param {number} count of people in the room */
export function roomWords(count) {
  if (count === 0) return "Waiting for somebody to join.";
  return count === 1 ? "One other person is here." : `${count} others are here.`;
}
