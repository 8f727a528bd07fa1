/**
 * The connections to peers of the room, by peer and name, and what arrives for one that a call is
 * about to make.
 * @module
 */

import { ParleyError } from "./errors.js";

/** @typedef {import("./peer-connection.js").PeerConnection} PeerConnection */

const HELD = 300;

export class Links {
  /** @type {Map<string, PeerConnection>} */
  #links = new Map();
  /** @type {{key: string, message: any}[]} */
  #held = [];

  /**
   * @param {string} peer
   * @param {string} pc
   * @param {() => PeerConnection} make
   * @returns {PeerConnection}
   */
  open(peer, pc, make) {
    const key = keyOf(peer, pc);
    if (this.#links.has(key)) {
      throw new ParleyError("wrong_state", "a connection of that name to this peer is open");
    }
    const link = make();
    this.#links.set(key, link);
    link.once("closed", () => this.#links.delete(key));
    for (const held of this.#held) if (held.key === key) link.receive(held.message);
    this.#held = this.#held.filter((held) => held.key !== key);
    return link;
  }

  /**
   * @param {string} peer
   * @param {string} pc
   */
  has(peer, pc) {
    return this.#links.has(keyOf(peer, pc));
  }

  /** @param {any} message of the peer that it names */
  deliver(message) {
    this.#links.get(keyOf(message.from, message.pc ?? "main"))?.receive(message);
  }

  /** Keep it for the connection to come. @param {any} message */
  hold(message) {
    const key = keyOf(message.from, message.pc ?? "main");
    if (this.#held.length < HELD) this.#held.push({ key, message });
  }

  /** Nobody will connect to that peer. @param {string | null} peer */
  forget(peer) {
    this.#held = this.#held.filter(({ message }) => message.from !== peer);
  }

  networkChanged() {
    for (const link of this.#links.values()) link.networkChanged();
  }

  /** @param {RTCIceServer[]} iceServers */
  useIceServers(iceServers) {
    for (const link of this.#links.values()) link.useIceServers(iceServers);
  }

  /**
   * @param {string} reason
   * @param {(peer: string) => boolean} [concerns]
   */
  close(reason, concerns = () => true) {
    for (const link of [...this.#links.values()]) if (concerns(link.peer)) link.close(reason);
  }
}

/**
 * @param {string} peer
 * @param {string} pc
 */
const keyOf = (peer, pc) => JSON.stringify([peer, pc]);
