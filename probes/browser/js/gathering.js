/**
 * What one end of a connection finds out while it gathers candidates, and what it means when there
 * are none. Browsers without `icecandidateerror` leave only "nothing answered".
 * @module
 */

/** @typedef {import("./reasons.js").Reason} Reason */

const UNAUTHORIZED = 401;
const REFUSED = new Set([UNAUTHORIZED, 403, 441]);
const FULL = new Set([486, 508]);

/** @param {number} code */
const isAnswer = (code) => REFUSED.has(code) || FULL.has(code);

export class Gathering {
  candidates = 0;
  /** ICE error codes: STUN's, and 701 where nothing answers. @type {number[]} */
  codes = [];
  isComplete = false;
  /** URLs whose server said no. @type {Set<string>} */
  #refused = new Set();

  /**
   * @param {RTCPeerConnection} pc
   * @param {RTCIceServer[]} servers
   * @param {import("./settle.js").Steps["listen"]} listen
   * @param {{changed: () => void, found?: (candidate: RTCIceCandidate) => void}} tell
   */
  constructor(pc, servers, listen, { changed, found }) {
    const urls = new Set(servers.flatMap((server) => server.urls)).size;
    listen(pc, "icecandidate", ({ candidate }) => {
      if (candidate === null) this.isComplete = true;
      // An empty candidate ends one generation, not all of them.
      else if (candidate.candidate) {
        this.candidates++;
        found?.(candidate);
      }
      changed();
    });
    listen(pc, "icecandidateerror", ({ errorCode, url }) => {
      this.codes.push(errorCode);
      if (url && isAnswer(errorCode)) this.#refused.add(url);
      // Chromium goes on gathering over UDP after the last server has said no.
      if (this.#refused.size >= urls) this.isComplete = true;
      changed();
    });
    listen(pc, "icegatheringstatechange", () => {
      if (pc.iceGatheringState !== "complete") return;
      this.isComplete = true;
      changed();
    });
  }
}

/**
 * Why an end has no candidate of a relay.
 * @param {number[]} codes
 * @param {boolean} isExpired the credential, by the server's clock
 * @returns {{reason: Reason, code: number}}
 */
export function withoutCandidate(codes, isExpired) {
  const refused = codes.find((code) => REFUSED.has(code));
  if (refused !== undefined) {
    const isOld = isExpired && refused === UNAUTHORIZED;
    return { reason: isOld ? "credential_expired" : "credential_rejected", code: refused };
  }
  const full = codes.find((code) => FULL.has(code));
  if (full !== undefined) return { reason: "allocation_quota", code: full };
  return { reason: "unreachable", code: codes.at(-1) ?? 0 };
}

/** RTCPeerConnectionState, also where only ICE has one. @param {RTCPeerConnection} pc */
export const stateOf = (pc) => pc.connectionState ?? pc.iceConnectionState;

/**
 * @param {RTCPeerConnection} pc
 * @param {import("./settle.js").Steps["listen"]} listen
 * @param {(state: string) => void} changed
 */
export function followState(pc, listen, changed) {
  const name = pc.connectionState === undefined ? "iceconnectionstatechange" : "connectionstatechange";
  listen(pc, name, () => changed(stateOf(pc)));
}
