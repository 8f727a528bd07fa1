"""The cheapest WebSocket client that is one: whole text frames, a mask of zeros, no control frames.

For loads where the clients must not be what is measured.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Any

import msgspec

_MASK = b"\0\0\0\0"
_encode = msgspec.json.Encoder().encode


class Client(asyncio.Protocol):
    """Texts come to `on_text`; `lost` is called when the connection ends."""

    def __init__(
        self, on_text: Callable[[bytes], None], lost: Callable[[], None] = lambda: None
    ) -> None:
        self._on_text = on_text
        self._lost = lost
        self._buffer = b""
        self._is_open = False
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(
            b"GET /v1/signal HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
        )

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(ConnectionError("refused"))
        self._lost()

    def data_received(self, octets: bytes) -> None:
        self._buffer += octets
        if not self._is_open:
            head, end, rest = self._buffer.partition(b"\r\n\r\n")
            if not end:
                return
            assert b" 101 " in head, head
            self._is_open, self._buffer = True, rest
            self.opened.set_result(None)
        at, buffer = 0, self._buffer
        while len(buffer) - at >= 2:
            size, body = buffer[at + 1] & 127, at + 2
            if size == 126:
                size, body = int.from_bytes(buffer[at + 2 : at + 4]), at + 4
            elif size == 127:
                size, body = int.from_bytes(buffer[at + 2 : at + 10]), at + 10
            if len(buffer) < body + size:
                break
            if buffer[at] & 15 == 1:
                self._on_text(buffer[body : body + size])
            at = body + size
        self._buffer = buffer[at:]

    def say(self, message: dict[str, Any]) -> None:
        text = _encode(message)
        is_short = len(text) < 126
        size = bytes([0x80 | len(text)]) if is_short else b"\xfe" + struct.pack("!H", len(text))
        head = b"\x81" + size
        self._transport.write(head + _MASK + text)

    def close(self) -> None:
        self._transport.abort()
