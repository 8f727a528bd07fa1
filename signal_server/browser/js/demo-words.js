/**
 * What the call page says.
 * @module
 */

/** Why a call ended, by its reason. */
export const ENDINGS = /** @type {Record<string, (who: string) => string>} */ ({
  user_hangup: () => "The call has ended.",
  declined: (who) => `${who} declined the call.`,
  busy: (who) => `${who} is in another call.`,
  no_answer: (who) => `${who} does not answer.`,
  canceled: () => "The call was canceled.",
  answered_elsewhere: () => "Answered on another of your devices.",
  kicked: () => "You were removed from the room.",
  server: () => "The server has ended the call.",
  unreachable: (who) => `${who} is not there any more.`,
  ice_failed: () => "The two devices cannot reach each other. Test the network, or ask for a way to the relay.",
});

/** Why one does not get into a room, by error code. */
export const REFUSALS = /** @type {Record<string, string>} */ ({
  unavailable: "The server does not answer. Check the connection to the network, then try again.",
  forbidden: "Your link does not let you into this room. Ask for a new one.",
  unauthenticated: "Your link is not accepted. Ask for a new one.",
  token_expired: "Your link has expired. Ask for a new one.",
  room_full: "This room is full. Try again when somebody has left.",
});

/**
 * @param {string | null} state
 * @param {string} who
 * @param {number} others in the room
 */
export function curtainWords(state, who, others) {
  if (state === "calling") return [`Calling ${who}`, "Waiting for a device to ring."];
  if (state === "ringing") return [`Ringing ${who}`, "Waiting for an answer."];
  if (state === "connecting") return [who, "Connecting."];
  if (state === "active") return [who, "Camera off"];
  if (others > 0) return ["Ready when you are", "Call somebody in this room. Camera and microphone open when you do."];
  return ["You are the first one here", "Send the link to somebody, or open it in a second tab."];
}
