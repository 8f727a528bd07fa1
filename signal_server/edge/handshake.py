"""The opening handshake of RFC 6455 section 4.2 as a pure function: head bytes in, decision out.

It reads one request head and answers with a `Handshake` to accept or a `Refusal` to send. It does
not know transports, endpoints or tokens' meaning, and looks for no token in the query string.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import NamedTuple

from websockets.utils import accept_key

from signal_server.wire.codes import ErrorCode

SUBPROTOCOL = "parley.v1.json"
TOKEN_PROTOCOL = "parley.token."  # noqa: S105 - a prefix, not a secret
MAX_HEADERS = 100
_OTHER_VERSION = re.compile(r"parley\.v[0-9]{1,4}\.[a-z]{1,16}")
"""A client that speaks only these must be told so, which a browser can read only on a WebSocket."""

_REQUEST_LINE = re.compile(r"([!-~]+) (/[!-~]*) HTTP/([0-9]\.[0-9])\r\n")
_HEADER = re.compile(
    r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)\r\n",
)
_ENDPOINT_TARGET = re.compile(rb"GET (/[!-~]*)")
_KEY = re.compile(r"[A-Za-z0-9+/]{21}[AQgw]==")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_ONCE = frozenset(
    {
        "authorization",
        "content-length",
        "host",
        "origin",
        "sec-websocket-key",
        "sec-websocket-version",
    }
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A "no" to the upgrade; `reason` is a word of a small fixed set, fit for a metric label."""

    status: int
    reason: str
    message: str
    code: ErrorCode = ErrorCode.BAD_REQUEST
    headers: tuple[tuple[str, str], ...] = ()

    def response(self) -> bytes:
        """The whole HTTP response; the connection ends with it."""
        body = json.dumps({"code": self.code, "message": self.message}).encode()
        lines = [
            f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            "Cache-Control: no-store",
            *(f"{name}: {value}" for name, value in self.headers),
            # RFC 9110 section 7.8: a sender of Upgrade names it in Connection too.
            "Connection: close, upgrade"
            if any(name == "Upgrade" for name, _ in self.headers)
            else "Connection: close",
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Handshake(NamedTuple):
    """A request that may be upgraded. `token` is whatever the client presented, unverified."""

    path: str
    query: str
    host: str
    origin: str | None
    subprotocols: tuple[str, ...]
    subprotocol: str | None
    token: str | None
    forwarded_for: str | None
    key: str

    def response(self) -> bytes:
        """The 101 answer; no extension is ever negotiated and no token is echoed."""
        chosen = f"Sec-WebSocket-Protocol: {self.subprotocol}\r\n" if self.subprotocol else ""
        return (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept_key(self.key)}\r\n{chosen}\r\n"
        ).encode()


HEAD_TOO_LARGE = Refusal(
    431, "head_too_large", "The request head is too large.", ErrorCode.PAYLOAD_TOO_LARGE
)
TOO_SLOW = Refusal(408, "timeout", "The request did not arrive in time.")
AT_CAPACITY = Refusal(
    503,
    "capacity",
    "This node holds as many connections as it may.",
    ErrorCode.UNAVAILABLE,
    (("Retry-After", "5"),),
)
_MALFORMED = Refusal(400, "malformed", "The request head is not valid HTTP/1.1.")
_UPGRADE = ("Upgrade", "websocket")


def head_end(buffer: bytes) -> int:
    """Length of the request head including its empty line, 0 while it is incomplete."""
    crlf = buffer.find(b"\n\r\n")
    bare = buffer.find(b"\n\n", 0, crlf if crlf >= 0 else len(buffer))
    if bare >= 0:
        return bare + 2
    return crlf + 3 if crlf >= 0 else 0


def get_path(buffer: bytes) -> str | None:
    """Path of a GET request line without its query, None for anything else."""
    found = _ENDPOINT_TARGET.match(buffer)
    return found[1].decode("ascii").partition("?")[0] if found else None


def parse(
    head: bytes,
    *,
    allowed_origins: frozenset[str] | None = None,
    subprotocol: str = SUBPROTOCOL,
) -> Handshake | Refusal:
    """Decide on one complete request head (including its empty line)."""
    text = head.decode("latin-1")
    line = _REQUEST_LINE.match(text)
    if line is None:
        return _MALFORMED
    fields = _fields(text, line.end())
    if isinstance(fields, Refusal):
        return fields
    method, target, version = line.groups()
    if method != "GET":
        return Refusal(
            405, "method", "A WebSocket is opened with GET.", headers=(("Allow", "GET"),)
        )
    if version != "1.1":
        return Refusal(400, "http_version", "A WebSocket needs HTTP/1.1.")
    refusal = _upgrade_refusal(fields) or _origin_refusal(fields, allowed_origins)
    if refusal is not None:
        return refusal
    offered = _list(fields.get("sec-websocket-protocol", ""))
    if not all(_TOKEN.fullmatch(name) for name in offered) or len(set(offered)) < len(offered):
        return Refusal(400, "subprotocol", "Sec-WebSocket-Protocol is not a list of tokens.")
    spoken: str | None = subprotocol if subprotocol in offered else None
    if offered and spoken is None:
        spoken = next(filter(_OTHER_VERSION.fullmatch, offered), None)
        if spoken is None:
            return Refusal(
                400,
                "subprotocol",
                f"Offer the subprotocol {subprotocol}, or none.",
                ErrorCode.UNSUPPORTED_VERSION,
            )
    path, _, query = target.partition("?")
    return Handshake(
        path=path,
        query=query,
        host=fields["host"],
        origin=fields.get("origin"),
        subprotocols=offered,
        subprotocol=spoken,
        token=_presented_token(fields.get("authorization"), offered),
        forwarded_for=fields.get("x-forwarded-for"),
        key=fields["sec-websocket-key"],
    )


def _fields(head: str, position: int) -> dict[str, str] | Refusal:
    """Header fields by lower-case name; list fields that repeat are joined (RFC 9110 5.3)."""
    fields: dict[str, str] = {}
    for _ in range(MAX_HEADERS):
        found = _HEADER.match(head, position)
        if found is None:
            return fields if head[position:] == "\r\n" else _MALFORMED
        position = found.end()
        name, value = found[1].lower(), found[2].rstrip(" \t")
        if name not in fields:
            fields[name] = value
        elif name in _ONCE:
            return Refusal(400, "duplicate_header", f"{name} may appear only once.")
        else:
            fields[name] += f", {value}"
    return HEAD_TOO_LARGE


def _upgrade_refusal(fields: dict[str, str]) -> Refusal | None:
    """What RFC 6455 section 4.2.1 requires of the header fields."""
    if "websocket" not in _list(fields.get("upgrade", "").lower()):
        return Refusal(426, "not_an_upgrade", "This is a WebSocket endpoint.", headers=(_UPGRADE,))
    if "upgrade" not in _list(fields.get("connection", "").lower()):
        return Refusal(400, "connection", "Connection must name upgrade.")
    if fields.get("sec-websocket-version") != "13":
        return Refusal(
            426,
            "websocket_version",
            "Only WebSocket version 13 is spoken here.",
            ErrorCode.UNSUPPORTED_VERSION,
            (_UPGRADE, ("Sec-WebSocket-Version", "13")),
        )
    if not _KEY.fullmatch(fields.get("sec-websocket-key", "")):
        return Refusal(400, "key", "Sec-WebSocket-Key must be 16 bytes in base64.")
    if not fields.get("host"):
        return Refusal(400, "host", "Host is missing.")
    if "transfer-encoding" in fields or fields.get("content-length", "0") != "0":
        return Refusal(400, "body", "An opening handshake has no body.")
    return None


def _origin_refusal(fields: dict[str, str], allowed: frozenset[str] | None) -> Refusal | None:
    """Browsers always send Origin, so a request without one is not a page of another site.

    A page of the host that was asked is our own: nobody is known by where he comes from, so a name
    that somebody else has pointed at us opens nothing either.
    """
    origin = fields.get("origin")
    if allowed is None or origin is None or (origin != "null" and origin in allowed):
        return None
    scheme, _, host = origin.partition("://")
    if scheme in ("http", "https") and host == fields["host"].lower():
        return None
    return Refusal(403, "origin", "This origin is not allowed.", ErrorCode.FORBIDDEN)


def _presented_token(authorization: str | None, offered: tuple[str, ...]) -> str | None:
    """The Authorization header wins; browsers cannot set it and use the subprotocol instead."""
    if authorization is not None:
        scheme, _, credentials = authorization.partition(" ")
        if scheme.lower() == "bearer" and credentials.strip():
            return credentials.strip()
    for name in offered:
        if name.startswith(TOKEN_PROTOCOL):
            return name[len(TOKEN_PROTOCOL) :] or None
    return None


def _list(value: str) -> tuple[str, ...]:
    if "," not in value:
        return (value,) if value else ()
    return tuple(item for item in (part.strip(" \t") for part in value.split(",")) if item)
