"""The probe socket, `GET /v1/probes/ws`: proves that frames pass, and who answers.

An endpoint of the signaling front: no token, no session, few and short messages. It does not know
HTTP or frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from probes.messages import ClientFrame, WsBye, WsHello, WsPing, WsPong

PATH = "/v1/probes/ws"
MAX_FRAMES = 64
"""Of one client; a probe needs four."""
NORMAL, PROTOCOL_ERROR, RATE_LIMITED = 1000, 4505, 4029
_CLIENT_FRAME: msgspec.json.Decoder[ClientFrame] = msgspec.json.Decoder(ClientFrame)
_encode = msgspec.json.Encoder().encode


class ProbeConnection(Protocol):
    """What the endpoint needs of a socket."""

    endpoint_state: Any

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
        socket.send(_encode(WsHello(region=self._region, node=self._node)))

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
                self.figures.greeted += 1
                socket.send(_encode(WsHello(nonce=nonce, region=self._region, node=self._node)))
            case WsPing(seq=seq):
                self.figures.pings += 1
                socket.send(_encode(WsPong(seq)))
            case WsBye():
                socket.close(NORMAL)
            case WsPong():
                pass

    def closed(self, socket: ProbeConnection, code: int) -> None:
        """Nothing is kept of a connection."""

    def _refuse(self, socket: ProbeConnection, code: int, reason: str) -> None:
        self.figures.refused += 1
        socket.close(code, reason)
