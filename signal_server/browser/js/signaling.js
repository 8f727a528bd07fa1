/**
 * The signaling client: a session, the room's roster, and the connections and calls to its peers.
 * It carries descriptions and candidates without reading them; peer-connection.js negotiates and
 * call.js rings.
 * @module
 */

import { Calls } from "./calls.js";
import { timedOut, unavailable } from "./errors.js";
import { IceServers } from "./ice-servers.js";
import { Links } from "./links.js";
import { PeerConnection } from "./peer-connection.js";
import { Roster } from "./roster.js";
import { REQUEST_MS, Session } from "./session.js";

/** @typedef {import("./parley.d.ts").Peer} Peer */
/** @typedef {import("./parley.d.ts").RoomSnapshot} RoomSnapshot */

const PAIR_MESSAGES = new Set([
  "offer", "answer", "pranswer", "rollback", "candidate", "applied", "renegotiate", "state",
]);
const PRESENCE_MS = 10_000;
export class SignalingClient extends Session {
  #roster = new Roster();
  /** @type {{room: string, data: unknown} | null} */
  #wanted = null;
  #resyncing = false;
  #ice = new IceServers((wish) => this.request("ice_servers", { ...wish }));
  #links = new Links();
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
    return this.#enter(room, data);
  }

  /** @returns {Promise<void>} */
  async leave() {
    this.#wanted = null;
    this.#calls.hangupAll();
    this.#links.close("left");
    this.#roster.clear();
    await this.request("leave");
  }

  /**
   * Send application data to one peer.
   * @param {string} to
   * @param {unknown} data
   * @param {{until?: "relayed" | "received"}} [options]
   * @returns {Promise<void>}
   */
  async send(to, data, options) {
    await this.request("message", { to, data }, options);
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
   * @returns {Promise<import("./parley.d.ts").IceServers>}
   */
  iceServers(wish = {}) {
    return this.#ice.ask(wish);
  }

  /**
   * ICE servers for a new connection: those at hand while they are good for another minute.
   * @returns {Promise<RTCIceServer[]>}
   */
  freshIceServers() {
    return this.#ice.fresh();
  }

  /**
   * A negotiated connection to a peer of the room.
   * @param {string} peer
   * @param {import("./parley.d.ts").PeerConnectionOptions} [options]
   * @returns {PeerConnection}
   */
  peerConnection(peer, options = {}) {
    return this.#links.open(peer, options.pc ?? "main", () => new PeerConnection(this, peer, options));
  }

  /**
   * Ring somebody: every device of an identity, or of several; the first one that answers has the
   * call. Who is in this room is called in this room.
   * @param {string | string[] | Peer} to identities, or a peer of the room
   * @param {import("./parley.d.ts").CallOptions} [options]
   * @returns {import("./call.js").Call}
   */
  call(to, options = {}) {
    const named = [to].flat().map((one) => (typeof one === "string" ? one : one.identity));
    const identities = named.map((one) => this.peers.get(one)?.identity ?? one);
    const isHere = [...this.peers.values()].some(({ identity }) => identities.includes(identity));
    const room = options.room ?? (isHere ? this.room : null);
    return this.#calls.place(identities, { ...options, room });
  }

  /** Calls that are not over. @returns {import("./call.js").Call[]} */
  get calls() {
    return this.#calls.current;
  }

  close() {
    this.#calls.hangupAll();
    super.close();
  }

  networkChanged() {
    super.networkChanged();
    this.#links.networkChanged();
  }

  /**
   * Wait until a peer is in the room.
   * @param {string} peer
   * @returns {Promise<boolean>} false when it does not come
   */
  present(peer) {
    if (this.peers.has(peer)) return Promise.resolve(true);
    return new Promise((resolve) => {
      const look = () => {
        if (!this.peers.has(peer) && this.state !== "closed") return;
        for (const off of offs) off();
        clearTimeout(timer);
        resolve(this.peers.has(peer));
      };
      const offs = /** @type {const} */ (["room", "peer_joined", "state"]).map((name) => this.on(name, look));
      const timer = setTimeout(() => {
        for (const off of offs) off();
        resolve(false);
      }, PRESENCE_MS);
    });
  }

  /**
   * A call has ended: back to the room of one's own, if the call took place elsewhere.
   * @param {import("./call.js").Call} call
   */
  callOver({ room, peer }) {
    this.#links.forget(peer);
    if (room === null || room !== this.room || room === this.#wanted?.room) return;
    const { room: home, data } = this.#wanted ?? {};
    const back = home === undefined ? this.request("leave") : this.#enter(home, data);
    if (home === undefined) this.#roster.clear();
    back.catch((error) => this.emit("error", error));
  }

  /**
   * @param {any} message
   * @protected
   */
  onWelcome(message) {
    if (message.ice_servers) this.#iceArrived(message.ice_servers, message.ice_expires_at ?? 0);
    if (!this.#wanted) return;
    const { room, data } = this.#wanted;
    this.#enter(room, data).catch((error) => this.emit("error", error));
  }

  /**
   * @param {any} message
   * @protected
   */
  onResumed(message) {
    const [room] = message.rooms;
    if (room) this.#showRoom(room);
    else if (this.room !== null) this.#showRoom({ room: null, revision: 0, peers: [] });
    this.#calls.resumed(message.calls);
    this.#links.networkChanged();
  }

  /**
   * @param {any} message
   * @protected
   */
  onMessage(message) {
    if (PAIR_MESSAGES.has(message.type)) return this.#toLink(message);
    switch (message.type) {
      case "room":
        return this.#showRoom(message);
      case "peer_joined":
      case "peer_left":
      case "peer_updated":
      case "peer_replaced":
        return this.#rosterChanged(message);
      case "message":
        return this.#said(message);
      case "ice_servers":
        return this.#iceArrived(message.ice_servers, message.expires_at);
      case "call_invite":
      case "call_ringing":
      case "call_accepted":
      case "call_ended":
        return this.#calls.receive(message);
    }
  }

  /**
   * @param {import("./errors.js").ParleyError} error
   * @protected
   */
  onSessionLost(error) {
    this.#ice.refuseAll(error);
    this.#calls.endAll("unreachable");
    this.#links.close("session_lost");
    this.#roster.clear();
  }

  /** @protected */
  onEnd() {
    this.#ice.refuseAll(unavailable("closed"));
    this.#calls.endAll("user_hangup");
    this.#links.close("closed");
    this.#roster.clear();
  }

  /**
   * @param {string} room
   * @param {unknown} [data]
   * @returns {Promise<RoomSnapshot>}
   */
  async #enter(room, data) {
    /** @type {RoomSnapshot | null} */
    let snapshot = null;
    let arrived = () => {};
    const seen = new Promise((resolve) => (arrived = () => resolve(undefined)));
    const off = this.on("room", (message) => {
      if (message.room !== room) return;
      snapshot = message;
      arrived();
    });
    let timer;
    try {
      await this.request("join", { room, data });
      timer = setTimeout(() => arrived(), REQUEST_MS);
      await seen;
    } finally {
      clearTimeout(timer);
      off();
    }
    if (!snapshot) throw timedOut("join");
    return snapshot;
  }

  /**
   * The room as it is now, whatever has been missed of it.
   * @param {any} message
   */
  #showRoom(message) {
    const before = message.room === this.room ? [...this.peers.values()] : [];
    this.#roster.replace(message);
    for (const peer of before) {
      if (!this.peers.has(peer.peer)) this.emit("peer_left", { ...peer, reason: "missed" });
    }
    this.#links.close("peer_left", (peer) => !this.peers.has(peer));
    this.emit("room", this.#snapshot());
  }

  /** @param {any} message */
  #rosterChanged(message) {
    const before = this.#roster.peers.get(message.peer);
    const outcome = this.#roster.apply(message, this.peer);
    if (outcome === "stale") return;
    const peer = this.#roster.peers.get(message.peer) ?? before;
    if (peer && message.type === "peer_left") {
      this.emit("peer_left", { ...peer, reason: message.reason });
      this.#links.close("peer_left", (one) => one === message.peer);
    } else if (peer && message.type === "peer_replaced") {
      // The device is in the room before what it was is gone: who listens can connect again.
      this.#links.close("peer_replaced", (one) => one === message.replaced);
      this.emit("peer_replaced", { ...peer, replaced: message.replaced });
    } else if (peer) {
      this.emit(message.type, peer);
    }
    if (outcome === "gap") this.#resync();
  }

  #resync() {
    if (this.#resyncing || this.room === null) return;
    this.#resyncing = true;
    this.#enter(this.room)
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
    if (message.data?.parley === "call") return this.#calls.said(message);
    return this.emit("message", { from: message.from, identity: message.identity, data: message.data });
  }

  /** @param {any} message */
  #toLink(message) {
    const { from, identity, type, pc = "main" } = message;
    if (!this.#links.has(from, pc)) {
      if (this.calls.some((call) => call.awaits(from))) return this.#links.hold(message);
      if (type === "offer") this.emit("incoming", { peer: from, identity, pc });
    }
    this.#links.deliver(message);
  }

  /**
   * @param {RTCIceServer[]} iceServers
   * @param {number} expiresAt
   */
  #iceArrived(iceServers, expiresAt) {
    const servers = { iceServers, expiresAt };
    this.#ice.arrived(servers);
    this.#links.useIceServers(iceServers);
    this.emit("ice_servers", servers);
  }
}
