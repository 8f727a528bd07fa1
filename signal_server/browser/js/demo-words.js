/**
 * What the call page says.
 * @module
 */

const ENDINGS = /** @type {Record<string, (who: string) => string>} */ ({
  user_hangup: () => "The call has ended.",
  declined: (who) => `${who} declined the call.`,
  busy: (who) => `${who} is in another call.`,
  no_answer: (who) => `${who} does not answer.`,
  canceled: () => "The call was canceled.",
  answered_elsewhere: () => "Answered on another of your devices.",
  kicked: () => "You were removed from the room.",
  server: () => "The server has ended the call.",
  unreachable: (who) => `${who} is not there any more.`,
  media_failed: () => "The picture or the sound could not be sent. Reload the page, then call again.",
  ice_failed: () => "The two devices cannot reach each other. Test the network, or ask for a way to the relay.",
});

/** Where the one who was called reads something else than the one who called. */
const ENDINGS_OF_INCOMING = /** @type {Record<string, (who: string) => string>} */ ({
  declined: (who) => `The call from ${who} was declined.`,
  busy: (who) => `${who} was told that you are in another call.`,
  no_answer: (who) => `You missed a call from ${who}.`,
});

/**
 * Why a call ended.
 * @param {import("./parley.d.ts").Call["direction"]} direction
 * @param {string} reason
 * @param {string} who the other party
 */
export function endingWords(direction, reason, who) {
  const incoming = direction === "incoming" ? ENDINGS_OF_INCOMING[reason] : undefined;
  return (incoming ?? ENDINGS[reason] ?? ENDINGS.user_hangup)?.(who) ?? "";
}

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
