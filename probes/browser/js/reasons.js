/**
 * The closed vocabulary of results, the same words as probes/reasons.py, which explains them.
 * @module
 */

/** @typedef {"waiting" | "running" | "passed" | "warning" | "failed" | "skipped" | "aborted"} State */
/** @typedef {typeof REASONS[number]} Reason */

export const STATES = /** @type {const} */ (["waiting", "running", "passed", "warning", "failed", "skipped", "aborted"]);
export const REASONS = /** @type {const} */ ([
  "",
  "unreachable", "connection_refused", "dns", "tls_certificate", "http_status", "rate_limited", "server_gone", "timeout",
  "not_offered", "no_credentials", "credential_rejected", "credential_expired", "allocation_quota", "peer_denied",
  "hairpin", "relay_silent", "packet_loss",
  "upgrade_refused", "frames_blocked", "wrong_region", "wrong_nonce",
  "bandwidth_too_low", "high_loss", "high_delay", "no_camera", "no_microphone", "permission_denied", "device_in_use",
  "unsupported",
  "aborted", "internal",
]);
