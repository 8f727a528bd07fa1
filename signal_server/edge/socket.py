"""One WebSocket connection of a server, as an asyncio.Protocol that costs little while idle.

Plain text frames, pings and pongs are handled inline; closing, fragments and everything broken
are judged by the sans-I/O core of `websockets`, which lives only as long as it is needed. It does
not know what the messages mean; that is the endpoint's part.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket as stdlib_socket
import struct
from typing import Any, cast

from websockets.frames import Close, Frame, Opcode
from websockets.protocol import Protocol as Library
from websockets.protocol import Side

from signal_server.edge.framing import (
    BUDGET_SPENT,
    CLOSE,
    PING,
    PONG,
    TEXT,
    close_payload,
    head,
    split,
    unmasked,
)
from signal_server.edge.handshake import Handshake
from signal_server.edge.server import SocketEndpoint, SocketServer
from signal_server.wire.codes import CloseCode

__all__ = ["Socket"]

LOST = 1006
"""RFC 6455 section 7.1.5: no close frame was received."""

_OPEN, _CLOSING, _DROWNED, _ENDED = range(4)
_RESET = struct.pack("ii", 1, 0)

_library_logger = logging.getLogger("parley.edge.websockets")
_library_logger.disabled = True


class Socket(asyncio.Protocol):
    """Made by the front after an accepted handshake, then driven by its transport."""

    __slots__ = (
        "_at",
        "_buffer",
        "_code",
        "_endpoint",
        "_fragments",
        "_heard",
        "_library",
        "_need",
        "_out",
        "_paused",
        "_pinged",
        "_queued",
        "_server",
        "_state",
        "_transport",
        "endpoint_state",
        "id",
        "origin",
        "query",
        "remote",
        "slot",
        "subprotocol",
        "token",
    )

    def __init__(
        self,
        server: SocketServer,
        endpoint: SocketEndpoint,
        transport: asyncio.Transport,
        handshake: Handshake,
        remote: str,
    ) -> None:
        self._server = server
        self._endpoint = endpoint
        self._transport = transport
        self._state = _OPEN
        self._code = LOST
        self._buffer: bytes | bytearray = b""
        self._at = 0
        self._need = 2
        self._paused = False
        self._out: list[bytes] = []
        self._queued = 0
        self._library: Library | None = None
        self._fragments: bytearray | None = None
        self._heard = server.wheel.now
        self._pinged = False
        self.slot = -1
        self.endpoint_state: Any = None
        self.query = handshake.query
        """Of the request target, while the endpoint's `opened` runs."""
        self.origin = handshake.origin
        self.subprotocol = handshake.subprotocol
        self.token = handshake.token
        """Unverified; the endpoint may set it to None once it has been read."""
        self.remote = remote
        """Address of the client, for limits only: never logged."""
        self.id = server.register(self)

    def start(self, data: bytes) -> None:
        """Tell the endpoint, then treat what came in the same segment as the handshake."""
        self._server.wait(self, self._server.settings.limits.ping_interval_s)
        try:
            self._endpoint.opened(self)
        except Exception as exc:  # noqa: BLE001 - our bug costs this one connection only
            self._endpoint_failed(exc)
        self.query = ""
        if data and self._state != _ENDED:
            self.data_received(data)

    # -- for the endpoint ----------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """False from the first step of closing on; `send` then does nothing."""
        return self._state == _OPEN

    @property
    def buffered(self) -> int:
        """Bytes that the peer has not taken yet, beyond what the kernel holds."""
        if self._state == _ENDED:
            return 0
        return self._queued + self._transport.get_write_buffer_size()

    def send(self, payload: bytes, seq: int = 0) -> None:
        """Write one text frame, together with everything else of this loop tick."""
        if self._state == _OPEN:
            self._put(TEXT, payload)

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Send what is queued, then a close frame; `closed` follows with this code."""
        if self._state != _OPEN:
            return
        self._put_close(code, reason)
        self._state = _CLOSING
        self._server.wait(self, self._server.settings.close_timeout_s)

    # -- transport callbacks -------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Frames, or pieces of them."""
        server = self._server
        self._heard = server.wheel.now
        self._pinged = False
        server.counters.bytes_in += len(data)
        if self._state == _ENDED:
            return
        if self._buffer:
            self._buffer += data
            if self._paused or len(self._buffer) - self._at < self._need:
                return
        else:
            self._buffer = data
        if self._take_frames():
            self._paused = True
            self._transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._resume)

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is gone, for whatever reason."""
        if self._state != _ENDED:
            if self._state == _OPEN:
                self._server.counters.lost += 1
            self._end(self._code)
        self._server.forget(self)

    # -- receiving -----------------------------------------------------------------------------

    def _resume(self) -> None:
        """Next turn of a socket that has used up its frames of the previous loop tick."""
        if self._state != _ENDED and self._take_frames():
            asyncio.get_running_loop().call_soon(self._resume)
            return
        self._paused = False
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def _take_frames(self) -> bool:
        """Handle at most one tick's frames; True when more of them may be waiting."""
        limits = self._server.settings.limits
        frames, at, need = split(
            self._buffer, self._at, limits.frames_per_tick, limits.message_bytes
        )
        if need == BUDGET_SPENT:
            self._at = at
        else:
            self._buffer = bytearray(self._buffer[at:]) if at < len(self._buffer) else b""
            self._at = 0
            self._need = need
        self._server.counters.frames_in += len(frames)
        try:
            for frame in frames:
                if not isinstance(frame, str):
                    self._take(frame)
                elif self._library is not None:
                    self._fail(CloseCode.PROTOCOL, "expected a continuation frame")
                elif self._state == _OPEN:
                    self._endpoint.received(self, frame)
                if self._state == _ENDED:
                    return False
        except Exception as exc:  # noqa: BLE001 - our bug costs this one connection only
            self._endpoint_failed(exc)
        return need == BUDGET_SPENT

    def _take(self, frame: bytes) -> None:
        """A frame that is not plain text."""
        if frame[0] in (PING, PONG) and 6 <= len(frame) <= 131:
            if frame[0] == PING and self._state == _OPEN:
                self._put(PONG, unmasked(frame))
            return
        closing = frame[0] & 0x0F == Opcode.CLOSE
        # A close frame may come between fragments; the library alone would call that an error.
        library = None if closing else self._library
        if library is None:
            library = Library(
                Side.SERVER,
                max_size=self._server.settings.limits.message_bytes,
                logger=_library_logger,
            )
        library.receive_data(frame)
        if library.close_sent is not None:
            self._closed_by_library(library, library.close_sent)
            return
        self._library = library if library.current_size is not None else None
        for event in library.events_received():
            # The library's Event also covers handshakes, which never pass through here.
            self._take_data(cast("Frame", event))

    def _take_data(self, frame: Frame) -> None:
        if frame.opcode is Opcode.BINARY:
            self._fail(CloseCode.UNSUPPORTED_DATA, "only text messages are understood")
            return
        if self._fragments is None:
            self._fragments = bytearray()
        self._fragments += frame.data
        if not frame.fin:
            return
        message, self._fragments = self._fragments, None
        try:
            text = message.decode()
        except UnicodeDecodeError:
            self._fail(CloseCode.INVALID_TEXT, "not valid UTF-8")
            return
        if self._state == _OPEN:
            self._endpoint.received(self, text)

    def _closed_by_library(self, library: Library, sent: Close) -> None:
        """The library saw a close frame, or something that ends the connection."""
        code, reason = sent.code, sent.reason
        if library.parser_exc is not None:
            self._fail(code, reason)
            return
        if self._state == _OPEN:
            self._server.counters.closed_by_peer += 1
            self._code = code
            self._out += (b"", b"".join(library.data_to_send()))
        self._write()
        self._end(self._code)
        self._server.wait(self, self._server.settings.close_timeout_s)
        self._transport.close()

    # -- sending -------------------------------------------------------------------------------

    def _put(self, first: int, payload: bytes) -> None:
        """Queue one frame. `_out` holds pairs of header and payload."""
        out = self._out
        if not out:
            self._server.mark(self)
        length = len(payload)
        out.append(head(first, length))
        out.append(payload)
        self._queued += length
        limit = self._server.settings.limits.outbound_bytes
        if self._queued > limit:
            self._write()
            if self._state == _OPEN and self._transport.get_write_buffer_size() > limit:
                # The endpoint may be in the middle of something: it is told at the flush.
                self._state = _DROWNED
                self._code = CloseCode.SLOW_CONSUMER

    def _put_close(self, code: int, reason: str) -> None:
        self._server.counters.close(code)
        self._code = code
        self._put(CLOSE, close_payload(code, reason))

    def _write(self) -> None:
        out = self._out
        data = b"".join(out)
        if data and not self._transport.is_closing():
            counters = self._server.counters
            counters.frames_out += len(out) >> 1
            counters.bytes_out += len(data)
            self._transport.write(data)
        out.clear()
        self._queued = 0

    def flush(self) -> None:
        """End of a loop tick: one write, then see whether the peer keeps up."""
        if self._state == _ENDED:
            return
        self._write()
        size = self._transport.get_write_buffer_size()
        if self._state == _DROWNED or size > self._server.settings.limits.outbound_bytes:
            self._server.counters.slow += 1
            self._cut(CloseCode.SLOW_CONSUMER)

    # -- ending --------------------------------------------------------------------------------

    def due(self) -> None:
        """The wheel's call: time for a ping, or too late for an answer."""
        if self._state != _OPEN:
            if self._state == _CLOSING:
                self._end(self._code)
            self._abort()
            return
        server = self._server
        wheel, limits = server.wheel, server.settings.limits
        idle = wheel.now - self._heard
        # A tick less, because what is heard is stamped with the tick that has begun.
        interval = wheel.ticks(limits.ping_interval_s) - 1
        patience = wheel.ticks(limits.ping_timeout_s) - 1
        if idle < interval:
            server.wait_ticks(self, interval - idle)
        elif not self._pinged or idle < interval + patience:
            if not self._pinged:
                self._pinged = True
                self._put(PING, b"")
            server.wait_ticks(self, patience)
        else:
            server.counters.ping_timeout += 1
            self._cut(CloseCode.PING_TIMEOUT)

    def abandon(self) -> None:
        """Give this connection up after a fault of ours that leaves no way to say goodbye."""
        if self._state != _ENDED:
            self._cut(CloseCode.INTERNAL)

    def _fail(self, code: int, reason: str) -> None:
        """RFC 6455 section 7.1.7, but read on for a while: unread bytes would turn our close
        frame into a reset."""
        if self._state == _OPEN:
            self._put_close(code, reason)
        self._write()
        self._end(self._code)
        if self._transport.is_closing():
            return
        self._server.wait(self, self._server.settings.close_timeout_s)
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    def _endpoint_failed(self, exc: Exception) -> None:
        self._server.failed(exc)
        self.close(CloseCode.INTERNAL, "internal")

    def _cut(self, code: int) -> None:
        """Give up on a peer that does not listen: nothing would come of a close frame."""
        if self._state != _CLOSING:
            self._server.counters.close(code)
            self._code = code
        self._end(self._code)
        self._abort()

    def _abort(self) -> None:
        # Without a reset the kernel would keep the unread megabytes and the port for minutes.
        kernel = self._transport.get_extra_info("socket")
        with contextlib.suppress(OSError, AttributeError):
            kernel.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_LINGER, _RESET)
        self._transport.abort()

    def _end(self, code: int) -> None:
        """Tell the endpoint, once, and let go of everything that holds memory."""
        self._state = _ENDED
        self._server.wheel.remove(self)
        self._buffer = b""
        self._at = 0
        self._library = None
        self._fragments = None
        self._out.clear()
        self._queued = 0
        try:
            self._endpoint.closed(self, code)
        except Exception as exc:  # noqa: BLE001 - our bug costs this one connection only
            self._server.failed(exc)
        self.endpoint_state = None
