/**
 * The one error type of this library; `code` is a signaling error code of docs/protocol.md.
 * @module
 */

export class ParleyError extends Error {
  /**
   * @param {string} code
   * @param {string} message
   * @param {{retryable?: boolean, retryAfterMs?: number | null}} [detail]
   */
  constructor(code, message, { retryable = false, retryAfterMs = null } = {}) {
    super(message);
    this.name = "ParleyError";
    this.code = code;
    /** True when the same request may succeed later without being changed. */
    this.retryable = retryable;
    this.retryAfterMs = retryAfterMs;
  }

  /**
   * @param {{code: string, message: string, retryable?: boolean, retry_after_ms?: number}} wire
   * @returns {ParleyError}
   */
  static fromWire({ code, message, retryable, retry_after_ms }) {
    return new ParleyError(code, message, { retryable, retryAfterMs: retry_after_ms });
  }
}

/** @param {string} message */
export const unavailable = (message) => new ParleyError("unavailable", message, { retryable: true });

/** @param {string} what */
export const timedOut = (what) => new ParleyError("timeout", `no answer to ${what}`, { retryable: true });
