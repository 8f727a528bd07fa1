"""What a client reads: server messages as types, refusals and closed connections as errors.

The client's counterpart of `wire.codec`. It does not know requests or the state of a session.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct
from websockets.exceptions import ConnectionClosed

from signal_server.wire import call_messages as call_wire
from signal_server.wire import messages as wire
from signal_server.wire.codes import CloseCode, ErrorCode
from signal_server.wire.receipts import Receipt

ServerMessage = (
    wire.Welcome
    | wire.Resumed
    | wire.Ok
    | wire.Error
    | wire.NewSecret
    | wire.Pong
    | wire.RoomSnapshot
    | wire.PeerJoined
    | wire.PeerLeft
    | wire.PeerReplaced
    | wire.PeerUpdated
    | wire.RelayedOffer
    | wire.RelayedAnswer
    | wire.RelayedPranswer
    | wire.RelayedRollback
    | wire.RelayedCandidates
    | wire.RelayedApplied
    | wire.RelayedRenegotiate
    | wire.RelayedState
    | wire.RelayedMessage
    | wire.IceServers
    | wire.TokenExpiring
    | wire.GoAway
    | Receipt
    | call_wire.CallServerMessage
)

_decoder: msgspec.json.Decoder[ServerMessage] = msgspec.json.Decoder(ServerMessage)
_KNOWN_TYPES = frozenset(str(kind.__struct_config__.tag) for kind in wire.SERVER_MESSAGES)


class SignalingError(Exception):
    """A coded no, from the server or about the connection to it."""

    def __init__(
        self,
        code: str,
        message: str,
        retryable: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.retryable = retryable
        self.retry_after_s = retry_after_s


class NotAllowedError(SignalingError):
    """The token is missing, wrong or expired, or does not grant it."""


class NotFoundError(SignalingError):
    """No such peer, room or call."""


class WrongStateError(SignalingError):
    """Too late or too early: the call has ended, the negotiation has moved on."""


class GlareError(SignalingError):
    """The server arbitrated between two offers and this one lost: the peer's is in the log or on
    its way. Answer that one, then offer again if there is still something to negotiate."""


class RateLimitedError(SignalingError):
    """Too much at once; `retry_after_s` says when it would be accepted."""


class ResumeRefusedError(SignalingError):
    """The session is over; whether what was asked in it was executed is unknown."""


class NoAnswerError(SignalingError):
    """The connection is lost, or the server did not answer in time."""


class DismissedError(SignalingError):
    """The server ended the session for good: superseded by another connection, or kicked."""


_ERRORS: dict[str, type[SignalingError]] = {
    ErrorCode.UNAUTHENTICATED: NotAllowedError,
    ErrorCode.TOKEN_EXPIRED: NotAllowedError,
    ErrorCode.FORBIDDEN: NotAllowedError,
    ErrorCode.NOT_FOUND: NotFoundError,
    ErrorCode.WRONG_STATE: WrongStateError,
    ErrorCode.STALE_NEGOTIATION: WrongStateError,
    ErrorCode.STALE_GENERATION: WrongStateError,
    ErrorCode.GLARE: GlareError,
    ErrorCode.RATE_LIMITED: RateLimitedError,
    ErrorCode.RESUME_EXPIRED: ResumeRefusedError,
    ErrorCode.RESUME_GAP: ResumeRefusedError,
    ErrorCode.SUPERSEDED: DismissedError,
    "kicked": DismissedError,
    "room_closed": DismissedError,
}


class Unknown(Struct):
    """A message of a newer server: counted, not understood."""

    type: str
    seq: int = 0


def read(frame: str | bytes) -> ServerMessage | Unknown:
    """One frame from the server; raises SignalingError when it cannot be one of Parley's."""
    try:
        return _decoder.decode(frame)
    except msgspec.ValidationError as strange:
        unknown = _read_unknown(frame)
        if unknown is None or unknown.type in _KNOWN_TYPES:
            raise SignalingError(ErrorCode.BAD_REQUEST, f"from the server: {strange}") from strange
        return unknown
    except msgspec.DecodeError as strange:
        raise SignalingError(ErrorCode.BAD_REQUEST, "the server did not send JSON") from strange


def _read_unknown(frame: str | bytes) -> Unknown | None:
    try:
        return msgspec.json.decode(frame, type=Unknown)
    except msgspec.DecodeError:
        return None


def error_of(
    code: str, message: str, retryable: bool = False, retry_after_s: float | None = None
) -> SignalingError:
    """The error of the type that belongs to the code."""
    return _ERRORS.get(code, SignalingError)(code, message, retryable, retry_after_s)


def refused(reply: wire.Error) -> SignalingError:
    after = None if reply.retry_after_ms is None else reply.retry_after_ms / 1000
    return error_of(reply.code, reply.message, reply.retryable, after)


def lost_connection(closed: ConnectionClosed) -> SignalingError:
    """What a closed connection means: its code, and whether to connect again."""
    if closed.rcvd is None:
        return NoAnswerError(ErrorCode.UNAVAILABLE, "the connection was lost", True)
    try:
        code = CloseCode(closed.rcvd.code)
    except ValueError:
        retry = closed.rcvd.code < 4500
        return NoAnswerError(ErrorCode.UNAVAILABLE, f"closed with {closed.rcvd.code}", retry)
    reason = closed.rcvd.reason or code.name.lower()
    return error_of(code.name.lower(), reason, code.reconnect)
