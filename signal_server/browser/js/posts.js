/**
 * Messages that must arrive and whose answer nobody waits for: said again when they were too fast.
 * @module
 */

const ANSWER_MS = 30_000;
const ATTEMPTS = 5;
/** Nobody is interested in what becomes of a message whose addressee or ICE session is gone. */
const MOOT = new Set(["not_found", "peer_unreachable", "stale_generation", "timeout"]);

export class Posts {
  #request;
  #onError;

  /**
   * @param {(type: string, fields: Record<string, unknown>, options: {timeoutMs: number}) => Promise<any>} request
   * @param {(error: any) => void} onError
   */
  constructor(request, onError) {
    this.#request = request;
    this.#onError = onError;
  }

  /**
   * @param {string} type
   * @param {Record<string, unknown>} fields
   * @param {number} [attempt]
   */
  post(type, fields, attempt = 1) {
    this.#request(type, fields, { timeoutMs: ANSWER_MS }).catch((error) => {
      if (error.code === "rate_limited" && attempt < ATTEMPTS) {
        setTimeout(() => this.post(type, fields, attempt + 1), error.retryAfterMs ?? 1_000);
      } else if (!MOOT.has(error.code)) {
        this.#onError(error);
      }
    });
  }
}
