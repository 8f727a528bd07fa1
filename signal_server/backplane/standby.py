"""What a node keeps of an account whose home is elsewhere, so that its clients can go on when Redis
is lost: the last saved state, and what was written since, sealed as it came.

Only then is a switchboard made of it. It is a moment of the past that the home has left behind, or
is about to: nobody may be shown both as one. It does not know clients or who the home is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable

from signal_server.backplane.entries import Granted
from signal_server.backplane.redis_journal import Kept, RedisJournal, Sealed
from signal_server.backplane.replica import Replica
from signal_server.core import inputs
from signal_server.core.effects import GrantIce
from signal_server.core.state import StateError, unpack
from turn_broker.fleet.contract import FleetUnavailable

log = logging.getLogger("parley.backplane")

BLOCK_MS = 1000
READ_PAUSE_S = 0.005
"""Between two reads, so that many ticks of a busy account cost one."""
FULL_PAUSE_S = 10.0
"""Before the next attempt when the allowance is used up."""
STALL_S = 0.5
"""A pause that took so much longer than it may: the journal may have been trimmed meanwhile."""
LOAD_PAUSE_S = 1.0
MAX_ENTRIES = 16_000
"""Then a later state takes their place."""


class Allowance:
    """What all standbys of a node may hold."""

    def __init__(self, most_bytes: int) -> None:
        self.left_bytes = most_bytes


class Standby:
    """See the module's text."""

    def __init__(
        self,
        account: str,
        journal: RedisJournal,
        new_replica: Callable[[str], Replica],
        allowance: Allowance,
    ) -> None:
        self._account = account
        self._journal = journal
        self._new_replica = new_replica
        self._allowance = allowance
        self._kept: Kept | None = None
        self._entries: deque[Sealed] = deque()
        self._bytes = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Follow the journal; again does nothing."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._follow())

    def stop(self) -> None:
        """And forget."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._forget(None)

    def replica(self) -> tuple[Replica, list[GrantIce]] | None:
        """The account as it is known here, and the wishes that nobody has answered; None when
        nothing is."""
        if self._kept is None:
            return None
        replica = self._new_replica(self._account)
        state = self._journal.opened(self._kept)
        if state is not None:
            try:
                replica.restore(state)
            except StateError as flaw:
                log.error("the state of an account cannot be read: %s", flaw)
                return None
        wishes: dict[tuple[str, str | int | None], GrantIce] = {}
        for sealed in self._entries:
            written = self._journal.written(sealed)
            entry = written.entry
            if entry is None:
                continue
            for demand in replica.apply(entry, written.unix_ms).demands:
                if isinstance(demand, GrantIce):
                    wishes[demand.session, demand.request] = demand
            if isinstance(entry, Granted):
                granted: inputs.IceGranted = unpack(entry.packed)
                wishes.pop((granted.session, granted.request), None)
        return replica, list(wishes.values())

    # Following ------------------------------------------------------------------------------

    async def _follow(self) -> None:
        while True:
            with contextlib.suppress(FleetUnavailable):
                self._forget(await self._journal.latest(self._account))
                await self._read_on()
            if self._allowance.left_bytes <= 0:
                self._forget(None)
                await asyncio.sleep(FULL_PAUSE_S)
            # What is known stays until there is something better: Redis may be lost now.
            await asyncio.sleep(LOAD_PAUSE_S)

    def _forget(self, kept: Kept | None) -> None:
        self._kept = kept
        self._entries.clear()
        self._hold(-self._bytes)
        self._hold(len(kept.state or b"") if kept else 0)

    def _hold(self, more: int) -> None:
        self._bytes += more
        self._allowance.left_bytes -= more

    async def _read_on(self) -> None:
        """Until what is here no longer follows from the journal, or is too much."""
        loop = asyncio.get_running_loop()
        assert self._kept is not None
        position, saves = self._kept.position, self._kept.saves
        while len(self._entries) < MAX_ENTRIES and self._allowance.left_bytes > 0:
            began = loop.time()
            entries = await self._journal.read_sealed(self._account, position, BLOCK_MS)
            await asyncio.sleep(READ_PAUSE_S)
            if loop.time() - began > BLOCK_MS / 1000 + STALL_S:
                return
            for sealed in entries:
                if sealed.saves > saves:
                    return
                position = sealed.entry_id
                self._entries.append(sealed)
                self._hold(sealed.size)
