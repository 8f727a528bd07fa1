/**
 * Who is in the room, kept true from the snapshot and the numbered changes after it.
 * Knows no socket; the client asks for a new snapshot when a change is missing.
 * @module
 */

/** @typedef {import("./parley.d.ts").Peer} Peer */

export class Roster {
  /** @type {string | null} */
  room = null;
  revision = 0;
  /** Own changes of presence data, which raise the revision but need not be told to oneself. */
  ownChanges = 0;
  /** @type {Map<string, Peer>} */
  peers = new Map();

  clear() {
    this.room = null;
    this.revision = 0;
    this.ownChanges = 0;
    this.peers.clear();
  }

  /** @param {{room: string, revision: number, peers: any[]}} message */
  replace({ room, revision, peers }) {
    this.room = room;
    this.revision = revision;
    this.ownChanges = 0;
    this.peers.clear();
    for (const entry of peers) this.peers.set(entry.peer, peerOf(entry));
  }

  /**
   * Apply one change. "stale" is older than the snapshot; after "gap" the roster is not to be
   * trusted until the next snapshot.
   * @param {any} message
   * @param {string | null} [self] own peer id
   * @returns {"applied" | "stale" | "gap"}
   */
  apply(message, self = null) {
    if (this.room === null || message.revision <= this.revision) return "stale";
    const missing = message.revision - this.revision - 1;
    const own = Math.min(missing, this.ownChanges);
    this.revision = message.revision;
    this.ownChanges -= own;
    if (message.peer === self) {
      this.ownChanges = Math.max(0, this.ownChanges - 1);
    } else if (message.type === "peer_left") {
      this.peers.delete(message.peer);
    } else {
      if (message.type === "peer_replaced") this.peers.delete(message.replaced);
      const known = this.peers.get(message.peer);
      this.peers.set(message.peer, peerOf({ ...known, ...message }));
    }
    return missing === own ? "applied" : "gap";
  }
}

/**
 * @param {any} entry
 * @returns {Peer}
 */
function peerOf({ peer, identity, polite, name, connected, data }) {
  return {
    peer,
    identity,
    polite: polite === true,
    name: name ?? null,
    connected: connected !== false,
    data: data ?? null,
  };
}
