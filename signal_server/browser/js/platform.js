/**
 * What the platform tells: of its network, and of the page, which goes or is back. A page that goes
 * says goodbye, unless it can leave its ticket to the page that comes next.
 * @module
 */

/** @typedef {import("./parley.d.ts").SignalingOptions} SignalingOptions */
/** @typedef {import("./parley.d.ts").Ticket} Ticket */

/**
 * @typedef {object} Client
 * @property {() => void} networkChanged
 * @property {() => void} checkConnection
 * @property {() => void} close
 * @property {Ticket | null} ticket
 * @property {string | null} [room]
 */

export class Platform {
  /** What the page before this one has left. @type {Ticket | null} */
  left = null;
  #platform = /** @type {any} */ (globalThis);
  #client;
  #options;
  #key;
  /** @type {[string, (event: {persisted?: boolean}) => void][]} */
  #listeners;

  /**
   * @param {Client} client
   * @param {SignalingOptions} options
   */
  constructor(client, options) {
    this.#client = client;
    this.#options = options;
    this.#key = `parley.ticket ${options.url} ${options.room}`;
    this.#listeners = Object.entries({
      online: () => client.networkChanged(),
      offline: () => client.checkConnection(),
      pageshow: ({ persisted }) => persisted && client.checkConnection(),
      // A page that is only put aside comes back as it was.
      pagehide: ({ persisted }) => persisted || this.#leaveTicket() || client.close(),
    });
  }

  listen() {
    this.left = this.#takeTicket();
    for (const [name, listener] of this.#listeners) this.#platform.addEventListener?.(name, listener);
  }

  stop() {
    for (const [name, listener] of this.#listeners) this.#platform.removeEventListener?.(name, listener);
  }

  /** @returns {boolean} whether the next page will find it */
  #leaveTicket() {
    const { storage, room } = this.#options;
    const { ticket } = this.#client;
    if (!storage || !ticket || !room || this.#client.room !== room) return false;
    try {
      storage.setItem(this.#key, JSON.stringify(ticket));
      return true;
    } catch {
      return false;
    }
  }

  /** Once: a copy of this tab must not take its place. @returns {Ticket | null} */
  #takeTicket() {
    try {
      const found = this.#options.storage?.getItem(this.#key);
      this.#options.storage?.removeItem(this.#key);
      return found ? JSON.parse(found) : null;
    } catch {
      return null;
    }
  }
}
