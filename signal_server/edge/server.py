"""What all sockets of one server share: registry, limits, counters, deadlines, coalesced writes.

One write per socket and loop tick, one timer for all deadlines. It does not know HTTP, frames or
what the endpoints do.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from signal_server.edge.handshake import SUBPROTOCOL
from signal_server.edge.wheel import Entry, Wheel
from signal_server.wire.limits import Limits

if TYPE_CHECKING:
    from signal_server.edge.socket import Socket

DUE_PER_TICK = 256
"""Deadlines served before the loop gets its turn: a whole node's pings must not stall it."""

logger = logging.getLogger("parley.edge")


class SocketEndpoint(Protocol):
    """The application behind one path. Calls come from the event loop and must not block."""

    def opened(self, socket: Socket) -> None:
        """The handshake is done; `socket.token` is what the client presented, unverified."""

    def received(self, socket: Socket, text: str) -> None:
        """One whole text message, valid Unicode, within the size limit."""

    def closed(self, socket: Socket, code: int) -> None:
        """Exactly once per socket, and the last call for it.

        `code` is the code of whoever closed first: ours, or the peer's (1005 when its close frame
        had none); 1006 means that the connection was lost without a close frame.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketSettings:
    """Everything an operator may change about the sockets."""

    limits: Limits = field(default_factory=Limits)
    allowed_origins: frozenset[str] | None = None
    """Exact origins that browsers may come from; None allows any."""
    subprotocol: str = SUBPROTOCOL
    trusted_proxies: frozenset[str] = frozenset()
    """Peer addresses whose X-Forwarded-For is believed."""
    head_bytes: int = 16 * 1024
    close_timeout_s: float = 3.0
    """How long a peer may take to answer our close frame."""
    spare_connections: int = 512
    """Kept above connections_per_node for plain HTTP: health checks and metrics."""


@dataclass(slots=True)
class SocketCounters:
    """Plain integers, read at scrape time. No keys that a peer can invent."""

    opened: int = 0
    closed_by_us: dict[int, int] = field(default_factory=dict)
    """By close code."""
    closed_by_peer: int = 0
    lost: int = 0
    frames_in: int = 0
    frames_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    slow: int = 0
    ping_timeout: int = 0
    endpoint_errors: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    """By the word in `Refusal.reason`."""

    def reject(self, reason: str) -> None:
        """Count one refused handshake."""
        self.rejected[reason] = self.rejected.get(reason, 0) + 1

    def close(self, code: int) -> None:
        """Count one connection that we closed."""
        self.closed_by_us[code] = self.closed_by_us.get(code, 0) + 1


class SocketServer:
    """The sockets of one front. It belongs to the event loop that accepts its connections."""

    def __init__(self, endpoints: Mapping[str, SocketEndpoint], settings: SocketSettings) -> None:
        self.endpoints = endpoints
        self.settings = settings
        self.counters = SocketCounters()
        self.sockets: dict[int, Socket] = {}
        self.transports = 0
        """Every open connection, whatever it speaks."""
        limits = settings.limits
        self.wheel = Wheel(
            settings.close_timeout_s,
            limits.handshake_timeout_s,
            limits.ping_interval_s,
            limits.ping_timeout_s,
        )
        self._next_id = 0
        self._dirty: list[Socket] = []
        self._sweeping = False
        self._empty: asyncio.Event | None = None

    # -- registry ------------------------------------------------------------------------------

    def register(self, socket: Socket) -> int:
        """Take a new socket in and give it its id."""
        self._next_id += 1
        self.sockets[self._next_id] = socket
        self.counters.opened += 1
        return self._next_id

    def forget(self, socket: Socket) -> None:
        """The connection is gone."""
        self.transports -= 1
        self.wheel.remove(socket)
        self.sockets.pop(socket.id, None)
        if not self.sockets and self._empty is not None:
            self._empty.set()

    @property
    def full(self) -> bool:
        """True when no further socket may open."""
        return len(self.sockets) >= self.settings.limits.connections_per_node

    @property
    def overfull(self) -> int:
        """Connections beyond those whose request head may still be read."""
        most = self.settings.limits.connections_per_node + self.settings.spare_connections
        return max(0, self.transports - most)

    def close_all(self, code: int, reason: str = "") -> None:
        """Start closing every socket; `wait_empty` tells when they are gone."""
        for socket in list(self.sockets.values()):
            socket.close(code, reason)

    async def wait_empty(self) -> None:
        """Return once no socket is left; bounded by close_timeout_s after `close_all`."""
        if self.sockets:
            if self._empty is None or self._empty.is_set():
                self._empty = asyncio.Event()
            await self._empty.wait()

    # -- coalesced writes ----------------------------------------------------------------------

    def mark(self, socket: Socket) -> None:
        """The socket has something to write at the end of this loop tick."""
        if not self._dirty:
            asyncio.get_running_loop().call_soon(self._flush)
        self._dirty.append(socket)

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for socket in dirty:
            try:
                socket.flush()
            except Exception as exc:  # noqa: BLE001 - the others' messages must still go out
                self.failed(exc)
                socket.abandon()

    # -- deadlines -----------------------------------------------------------------------------

    def wait(self, entry: Entry, seconds: float) -> None:
        """Call `entry.due()` after `seconds`, unless it is put off or removed before."""
        self.wait_ticks(entry, self.wheel.ticks(seconds))

    def wait_ticks(self, entry: Entry, ticks: int) -> None:
        """The same for a number of ticks of the wheel."""
        self.wheel.put(entry, ticks)
        if not self._sweeping:
            self._sweeping = True
            loop = asyncio.get_running_loop()
            loop.call_later(self.wheel.tick_s, self._sweep, loop.time() + self.wheel.tick_s)

    def _sweep(self, planned: float) -> None:
        entries = self.wheel.advance()
        self._sweeping = bool(entries) or self.wheel.size > 0
        if self._sweeping:
            loop = asyncio.get_running_loop()
            tick_s = self.wheel.tick_s
            # Never two ticks at once: after a stall the peers' bytes are still to be read.
            following = max(planned + tick_s, loop.time() + tick_s / 2)
            loop.call_at(following, self._sweep, following)
        self._call_due(entries)

    def _call_due(self, entries: list[Entry]) -> None:
        for entry in entries[:DUE_PER_TICK]:
            try:
                self.wheel.call(entry)
            except Exception as exc:  # noqa: BLE001 - the others' deadlines must still be kept
                self.failed(exc)
        if len(entries) > DUE_PER_TICK:
            asyncio.get_running_loop().call_soon(self._call_due, entries[DUE_PER_TICK:])

    # -- our bugs ------------------------------------------------------------------------------

    def failed(self, exc: Exception) -> None:
        """Log where we failed, not on what: exceptions quote what peers sent."""
        self.counters.endpoint_errors += 1
        trace = "".join(traceback.format_tb(exc.__traceback__))
        logger.error("socket or endpoint failed with %s\n%s", type(exc).__name__, trace)
