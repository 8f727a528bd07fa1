/**
 * The little of SDP and candidate lines that an endpoint reads: ICE username fragments.
 * @module
 */

/**
 * @param {string | null | undefined} sdp
 * @returns {Set<string>} every ICE username fragment in a description
 */
export function ufragsOf(sdp) {
  return new Set([...(sdp ?? "").matchAll(/^a=ice-ufrag:(\S+)/gm)].map((match) => match[1] ?? ""));
}

/**
 * The member, else the extension in the candidate line (libraries that drop the member keep it).
 * @param {RTCIceCandidateInit} candidate
 * @returns {string | null}
 */
export function ufragOf({ candidate, usernameFragment }) {
  return usernameFragment ?? / ufrag (\S+)/.exec(candidate ?? "")?.[1] ?? null;
}
