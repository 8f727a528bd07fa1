"""The socket under a TURN client: UDP, TCP or TLS, opened within a deadline, closed for sure.

It knows messages as frames only.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import cast

from turn_broker.ice_servers import TurnUri
from turn_broker.relay.framing import MAX_FRAME, StreamFrames
from turn_broker.relay.stun import Endpoint
from turn_broker.turn.dialogue import Failure, Reason, Step

MAX_WAITING = 256
"""Frames that arrived and were not read; what comes beyond is dropped, as UDP would."""
MAX_ADDRESSES = 4
"""Of one host that are tried."""
_CLOSE_TIMEOUT_S = 0.5
_VERIFY_CODES = {
    2: Reason.TLS_UNTRUSTED,
    7: Reason.TLS_UNTRUSTED,
    9: Reason.TLS_NOT_YET_VALID,
    10: Reason.TLS_EXPIRED,
    18: Reason.TLS_SELF_SIGNED,
    19: Reason.TLS_UNTRUSTED,
    20: Reason.TLS_UNTRUSTED,
    21: Reason.TLS_UNTRUSTED,
    62: Reason.TLS_NAME,
    64: Reason.TLS_NAME,
}
"""OpenSSL's X509_V_ERR_... numbers."""
_TLS_REASONS = {
    "WRONG_VERSION_NUMBER": Reason.NOT_TLS,
    "HTTP_REQUEST": Reason.NOT_TLS,
    "RECORD_LAYER_FAILURE": Reason.NOT_TLS,
    "UNSUPPORTED_PROTOCOL": Reason.TLS_VERSION,
    "NO_PROTOCOLS_AVAILABLE": Reason.TLS_VERSION,
    "TLSV1_ALERT_PROTOCOL_VERSION": Reason.TLS_VERSION,
}


class Wire(asyncio.DatagramProtocol, asyncio.Protocol):
    """One connected socket; `receive` gives whole messages."""

    def __init__(self, *, is_stream: bool) -> None:
        self.is_stream = is_stream
        self.remote: Endpoint | None = None
        self._frames = StreamFrames()
        self._frames.max_frame = MAX_FRAME
        self._waiting: asyncio.Queue[bytes | Reason] = asyncio.Queue(MAX_WAITING)
        self._ended: Reason | None = None
        self._transport: asyncio.Transport | asyncio.DatagramTransport | None = None
        self._lost = asyncio.Event()

    @property
    def tls(self) -> ssl.SSLObject | None:
        """The TLS session of a `turns:` URL."""
        found = self._transport and self._transport.get_extra_info("ssl_object")
        return cast("ssl.SSLObject | None", found)

    def send(self, raw: bytes) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self.is_stream:
            cast("asyncio.Transport", transport).write(raw)
        else:
            cast("asyncio.DatagramTransport", transport).sendto(raw)

    async def receive(self) -> bytes | Reason:
        """The next message, or why there will be none."""
        if self._ended is not None and self._waiting.empty():
            return self._ended
        return await self._waiting.get()

    async def close(self) -> None:
        """Returns within a second, whatever the other side does."""
        transport = self._transport
        if transport is None:
            return
        try:
            transport.close()
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self._lost.wait()
        except TimeoutError:
            pass
        finally:
            transport.abort()

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport | asyncio.DatagramTransport", transport)
        peer = transport.get_extra_info("peername")
        self.remote = (peer[0], peer[1]) if peer else None

    def datagram_received(self, data: bytes, addr: object) -> None:
        self._keep(data)

    def data_received(self, data: bytes) -> None:
        if not self._frames.partial and data[0] & 0xC0:
            # Neither STUN nor the ChannelData that we never bind a channel for.
            self._end(Reason.NOT_STUN)
        self._frames.feed(data)
        while (frame := self._frames.next()) is not None:
            self._keep(frame)
        if self._frames.lost:
            self._end(Reason.NOT_STUN)

    def error_received(self, exc: Exception) -> None:
        self._end(reason_of(exc) if isinstance(exc, OSError) else Reason.CLOSED)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost.set()
        self._end(Reason.CLOSED)

    def _keep(self, frame: bytes) -> None:
        if not self._waiting.full():
            self._waiting.put_nowait(frame)

    def _end(self, reason: Reason) -> None:
        if self._ended is None:
            self._ended = reason
            if not self._waiting.full():
                self._waiting.put_nowait(reason)


async def open_wire(
    uri: TurnUri, timeout_s: float, tls: ssl.SSLContext | None, address: str | None
) -> Wire | Failure:
    """A socket to the server of `uri`, or to `address` in its place; the first that connects."""
    step = Step.RESOLVE
    failed = Failure(step=step, reason=Reason.DNS, text="no address")
    try:
        async with asyncio.timeout(timeout_s):
            found = await _resolve(uri, address or uri.host)
            if isinstance(found, Failure):
                return found
            step = Step.CONNECT
            for family, endpoint in found[:MAX_ADDRESSES]:
                opened = await _connect(uri, family, endpoint, tls)
                if isinstance(opened, Wire):
                    return opened
                failed = opened
            return failed
    except TimeoutError:
        return Failure(step=step, reason=Reason.TIMEOUT)


async def _resolve(uri: TurnUri, host: str) -> list[tuple[int, Endpoint]] | Failure:
    kind = socket.SOCK_STREAM if _is_stream(uri) else socket.SOCK_DGRAM
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, uri.port, type=kind)
    except (OSError, UnicodeError) as flaw:
        return Failure(step=Step.RESOLVE, reason=Reason.DNS, text=str(flaw))
    return [(family, (str(where[0]), int(where[1]))) for family, _, _, _, where in found]


async def _connect(
    uri: TurnUri, family: int, endpoint: Endpoint, tls: ssl.SSLContext | None
) -> Wire | Failure:
    loop = asyncio.get_running_loop()
    wires: list[Wire] = []

    def new_wire() -> Wire:
        wires.append(Wire(is_stream=_is_stream(uri)))
        return wires[-1]

    try:
        if not _is_stream(uri):
            _, wire = await loop.create_datagram_endpoint(
                new_wire, remote_addr=endpoint, family=family
            )
            return wire
        if uri.scheme not in ("turns", "stuns"):
            _, wire = await loop.create_connection(new_wire, *endpoint, family=family)
            return wire
        context = tls or ssl.create_default_context()
        _, wire = await loop.create_connection(
            new_wire, *endpoint, family=family, ssl=context, server_hostname=uri.host
        )
    except OSError as flaw:
        step = Step.TLS if isinstance(flaw, ssl.SSLError) else Step.CONNECT
        return Failure(step=step, reason=reason_of(flaw), text=_words(flaw))
    return wire


def _is_stream(uri: TurnUri) -> bool:
    return uri.transport == "tcp" or uri.scheme == "stuns"


def reason_of(flaw: OSError) -> Reason:
    """The reason behind an error of the socket or of TLS."""
    if isinstance(flaw, ssl.SSLCertVerificationError):
        return _VERIFY_CODES.get(flaw.verify_code, Reason.TLS_OTHER)
    if isinstance(flaw, ssl.SSLError):
        return _TLS_REASONS.get(getattr(flaw, "reason", ""), Reason.TLS_OTHER)
    if isinstance(flaw, ConnectionRefusedError):
        return Reason.REFUSED
    if isinstance(flaw, ConnectionError):
        return Reason.CLOSED
    return Reason.TIMEOUT if isinstance(flaw, TimeoutError) else Reason.UNREACHABLE


def _words(flaw: OSError) -> str:
    if isinstance(flaw, ssl.SSLCertVerificationError):
        return flaw.verify_message
    return flaw.strerror or str(flaw)
