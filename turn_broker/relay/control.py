"""The embedded relay as a node agent sees it.

A session's name is its allocation's number. Usage is exact and reported a few times a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from turn_broker.fleet.turn_control import (
    ControlLost,
    SessionClosed,
    SessionEvent,
    SessionOpened,
    SessionUsed,
)
from turn_broker.relay.allocation import Allocation
from turn_broker.relay.effects import CloseRelay
from turn_broker.relay.server import Relay

USAGE_INTERVAL_S = 0.25
MAX_QUEUED = 10_000
"""Openings and closings that wait to be read; past that the reader begins anew."""


class RelayControl:
    """TurnControl over a relay that runs in this process; closing it leaves the relay alone."""

    software = "embedded"
    doubted_records = 0

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._queue: asyncio.Queue[Allocation | CloseRelay | None] = asyncio.Queue(MAX_QUEUED)
        self._lost = ""
        self._told: dict[int, tuple[int, int]] = {}
        """Bytes of each session that were reported, sent and received."""

    async def set_secrets(self, secrets: tuple[str, ...]) -> None:
        """Exactly these verify from now on."""
        self._relay.replace_secrets(secrets)

    async def cut(self, session: str) -> bool:
        """Ends an allocation."""
        return session.isdecimal() and self._relay.cut(int(session))

    async def drain(self, on: bool) -> None:
        """New allocations get 508 while it is on."""
        self._relay.drain(on)

    async def close(self) -> None:
        """Stops watching; an iterator over `events` ends with ControlLost."""
        self._relay.watch(None)
        self._lose("closed")

    async def events(self) -> AsyncGenerator[SessionEvent, None]:
        """What exists, then what happens."""
        self._queue = asyncio.Queue(MAX_QUEUED)
        self._lost = ""
        self._relay.watch(self)
        try:
            now = self._relay.now().monotonic
            existing = self._relay.sessions()
            self._told = {each.number: (each.sent_bytes, each.received_bytes) for each in existing}
            for each in existing:
                yield _opened(each, int(now - each.opened_at))
            while not self._lost:
                for event in self._event(await self._next()):
                    yield event
            raise ControlLost(self._lost)
        finally:
            self._relay.watch(None)

    def relay_opened(self, allocation: Allocation) -> None:
        """The relay says that an allocation can be used."""
        self._put(allocation)

    def relay_closed(self, closed: CloseRelay) -> None:
        """The relay says that an allocation is gone."""
        self._put(closed)

    def _put(self, happened: Allocation | CloseRelay) -> None:
        try:
            self._queue.put_nowait(happened)
        except asyncio.QueueFull:
            self._lose("more happened than was read")

    def _lose(self, reason: str) -> None:
        self._lost = reason
        if self._queue.empty():
            self._queue.put_nowait(None)  # wakes the reader

    async def _next(self) -> Allocation | CloseRelay | None:
        try:
            async with asyncio.timeout(USAGE_INTERVAL_S):
                return await self._queue.get()
        except TimeoutError:
            return None

    def _event(self, happened: Allocation | CloseRelay | None) -> list[SessionEvent]:
        if isinstance(happened, Allocation):
            self._told[happened.number] = (0, 0)
            return [_opened(happened, None)]
        if happened is None:
            used = (
                self._used(each.number, each.sent_bytes, each.received_bytes)
                for each in self._relay.sessions()
            )
            return [event for events in used for event in events]
        number = happened.allocation
        if number not in self._told:
            return []
        last = self._used(number, happened.sent_bytes, happened.received_bytes)
        del self._told[number]
        return [*last, SessionClosed(session=str(number))]

    def _used(self, number: int, sent: int, received: int) -> list[SessionEvent]:
        before = self._told.get(number)
        if before is None or before == (sent, received):
            return []
        self._told[number] = (sent, received)
        return [
            SessionUsed(
                session=str(number),
                sent_bytes=sent - before[0],
                received_bytes=received - before[1],
            )
        ]


def _opened(allocation: Allocation, age_s: int | None) -> SessionOpened:
    return SessionOpened(
        session=str(allocation.number),
        username=allocation.owner.username,
        client=allocation.flow.host,
        transport=allocation.flow.transport,
        age_s=age_s,
    )
