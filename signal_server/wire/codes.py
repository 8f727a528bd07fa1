"""Error and close codes: the vocabulary of every "no" that Parley says.

The tables in docs/protocol.md are tested against this module. It does not know which message
or transport carries a code.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum


class ErrorCode(StrEnum):
    """Machine-readable reason of an `error` message."""

    BAD_REQUEST = "bad_request"
    UNSUPPORTED_VERSION = "unsupported_version"
    UNAUTHENTICATED = "unauthenticated"
    TOKEN_EXPIRED = "token_expired"  # noqa: S105
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    PEER_UNREACHABLE = "peer_unreachable"
    RESUME_EXPIRED = "resume_expired"
    RESUME_GAP = "resume_gap"
    SUPERSEDED = "superseded"
    CONFLICT = "conflict"
    ROOM_FULL = "room_full"
    WRONG_STATE = "wrong_state"
    STALE_NEGOTIATION = "stale_negotiation"
    STALE_GENERATION = "stale_generation"
    CANDIDATE_AFTER_END = "candidate_after_end"
    GLARE = "glare"
    BUFFER_FULL = "buffer_full"
    PAYLOAD_TOO_LARGE = "payload_too_large"
    RATE_LIMITED = "rate_limited"
    LIMIT_EXCEEDED = "limit_exceeded"
    DRAINING = "draining"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"

    @property
    def retryable(self) -> bool:
        """True when the same request may succeed later without being changed."""
        return self in _RETRYABLE


_RETRYABLE = frozenset(
    {
        ErrorCode.PEER_UNREACHABLE,
        ErrorCode.ROOM_FULL,
        ErrorCode.BUFFER_FULL,
        ErrorCode.RATE_LIMITED,
        ErrorCode.LIMIT_EXCEEDED,
        ErrorCode.DRAINING,
        ErrorCode.UNAVAILABLE,
        ErrorCode.INTERNAL,
    }
)


class CloseCode(IntEnum):
    """WebSocket close codes; 4000-4499 mean reconnect, 4500-4999 mean do not."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL = 1002
    UNSUPPORTED_DATA = 1003
    INVALID_TEXT = 1007
    TOO_BIG = 1009
    GO_AWAY = 4000
    PING_TIMEOUT = 4001
    SLOW_CONSUMER = 4002
    RESUME_GAP = 4003
    TOKEN_EXPIRED = 4005
    RATE_LIMITED = 4029
    INTERNAL = 4099
    UNAUTHENTICATED = 4500
    FORBIDDEN = 4501
    SUPERSEDED = 4502
    KICKED = 4503
    ROOM_CLOSED = 4504
    PROTOCOL_ERROR = 4505
    UNSUPPORTED_VERSION = 4506

    @property
    def reconnect(self) -> bool:
        """True when a client should connect again by itself."""
        return self < 4500 and self is not CloseCode.NORMAL
