/**
 * The numbers of what the server sends: which message is new, which is repeated, what is to be
 * acknowledged and when. It knows neither messages nor connections.
 * @module
 */

const ACK_AFTER_MESSAGES = 20;
const ACK_AFTER_MS = 5_000;

export class Inbox {
  /** Highest number up to which everything has arrived. */
  last = 0;
  #acked = 0;
  /** @type {any} */
  #timer = null;
  #onDue;

  /** @param {() => void} onDue an acknowledgement must go out now */
  constructor(onDue) {
    this.#onDue = onDue;
  }

  /** Another session begins, with numbers of its own. */
  reset() {
    this.rest();
    this.last = 0;
    this.#acked = 0;
  }

  /** No acknowledgement is sent for now: what is due goes with the hello that resumes. */
  rest() {
    clearTimeout(this.#timer);
    this.#timer = null;
  }

  /**
   * @param {number} seq
   * @returns {"new" | "repeated" | "hole"} after a hole the connection is not to be trusted
   */
  take(seq) {
    if (seq <= this.last) return "repeated";
    if (seq > this.last + 1) return "hole";
    this.last = seq;
    if (this.last - this.#acked >= ACK_AFTER_MESSAGES) this.#onDue();
    else this.#timer ??= setTimeout(() => this.#onDue(), ACK_AFTER_MS);
    return "new";
  }

  /**
   * What a message that leaves now acknowledges.
   * @returns {number | null} null: nothing new
   */
  acknowledge() {
    this.rest();
    if (this.last === this.#acked) return null;
    this.#acked = this.last;
    return this.last;
  }
}
