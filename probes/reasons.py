"""The closed vocabulary of results: states and reasons, the same words in Python, JS and metrics.

Pure. tests/vectors/reasons.json holds both languages to it. What a reason means for a call, and
what to do, is in `verdict`.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Of a check, while and after it runs."""

    WAITING = "waiting"
    RUNNING = "running"
    PASSED = "passed"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"
    ABORTED = "aborted"


class Reason(StrEnum):
    """Why a check did not simply pass; NONE when it did."""

    NONE = ""
    # Reaching a server
    UNREACHABLE = "unreachable"
    """Nothing answered in time, or the connection was refused; browsers cannot tell which."""
    CONNECTION_REFUSED = "connection_refused"
    DNS = "dns"
    TLS_CERTIFICATE = "tls_certificate"
    HTTP_STATUS = "http_status"
    RATE_LIMITED = "rate_limited"
    SERVER_GONE = "server_gone"
    """It answered before and does not any more."""
    TIMEOUT = "timeout"
    """Answers came, but the check did not end before its deadline."""
    # TURN
    NOT_OFFERED = "not_offered"
    """The deployment has no URL of this transport."""
    NO_CREDENTIALS = "no_credentials"
    CREDENTIAL_REJECTED = "credential_rejected"
    CREDENTIAL_EXPIRED = "credential_expired"
    ALLOCATION_QUOTA = "allocation_quota"
    PEER_DENIED = "peer_denied"
    """The relay gave an address and then refused to send to the peer."""
    HAIRPIN = "hairpin"
    """Two clients of this relay cannot reach each other; a peer elsewhere can be reached."""
    RELAY_SILENT = "relay_silent"
    """An allocation came about and no packet passed."""
    PACKET_LOSS = "packet_loss"
    # WebSocket
    UPGRADE_REFUSED = "upgrade_refused"
    FRAMES_BLOCKED = "frames_blocked"
    """The upgrade succeeded and no frame came through."""
    WRONG_REGION = "wrong_region"
    WRONG_NONCE = "wrong_nonce"
    """Something else answered in the server's place."""
    # Quality
    BANDWIDTH_TOO_LOW = "bandwidth_too_low"
    HIGH_LOSS = "high_loss"
    HIGH_DELAY = "high_delay"
    NO_CAMERA = "no_camera"
    NO_MICROPHONE = "no_microphone"
    PERMISSION_DENIED = "permission_denied"
    DEVICE_IN_USE = "device_in_use"
    UNSUPPORTED = "unsupported"
    """The browser lacks what the check needs."""
    # Ends
    ABORTED = "aborted"
    INTERNAL = "internal"


SETTLED = frozenset({State.PASSED, State.WARNING, State.FAILED, State.SKIPPED, State.ABORTED})
EXIT_CODES: dict[State, int] = {
    State.PASSED: 0,
    State.SKIPPED: 0,
    State.WARNING: 1,
    State.FAILED: 2,
    State.ABORTED: 3,
}
USAGE_EXIT_CODE = 64
