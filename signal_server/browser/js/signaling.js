/**
 * The signaling client: a session, the room's roster, and the connections and calls to its peers.
 * It carries descriptions and candidates without reading them; peer-connection.js negotiates and
 * call.js rings.
 * @module
 */

import { Calls } from "./calls.js";
import { ParleyError, timedOut } from "./errors.js";
import { PeerConnection } from "./peer-connection.js";
import { Roster } from "./roster.js";
import { REQUEST_MS, Session } from "./session.js";

/** @typedef {import("./parley.d.ts").Peer} Peer */
/** @typedef {import("./parley.d.ts").RoomSnapshot} RoomSnapshot */
/** @typedef {import("./parley.d.ts").IceServers} IceServers */
/** @typedef {import("./session.js").Waiting} Waiting */

const PAIR_MESSAGES = new Set([
  "offer", "answer", "pranswer", "rollback", "candidate", "applied", "renegotiate", "state",
]);
/** A credential with less life than this is not handed to a new connection. */
const ICE_MARGIN_MS = 60_000;

export class SignalingClient extends Session {
  #roster = new Roster();
  /** @type {{room: string, data: unknown} | null} */
  #wanted = null;
  #resyncing = false;
  /** @type {Waiting[]} */
  #iceWaiting = [];
  /** @type {IceServers | null} */
  #ice = null;
  /** @type {Map<string, PeerConnection>} */
  #links = new Map();
  #calls = new Calls(this);

  /** @param {import("./parley.d.ts").SignalingOptions} options */
  constructor(options) {
    super(options);
    if (options.room) this.#wanted = { room: options.room, data: options.data };
  }

  /** Peers of the room, without oneself, by peer id. @returns {ReadonlyMap<string, Peer>} */
  get peers() {
    return this.#roster.peers;
  }

  /** @returns {string | null} */
  get room() {
    return this.#roster.room;
  }

  /**
   * Enter a room, leaving the one before. Entered again by itself after a reconnection.
   * @param {string} room
   * @param {unknown} [data] presence data the others see
   * @returns {Promise<RoomSnapshot>}
   */
  join(room, data) {
    this.#wanted = { room, data };
    return this.#enter();
  }

  /** @returns {Promise<void>} */
  async leave() {
    this.#wanted = null;
    this.#calls.endAll("user_hangup");
    this.#closeLinks("left");
    this.#roster.clear();
    await this.request("leave");
  }

  /**
   * Send application data to one peer.
   * @param {string} to
   * @param {unknown} data
   * @returns {Promise<void>}
   */
  async send(to, data) {
    await this.request("message", { to, data });
  }

  /**
   * Send application data to everybody else in the room.
   * @param {unknown} data
   * @returns {Promise<void>}
   */
  async broadcast(data) {
    await this.request("message", { data });
  }

  /**
   * Replace own presence data.
   * @param {unknown} data
   * @returns {Promise<void>}
   */
  async update(data) {
    this.#roster.ownChanges++;
    try {
      await this.request("update", { data });
    } catch (error) {
      this.#roster.ownChanges--;
      throw error;
    }
    if (this.#wanted) this.#wanted.data = data;
  }

  /**
   * Ask for ICE servers with fresh credentials.
   * @param {{ttl?: number, region?: string}} [wish]
   * @returns {Promise<IceServers>}
   */
  iceServers({ ttl, region } = {}) {
    return new Promise((resolve, reject) => {
      /** @type {Waiting} */
      const waiting = { resolve, reject, timer: null };
      // The answer is the numbered `ice_servers` message, which carries no id; a refusal does.
      const refuse = (/** @type {Error} */ error) => {
        clearTimeout(waiting.timer);
        this.#iceWaiting = this.#iceWaiting.filter((one) => one !== waiting);
        reject(error);
      };
      waiting.timer = setTimeout(() => refuse(timedOut("ice_servers")), REQUEST_MS);
      this.#iceWaiting.push(waiting);
      this.request("ice_servers", { ttl, region }).catch((error) => {
        if (error.code !== "timeout") refuse(error);
      });
    });
  }

  /**
   * ICE servers for a new connection: those at hand while they are good for another minute.
   * @returns {Promise<RTCIceServer[]>}
   */
  async freshIceServers() {
    const known = this.#ice;
    if (known && known.expiresAt * 1000 > Date.now() + ICE_MARGIN_MS) return known.iceServers;
    return (await this.iceServers()).iceServers;
  }

  /**
   * A negotiated connection to a peer of the room.
   * @param {string} peer
   * @param {import("./parley.d.ts").PeerConnectionOptions} [options]
   * @returns {PeerConnection}
   */
  peerConnection(peer, options = {}) {
    const key = linkKey(peer, options.pc ?? "main");
    if (this.#links.has(key)) {
      throw new ParleyError("wrong_state", "a connection of that name to this peer is open");
    }
    const link = new PeerConnection(this, peer, options);
    this.#links.set(key, link);
    link.once("closed", () => this.#links.delete(key));
    return link;
  }

  /**
   * Ring a peer of the room.
   * @param {string} peer
   * @param {import("./parley.d.ts").CallOptions} [options]
   * @returns {import("./call.js").Call}
   */
  call(peer, options = {}) {
    return this.#calls.place(peer, options);
  }

  /**
   * @param {any} message
   * @protected
   */
  onWelcome(message) {
    // A new session: what the one before negotiated cannot be continued through it.
    this.#calls.endAll("unreachable");
    this.#closeLinks("session_lost");
    if (message.ice_servers) this.#iceArrived(message.ice_servers, message.ice_expires_at ?? 0);
    if (this.#wanted) this.#enter().catch((error) => this.emit("error", error));
  }

  /**
   * @param {any} message
   * @protected
   */
  onMessage(message) {
    if (PAIR_MESSAGES.has(message.type)) return this.#toLink(message);
    switch (message.type) {
      case "room":
        this.#roster.replace(message);
        return this.emit("room", this.#snapshot());
      case "peer_joined":
      case "peer_left":
      case "peer_updated":
        return this.#rosterChanged(message);
      case "message":
        return this.#said(message);
      case "ice_servers":
        return this.#iceArrived(message.ice_servers, message.expires_at);
    }
  }

  /**
   * @param {ParleyError} error
   * @protected
   */
  onLost(error) {
    for (const waiting of this.#iceWaiting.splice(0)) {
      clearTimeout(waiting.timer);
      waiting.reject(error);
    }
  }

  /** @protected */
  onEnd() {
    this.#calls.endAll("user_hangup");
    this.#closeLinks("closed");
    this.#roster.clear();
  }

  /** @returns {Promise<RoomSnapshot>} */
  async #enter() {
    const { room, data } = /** @type {{room: string, data: unknown}} */ (this.#wanted);
    /** @type {RoomSnapshot | null} */
    let snapshot = null;
    let arrived = () => {};
    const seen = new Promise((resolve) => (arrived = () => resolve(undefined)));
    const off = this.on("room", (message) => {
      if (message.room !== room) return;
      snapshot = message;
      arrived();
    });
    const timer = setTimeout(() => arrived(), REQUEST_MS);
    try {
      await this.request("join", { room, data });
      await seen;
    } finally {
      clearTimeout(timer);
      off();
    }
    if (!snapshot) throw timedOut("join");
    return snapshot;
  }

  /** @param {any} message */
  #rosterChanged(message) {
    const before = this.#roster.peers.get(message.peer);
    const outcome = this.#roster.apply(message, this.peer);
    if (outcome === "stale") return;
    const peer = this.#roster.peers.get(message.peer) ?? before;
    if (peer && message.type === "peer_left") {
      this.emit("peer_left", { ...peer, reason: message.reason });
      this.#calls.endAll("unreachable", message.peer);
      this.#closeLinks("peer_left", message.peer);
    } else if (peer) {
      this.emit(message.type, peer);
    }
    if (outcome === "gap") this.#resync();
  }

  #resync() {
    if (this.#resyncing || !this.#wanted) return;
    this.#resyncing = true;
    this.#enter()
      .catch((error) => this.emit("error", error))
      .finally(() => (this.#resyncing = false));
  }

  /** @returns {RoomSnapshot} */
  #snapshot() {
    const { room, revision, peers } = this.#roster;
    return { room: room ?? "", revision, peers: [...peers.values()] };
  }

  /** @param {any} message */
  #said(message) {
    if (message.data?.parley === "call") return this.#calls.receive(message);
    return this.emit("message", { from: message.from, identity: message.identity, data: message.data });
  }

  /** @param {any} message */
  #toLink(message) {
    const pc = message.pc ?? "main";
    const key = linkKey(message.from, pc);
    if (message.type === "offer" && !this.#links.has(key)) {
      this.emit("incoming", { peer: message.from, identity: message.identity, pc });
    }
    this.#links.get(key)?.receive(message);
  }

  /**
   * @param {string} reason
   * @param {string} [peer] only of this peer
   */
  #closeLinks(reason, peer) {
    for (const link of [...this.#links.values()]) {
      if (peer === undefined || link.peer === peer) link.close(reason);
    }
  }

  /**
   * @param {RTCIceServer[]} iceServers
   * @param {number} expiresAt
   */
  #iceArrived(iceServers, expiresAt) {
    this.#ice = { iceServers, expiresAt };
    const waiting = this.#iceWaiting.shift();
    clearTimeout(waiting?.timer);
    waiting?.resolve(this.#ice);
    this.emit("ice_servers", this.#ice);
  }
}

/**
 * @param {string} peer
 * @param {string} pc
 */
const linkKey = (peer, pc) => JSON.stringify([peer, pc]);
