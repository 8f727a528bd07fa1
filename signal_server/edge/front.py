"""The one port: WebSocket endpoints are upgraded here, everything else goes to uvicorn.

`make_front` gives the class for `uvicorn.Config(http=...)`. It reads no further than it must to
tell the two apart, and nothing may take longer or be larger than the settings allow. It does not
know what the endpoints or the ASGI application do.
"""

from __future__ import annotations

import asyncio
import socket as stdlib_socket
from collections.abc import Mapping
from typing import Any, ClassVar, cast

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from signal_server.edge.handshake import (
    AT_CAPACITY,
    HEAD_TOO_LARGE,
    TOO_SLOW,
    Refusal,
    get_path,
    head_end,
    parse,
)
from signal_server.edge.server import SocketEndpoint, SocketServer, SocketSettings
from signal_server.edge.socket import Socket

__all__ = ["Front", "listen", "make_front"]

_QUIET, _HEAD, _BODY = range(3)


class Front(asyncio.Protocol):
    """First protocol of every connection, until it is clear what the client wants."""

    sockets: ClassVar[SocketServer]

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._config = config
        self._server_state = server_state
        self._app_state = app_state
        self._buffer = b""
        self._transport: asyncio.Transport
        self.slot = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        server = self.sockets
        # uvloop's transports are no subclass of asyncio.Transport.
        self._transport = cast("asyncio.Transport", transport)
        self._connections.add(self)
        server.transports += 1
        if server.overfull > server.settings.spare_connections:
            self._transport.abort()
        elif server.overfull:
            self._refuse(AT_CAPACITY)
        else:
            server.wait(self, server.settings.limits.handshake_timeout_s)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer = self._buffer + data
        if b"GET /".startswith(buffer[:5]) and b"\n" not in buffer:
            if len(buffer) > self.sockets.settings.head_bytes:
                self._refuse(HEAD_TOO_LARGE)
            return
        endpoint = self.sockets.endpoints.get(get_path(buffer) or "")
        if endpoint is None:
            self._hand_over()
            return
        end = head_end(buffer)
        if max(end, len(buffer) if not end else 0) > self.sockets.settings.head_bytes:
            self._refuse(HEAD_TOO_LARGE)
        elif end:
            self._leave()
            enter(self.sockets, endpoint, self._transport, buffer[:end], buffer[end:])

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        self.sockets.transports -= 1

    def due(self) -> None:
        """The request head did not arrive in time."""
        if self._buffer:
            self._refuse(TOO_SLOW)
        else:
            self.sockets.counters.reject("silent")
            self._transport.abort()

    def shutdown(self) -> None:
        """uvicorn stops: nothing was promised to this client yet."""
        self._transport.close()

    @property
    def _connections(self) -> set[Any]:
        return self._server_state.connections

    def _leave(self) -> None:
        self._connections.discard(self)
        self.sockets.wheel.remove(self)

    def _refuse(self, refusal: Refusal) -> None:
        self._leave()
        Farewell(self.sockets, self._transport, refusal)

    def _hand_over(self) -> None:
        self._leave()
        protocol = HttpProtocol(
            self._config, self._server_state, self._app_state, sockets=self.sockets
        )
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        protocol.data_received(self._buffer)


class HttpProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with a deadline for every request, not only for the first."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        *,
        sockets: SocketServer,
    ) -> None:
        super().__init__(config, server_state, app_state)
        self.sockets = sockets
        self.slot = -1
        self._phase = _QUIET
        self._upgraded = False

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.sockets.wheel.remove(self)
        self.sockets.transports -= 1

    def due(self) -> None:
        """The rest of a request did not come."""
        if self._phase == _HEAD:
            self.connections.discard(self)
            self._unset_keepalive_if_required()
            Farewell(self.sockets, self.transport, TOO_SLOW)
        else:
            self.sockets.counters.reject("slow_body")
            self.transport.abort()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """A request for an endpoint on a connection that has served HTTP before."""
        self._upgraded = True
        self.connections.discard(self)
        self._unset_keepalive_if_required()
        lines = [event.method, b" ", event.target, b" HTTP/", event.http_version, b"\r\n"]
        for name, value in self.headers:
            lines += [name, b": ", value, b"\r\n"]
        lines.append(b"\r\n")
        endpoint = self.sockets.endpoints[self.scope["path"]]
        rest = bytes(self.conn.trailing_data[0])
        enter(self.sockets, endpoint, self.transport, b"".join(lines), rest)

    def _should_upgrade(self) -> bool:
        """Endpoints belong to us whatever the method; elsewhere Upgrade is ignored, as HTTP
        allows."""
        return self.scope["path"] in self.sockets.endpoints

    def _watch(self) -> None:
        if self._upgraded or self.transport.is_closing():
            return
        phase = _QUIET
        if self.conn.their_state is h11.SEND_BODY:
            phase = _BODY
        elif self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            phase = _HEAD
        if phase == self._phase:
            return
        self._phase = phase
        if phase == _QUIET:
            self.sockets.wheel.remove(self)
        else:
            self.sockets.wait(self, self.sockets.settings.limits.handshake_timeout_s)


class Farewell(asyncio.Protocol):
    """Sends a last answer and reads on for a moment, so that the client gets to see it."""

    def __init__(
        self, server: SocketServer, transport: asyncio.Transport, refusal: Refusal
    ) -> None:
        self._server = server
        self._transport = transport
        self.slot = -1
        server.counters.reject(refusal.reason)
        transport.set_protocol(self)
        transport.write(refusal.response())
        if transport.can_write_eof():
            transport.write_eof()
        else:
            transport.close()
        server.wait(self, server.settings.close_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.wheel.remove(self)
        self._server.transports -= 1

    def due(self) -> None:
        """Long enough."""
        self._transport.abort()


def enter(
    server: SocketServer,
    endpoint: SocketEndpoint,
    transport: asyncio.Transport,
    head: bytes,
    rest: bytes,
) -> None:
    """Answer one request for an endpoint: the connection becomes a Socket, or ends."""
    settings = server.settings
    decision = parse(
        head, allowed_origins=settings.allowed_origins, subprotocol=settings.subprotocol
    )
    if server.full and not isinstance(decision, Refusal):
        decision = AT_CAPACITY
    if isinstance(decision, Refusal):
        Farewell(server, transport, decision)
        return
    remote = client_address(transport, decision.forwarded_for, settings.trusted_proxies)
    socket = Socket(server, endpoint, transport, decision, remote)
    transport.set_protocol(socket)
    transport.write(decision.response())
    socket.start(rest)


def client_address(
    transport: asyncio.BaseTransport, forwarded_for: str | None, trusted: frozenset[str]
) -> str:
    """The peer's address, or the nearest untrusted hop when the peer is a trusted proxy."""
    peer = transport.get_extra_info("peername")
    address = str(peer[0]) if isinstance(peer, tuple) and peer else ""
    if address in trusted and forwarded_for:
        for hop in reversed(forwarded_for.split(",")):
            address = hop.strip()
            if address not in trusted:
                break
    return address


def make_front(
    endpoints: Mapping[str, SocketEndpoint], settings: SocketSettings | None = None
) -> type[Front]:
    """The `http=` class of one uvicorn server; its `.sockets` is the server of its sockets."""
    server = SocketServer(endpoints, settings or SocketSettings())
    return type("Front", (Front,), {"sockets": server})


def listen(
    host: str,
    port: int,
    *,
    backlog: int = 4096,
    user_timeout_s: float = 15.0,
    send_buffer: int = 256 * 1024,
    reuse_port: bool = False,
) -> stdlib_socket.socket:
    """A listening socket whose accepted sockets inherit what uvicorn does not set.

    `host` is an IPv4 or IPv6 address or a name; "::" also takes IPv4.
    """
    family, _, _, _, address = stdlib_socket.getaddrinfo(
        host, port, type=stdlib_socket.SOCK_STREAM, flags=stdlib_socket.AI_PASSIVE
    )[0]
    listener = stdlib_socket.socket(family, stdlib_socket.SOCK_STREAM)
    try:
        listener.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_REUSEADDR, 1)
        if reuse_port:
            listener.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_REUSEPORT, 1)
        if family == stdlib_socket.AF_INET6:
            only = 0 if host == "::" else 1
            listener.setsockopt(stdlib_socket.IPPROTO_IPV6, stdlib_socket.IPV6_V6ONLY, only)
        listener.setsockopt(stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_NODELAY, 1)
        # The kernel's own 4 MB per connection would hide a peer that does not read.
        listener.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_SNDBUF, send_buffer)
        if hasattr(stdlib_socket, "TCP_USER_TIMEOUT"):
            # Ends a connection whose peer acknowledges nothing, or keeps its window shut.
            milliseconds = int(user_timeout_s * 1000)
            listener.setsockopt(
                stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_USER_TIMEOUT, milliseconds
            )
        listener.bind(address)
        listener.listen(backlog)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
