"""The probe socket, `GET /v1/probes/ws`: proves that frames pass, and who answers.

An endpoint of the signaling front: no token, no session, few and short messages. It does not know
HTTP or frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import parse_qs

import msgspec

from probes.messages import MAX_NONCE_CHARS, ClientFrame, WsBye, WsHello, WsPing, WsPong

PATH = "/v1/probes/ws"
MAX_FRAMES = 64
"""Of one client; a probe needs four."""
MAX_FIELDS = 8
"""Of a query."""
NORMAL, PROTOCOL_ERROR, RATE_LIMITED = 1000, 4505, 4029
_CLIENT_FRAME: msgspec.json.Decoder[ClientFrame] = msgspec.json.Decoder(ClientFrame)
_encode = msgspec.json.Encoder().encode


class ProbeConnection(Protocol):
    """What the endpoint needs of a socket."""

    endpoint_state: Any
    query: str
    """Of the request that opened it."""

    def send(self, payload: bytes, seq: int = 0) -> None: ...

    def close(self, code: int = NORMAL, reason: str = "") -> None: ...


@dataclass(slots=True)
class SocketFigures:
    """Plain integers, read at scrape time."""

    opened: int = 0
    greeted: int = 0
    pings: int = 0
    refused: int = 0


class ProbeSocket:
    """The same for every client; `endpoint_state` of a connection counts its frames."""

    def __init__(self, region: str, node: str) -> None:
        self._region = region
        self._node = node
        self.figures = SocketFigures()

    def opened(self, socket: ProbeConnection) -> None:
        self.figures.opened += 1
        socket.endpoint_state = 0
        nonce = _nonce_of(socket.query)
        if nonce is None:
            self._refuse(socket, PROTOCOL_ERROR, "bad_request")
        else:
            self._greet(socket, nonce)

    def received(self, socket: ProbeConnection, text: str) -> None:
        socket.endpoint_state += 1
        if socket.endpoint_state > MAX_FRAMES:
            self._refuse(socket, RATE_LIMITED, "rate_limited")
            return
        try:
            frame = _CLIENT_FRAME.decode(text)
        except (msgspec.DecodeError, RecursionError, UnicodeError):
            self._refuse(socket, PROTOCOL_ERROR, "bad_request")
            return
        match frame:
            case WsHello(nonce=nonce):
                self._greet(socket, nonce)
            case WsPing(seq=seq):
                self.figures.pings += 1
                socket.send(_encode(WsPong(seq)))
            case WsBye():
                socket.close(NORMAL)
            case WsPong():
                pass

    def closed(self, socket: ProbeConnection, code: int) -> None:
        """Nothing is kept of a connection."""

    def _greet(self, socket: ProbeConnection, nonce: str) -> None:
        self.figures.greeted += bool(nonce)
        socket.send(_encode(WsHello(nonce=nonce, region=self._region, node=self._node)))

    def _refuse(self, socket: ProbeConnection, code: int, reason: str) -> None:
        self.figures.refused += 1
        socket.close(code, reason)


def _nonce_of(query: str) -> str | None:
    """The first `nonce=` of a query, "" without one; None for more than a probe would say."""
    try:
        fields = parse_qs(query, max_num_fields=MAX_FIELDS)
    except ValueError:
        return None
    nonce = fields.get("nonce", [""])[0]
    return nonce if len(nonce) <= MAX_NONCE_CHARS else None
