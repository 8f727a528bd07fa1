/**
 * The list of people on the call page, by identity, each with its devices.
 * @module
 */

import { byId, element, icon } from "./page.js";

/** @typedef {import("./parley.d.ts").Peer} Peer */
/** @typedef {import("./parley.d.ts").SignalingClient} Client */

/**
 * @param {Client} client
 * @param {string} identity
 */
export function nameOf(client, identity) {
  const known = [...client.peers.values()].find((peer) => peer.identity === identity);
  return String(known?.data?.name ?? known?.name ?? identity.replace(/@[^@]*$/, "")).slice(0, 40);
}

/** @param {string} who */
export const initial = (who) => [...who][0]?.toUpperCase() ?? "?";

/**
 * Everybody but oneself.
 * @param {Client} client
 * @returns {Map<string, Peer[]>}
 */
export function others(client) {
  /** @type {Map<string, Peer[]>} */
  const found = new Map();
  for (const peer of client.peers.values()) {
    if (peer.identity === client.welcome?.identity) continue;
    found.set(peer.identity, [...(found.get(peer.identity) ?? []), peer]);
  }
  return found;
}

/**
 * @param {Client} client
 * @param {boolean} canCall
 * @param {(identity: string, video: boolean) => unknown} place
 */
export function drawPeople(client, canCall, place) {
  const items = [...others(client)].map(([identity, devices]) => {
    const who = nameOf(client, identity);
    const isAway = devices.every(({ connected }) => !connected);
    const extra = isAway ? "reconnecting" : devices.length > 1 ? `${devices.length} devices` : "";
    const buttons = [true, false].map((video) => {
      const button = callButton(who, video);
      button.disabled = !canCall;
      button.addEventListener("click", () => place(identity, video));
      return button;
    });
    return element("li", {}, [
      element("span", { className: "face", textContent: initial(who), ariaHidden: "true" }),
      element("span", { className: "who" }, [who, element("span", { className: "soft small", textContent: extra && ` ${extra}` })]),
      ...buttons,
    ]);
  });
  byId("people").replaceChildren(...items);
  byId("alone").hidden = items.length > 0;
}

/**
 * @param {string} who
 * @param {boolean} video
 */
function callButton(who, video) {
  const label = video ? `Call ${who}` : `Call ${who} without video`;
  const button = element("button", {
    className: `button square${video ? " primary" : ""}`,
    type: "button",
    title: label,
    ariaLabel: label,
  }, [icon(video ? "camera" : "phone")]);
  button.dataset.call = video ? "video" : "voice";
  return button;
}
