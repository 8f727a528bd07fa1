"""Text to client message and server message to bytes; bad text becomes a `Refusal`, never a raise.

Relayed payloads (`data`) stay raw JSON: they are checked for being JSON of bounded depth and are
not rebuilt. It does not know who sent the text.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from signal_server.wire.base import RequestId
from signal_server.wire.codes import ErrorCode
from signal_server.wire.messages import ClientMessage

_decode: Callable[[str], ClientMessage] = msgspec.json.Decoder(ClientMessage).decode
_encoder = msgspec.json.Encoder()
encode = _encoder.encode


class Refusal(msgspec.Struct, frozen=True):
    """A coded no to one message; `id` is the request's, when it could be read."""

    code: ErrorCode
    message: str
    id: str | int | None = None
    retry_after_ms: int | None = None
    negotiation: int | None = None
    winner_negotiation: int | None = None


class _Head(msgspec.Struct):
    id: RequestId | None = None


_decode_head = msgspec.json.Decoder(_Head).decode


def decode(text: str, max_depth: int) -> ClientMessage | Refusal:
    """Decode one text frame.

    `max_depth` bounds the nesting that a receiver of the relayed payload must be able to parse.
    The caller has bounded the length. Never raises.
    """
    try:
        message = _decode(text)
        # Counting brackets is ten times cheaper than walking; only a suspect is walked.
        if (
            isinstance(getattr(message, "data", None), msgspec.Raw)
            and text.count("[") + text.count("{") > max_depth
            and _depth(text) > max_depth
        ):
            return Refusal(ErrorCode.BAD_REQUEST, f"nested deeper than {max_depth} levels")
        return message
    except msgspec.ValidationError as refusal:
        return Refusal(ErrorCode.BAD_REQUEST, str(refusal), _id_of(text))
    except msgspec.DecodeError as refusal:
        return Refusal(ErrorCode.BAD_REQUEST, str(refusal))
    except UnicodeEncodeError:
        return Refusal(ErrorCode.BAD_REQUEST, "lone surrogate in the text")
    except RecursionError:
        return Refusal(ErrorCode.BAD_REQUEST, f"nested deeper than {max_depth} levels")


def _id_of(text: str) -> str | int | None:
    try:
        return _decode_head(text).id
    except (msgspec.DecodeError, RecursionError):
        return None


def _depth(text: str) -> int:
    """Deepest nesting of arrays and objects outside strings; linear, not recursive."""
    depth = deepest = 0
    in_string = escaped = False
    for char in text:
        if in_string:
            if escaped:
                escaped = False
            elif char == "\\":
                escaped = True
            elif char == '"':
                in_string = False
        elif char == '"':
            in_string = True
        elif char in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif char in "]}":
            depth -= 1
    return deepest
