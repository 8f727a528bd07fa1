"""One account's switchboard while this node is its home: applies the journal and speaks.

Keeps the home by renewing it, writes ticks when something is due and `Lost` for nodes that are
silent, and saves the state so that the journal stays short. When another node takes over it learns
so from the journal, and stops. When Redis is lost it goes on alone, for this node's own clients.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import Counter
from collections.abc import Iterable
from typing import Protocol

from signal_server.backplane.contract import Services
from signal_server.backplane.entries import Batch, Claimed, Entry, Granted, Lost, Parcel, Tick
from signal_server.backplane.facts import Fact
from signal_server.backplane.redis_clock import RedisClock
from signal_server.backplane.redis_journal import LEASE_MS, Claim, RedisJournal, Written, order
from signal_server.backplane.replica import Outcome, Replica
from signal_server.core import inputs
from signal_server.core.effects import GrantIce
from signal_server.core.state import StateError, pack, unpack
from turn_broker.fleet.contract import FleetUnavailable

log = logging.getLogger("parley.backplane")

RENEW_S = 0.4
CLAIM_MS = 1000
"""Within which Redis must have granted a claim."""
NODES_S = 1.0
MISSED = 3
"""Looks in a row at which a node was not there."""
BLOCK_MS = 1000
SAVE_ENTRIES = 4000
"""Entries after the last saved state, before the next."""
SAVE_COST = 50
"""A state that takes a second to write is written every 50 seconds at most."""
PAUSE_S = 0.1


class Around(Protocol):
    """What a home needs of its node."""

    @property
    def node(self) -> str: ...

    @property
    def clock(self) -> RedisClock: ...

    def deliver(self, parcel: Parcel) -> None:
        """To this node's own link."""

    def dispatch(self, node: str, parcel: Parcel) -> None:
        """To another node."""

    def over(self, home: Home) -> None:
        """Another node is the home now, or nobody."""


class Home:
    """See the module's text."""

    def __init__(
        self, replica: Replica, journal: RedisJournal, services: Services, around: Around
    ) -> None:
        self.replica = replica
        self.is_alone = False
        """Redis is lost."""
        self.is_island = False
        """The home is elsewhere: what is said here ends when Redis is back."""
        self.failures = 0
        self._journal = journal
        self._services = services
        self._around = around
        self._claim = Claim(0, "0-0")
        self._position = "0-0"
        self.is_behind = True
        """The claim's entry has not been applied yet."""
        self._held: list[tuple[str, Parcel]] = []
        """Parcels of before that entry."""
        self._since_saved = 0
        self._save_not_before = 0.0
        self._wishes: dict[tuple[str, str | int | None], GrantIce] = {}
        """Met while behind: the former home may have granted them."""
        self._missed: Counter[str] = Counter()
        self._held_until = 0.0
        """Until then nobody else can have become the home; the loop's clock."""
        self._tasks: list[asyncio.Task[None]] = []
        self._writes: set[asyncio.Task[None]] = set()
        self._due: asyncio.TimerHandle | None = None

    @property
    def holder(self) -> str:
        """What stands in Redis while this is the home."""
        return f"{self._around.node} {self._claim.epoch}"

    # Coming and going -----------------------------------------------------------------------

    def start(self, claim: Claim) -> None:
        """Apply what was left, then speak."""
        self._held_until = 0.0
        self._claim = claim
        self.is_behind = True
        self._run(self._read_on(), self._renew_on(), self._watch_nodes())

    def start_alone(self, link: int, wishes: Iterable[GrantIce] = ()) -> None:
        """Redis is lost, and the home is elsewhere: go on here until it is back."""
        self.is_island, self.is_behind = True, False
        self.go_alone(link)
        for wish in wishes:
            self._grant(wish)

    def go_alone(self, link: int) -> None:
        """Redis is lost: serve this node's own clients, which are on that link, from memory."""
        self._stop_tasks()
        self.is_alone = True
        node, now_ms = self._around.node, self._around.clock.now_ms()
        self._carry_out(self.replica.go_alone(node, link, now_ms, secrets.token_urlsafe))
        self._watch_deadline()

    async def rejoin(self) -> bool:
        """Redis is back: be the home again, unless there was another. FleetUnavailable."""
        if self.is_island:
            return False
        claim = await self._journal.reclaim(
            self.replica.account,
            self._around.node,
            self.replica.epoch,
            self._around.clock.now_ms() + CLAIM_MS,
        )
        if claim is None:
            return False
        now = self._around.clock.now_ms()
        self.replica.stay_alone(None)
        # From now on the courier writes into the journal again; it is read when this is saved.
        self._claim, self._position, self.is_alone = claim, claim.entry_id, False
        self.replica.apply(Claimed(self._around.node, claim.epoch), now)
        self._carry_out(self.replica.cut_others(self._around.node, now))
        await self._save(anew=True)
        self._run(self._read_on(loaded=True), self._renew_on(), self._watch_nodes())
        return True

    async def hand_over(self) -> None:
        """Save, and let another node be the home."""
        if self.is_alone or self.is_behind:
            self.stop()
            return
        self.stop()
        try:
            await self._save()
            await self._journal.release(self.replica.account, self.holder)
        except FleetUnavailable:
            log.warning("a home could not be handed over")

    def stop(self) -> None:
        """Neither apply nor speak any more."""
        self._stop_tasks()
        if self._due is not None:
            self._due.cancel()

    def _run(self, *coroutines: object) -> None:
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(each) for each in coroutines]  # type: ignore[arg-type]

    def _stop_tasks(self) -> None:
        current = asyncio.current_task()
        for task in [*self._tasks, *self._writes]:
            if task is not current:
                task.cancel()
        self._tasks = []

    # The journal ----------------------------------------------------------------------------

    async def _read_on(self, *, loaded: bool = False) -> None:
        account = self.replica.account
        while not loaded:
            try:
                state, self._position = await self._journal.saved(account)
                loaded = True
                if state is not None:
                    self.replica.restore(state)
            except FleetUnavailable:
                await asyncio.sleep(PAUSE_S)
            except StateError as flaw:
                log.error("the state of an account cannot be read: %s", flaw)
        while True:
            try:
                block_ms = None if self.is_behind else self._patience_ms()
                entries = await self._journal.read(account, self._position, block_ms)
            except FleetUnavailable:
                await asyncio.sleep(PAUSE_S)
                continue
            if not await self._is_home():
                self._around.over(self)
                return
            for written in entries:
                self._position = written.entry_id
                if written.entry is not None:
                    self._apply(written, written.entry)
                if self._is_superseded:
                    self._around.over(self)
                    return
            await self._after(len(entries))

    @property
    def _is_superseded(self) -> bool:
        """Another home's claim was applied."""
        return not self.is_behind and self.replica.home != self._around.node

    async def _after(self, count: int) -> None:
        """What is to be done between two reads."""
        self._since_saved += count
        try:
            deadline = self.replica.next_deadline()
            now = self._around.clock.now_ms()
            if deadline is not None and deadline * 1000 <= now and not self.is_behind:
                await self._journal.append(self.replica.account, [Tick()])
            is_time = asyncio.get_running_loop().time() >= self._save_not_before
            if self._since_saved >= SAVE_ENTRIES and is_time and not self.is_behind:
                await self._save()
        except FleetUnavailable:
            await asyncio.sleep(PAUSE_S)

    def _patience_ms(self) -> int:
        deadline = self.replica.next_deadline()
        if deadline is None:
            return BLOCK_MS
        left = deadline * 1000 - self._around.clock.now_ms()
        return int(min(BLOCK_MS, max(1, left + 1)))

    async def _save(self, *, anew: bool = False) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        state = self.replica.capture()
        self._save_not_before = began + SAVE_COST * (loop.time() - began)
        self._since_saved = 0
        account = self.replica.account
        await self._journal.save(account, self.holder, self._position, state, anew=anew)

    def _apply(self, written: Written, entry: Entry) -> None:
        outcome = self.replica.apply(entry, written.unix_ms)
        if self.is_behind and isinstance(entry, Granted):
            self._forget_wish(entry)
        if self._is_superseded:
            return  # What it means the other one says, who may know less than is known here.
        if isinstance(entry, Claimed) and entry.is_doubtful:
            # Before it the former home may have said something else, to sessions that moved.
            self._held.clear()
        self._carry_out(outcome)
        if self.is_behind and order(written.entry_id) >= order(self._claim.entry_id):
            self._catch_up()

    def _catch_up(self) -> None:
        """From here on this home speaks: also of what the former one may not have said any more."""
        self.is_behind = False
        self._since_saved = SAVE_ENTRIES
        for node, parcel in self._held:
            self._tell(node, parcel)
        self._held.clear()
        for wish in self._wishes.values():
            self._grant(wish)
        self._wishes.clear()

    def _forget_wish(self, entry: Granted) -> None:
        granted = unpack(entry.packed)
        self._wishes.pop((granted.session, granted.request), None)

    # What comes of it -----------------------------------------------------------------------

    def apply_alone(self, batch: Batch) -> None:
        """A batch of this node's own link, while Redis is lost."""
        self._carry_out(self.replica.apply(batch, self._around.clock.now_ms()))
        self._watch_deadline()

    def _carry_out(self, outcome: Outcome) -> None:
        for node, parcel in outcome.parcels:
            if self.is_behind:
                self._held.append((node, parcel))
            else:
                self._tell(node, parcel)
        for demand in outcome.demands:
            if isinstance(demand, Fact):
                self._services.announce(demand)
            elif self.is_behind:
                self._wishes[demand.session, demand.request] = demand
            else:
                self._grant(demand)
        for flaw in outcome.failures:
            self.failures += 1
            log.error("an input failed", exc_info=flaw)

    def _tell(self, node: str, parcel: Parcel) -> None:
        if node == self._around.node:
            self._around.deliver(parcel)
        elif not self.is_alone:
            self._around.dispatch(node, parcel)

    def _grant(self, wish: GrantIce) -> None:
        grant = self._services.grant(
            wish.account, wish.identity, wish.ttl, wish.region, wish.remote
        )
        granted = inputs.IceGranted(session=wish.session, request=wish.request, grant=grant)
        entry = Granted(pack(granted))
        if self.is_alone:
            self._carry_out(self.replica.apply(entry, self._around.clock.now_ms()))
            return
        task = asyncio.get_running_loop().create_task(self._write(entry))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    async def _write(self, entry: Entry) -> None:
        while True:
            try:
                await self._journal.append(self.replica.account, [entry])
                return
            except FleetUnavailable:
                await asyncio.sleep(PAUSE_S)

    def _watch_deadline(self) -> None:
        """While Redis is lost, this machine's clock tells when something is due."""
        if self._due is not None:
            self._due.cancel()
        deadline = self.replica.next_deadline()
        if deadline is None or not self.is_alone:
            return
        left_ms = deadline * 1000 - self._around.clock.now_ms()
        loop = asyncio.get_running_loop()
        self._due = loop.call_later(max(0.0, left_ms / 1000), self._tick_alone)

    def _tick_alone(self) -> None:
        if self.is_alone:
            self._carry_out(self.replica.apply(Tick(), self._around.clock.now_ms()))
            self._watch_deadline()

    # Being the home -------------------------------------------------------------------------

    async def _renew_on(self) -> None:
        while True:
            with contextlib.suppress(FleetUnavailable):
                if not await self._renew():
                    self._around.over(self)
                    return
            await asyncio.sleep(RENEW_S)

    async def _renew(self) -> bool:
        """Stay the home; False when another has been it meanwhile. FleetUnavailable."""
        began = asyncio.get_running_loop().time()
        lease = await self._journal.renew(self.replica.account, self.holder)
        if lease is None:
            # Vacant: Redis was emptied, or this process was too slow.
            if self.is_behind:
                # What is not known here yet may be lost: an ordinary claim finds out.
                return False
            claim = await self._journal.reclaim(
                self.replica.account,
                self._around.node,
                self._claim.epoch,
                self._around.clock.now_ms() + CLAIM_MS,
            )
            if claim is None:
                return False
            self._claim = claim
            self._held_until = began + LEASE_MS / 1000
            await self._save(anew=True)
            return True
        self._held_until = began + LEASE_MS / 1000
        self._around.clock.set(lease.now_ms)
        lost_end = order(lease.last_id) < order(self._position)
        if (lost_end or lease.is_other_run) and not self.is_behind:
            # After a failover the journal's end may be only here.
            await self._save(anew=True)
        return True

    async def _is_home(self) -> bool:
        """Whether what was just read follows on what was applied. Another home would have saved,
        and trimmed the journal behind what it has applied."""
        while asyncio.get_running_loop().time() >= self._held_until:
            try:
                return await self._renew()
            except FleetUnavailable:
                await asyncio.sleep(PAUSE_S)
        return True

    async def _watch_nodes(self) -> None:
        while True:
            await asyncio.sleep(NODES_S)
            nodes = self.replica.nodes() - {self._around.node}
            try:
                missing = await self._journal.missing(nodes)
                for node in nodes:
                    self._missed[node] = self._missed[node] + 1 if node in missing else 0
                    if self._missed[node] >= MISSED and not self.is_behind:
                        await self._journal.append(self.replica.account, [Lost(node)])
                        del self._missed[node]
            except FleetUnavailable:
                continue
