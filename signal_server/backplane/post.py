"""One account on one node: its link, the courier that writes for it, and its home or a standby.

Whoever has clients of an account and finds it without a home becomes the home; where the home is
elsewhere, a standby follows it. It does not know what clients say.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from signal_server.backplane.contract import Services, Speaker
from signal_server.backplane.entries import Batch, Entry, Item, Kind, Parcel, farewell
from signal_server.backplane.home import CLAIM_MS, Around, Home
from signal_server.backplane.link import Fate, Link
from signal_server.backplane.redis_journal import RedisJournal
from signal_server.backplane.replica import Replica
from signal_server.backplane.standby import Allowance, Standby
from signal_server.core import inputs
from signal_server.core.effects import GrantIce
from signal_server.wire.codes import CloseCode
from turn_broker.fleet.contract import FleetUnavailable

log = logging.getLogger("parley.backplane")

WATCH_S = 0.25
PATIENCE_S = 6.0
"""How long the former home may take to come back after Redis was lost, or has lost everything."""
RETRY_S = 0.1
MAX_FAREWELLS = 1000
_LINK_BITS = 31
_FRESH_BYTES = 12


class Plane(Around, Protocol):
    """The node's backplane, as a post sees it."""

    @property
    def is_alone(self) -> bool: ...

    @property
    def hears_redis(self) -> bool: ...

    @property
    def speaker(self) -> Speaker: ...

    @property
    def standby_allowance(self) -> Allowance: ...

    @property
    def services(self) -> Services: ...


class Post:
    """See the module's text."""

    def __init__(
        self,
        account: str,
        plane: Plane,
        journal: RedisJournal,
        new_replica: Callable[[str], Replica],
    ) -> None:
        self.account = account
        self.home: Home | None = None
        self.connections: set[int] = set()
        self._plane = plane
        self._journal = journal
        self._new_replica = new_replica
        self._standby = Standby(account, journal, new_replica, plane.standby_allowance)
        self._link = self._new_link()
        self._news = asyncio.Event()
        self._farewells: deque[Batch] = deque(maxlen=MAX_FAREWELLS)
        """Of links that are cut, for a home that does not know it."""
        self._claims_from = 0.0
        self._stands_at = (0, 0)
        """The link, and how far it has come."""
        self._stands_since = 0.0
        self._emptied_at: float | None = None
        self._settling: list[tuple[int, asyncio.Future[None]]] = []
        loop = asyncio.get_running_loop()
        self._courier = loop.create_task(self._write_on())
        self._watch = loop.create_task(self._watch_on())

    # From the node's connections ------------------------------------------------------------

    def submit(self, event: inputs.Input) -> None:
        match event:
            case inputs.Opened() | inputs.Resumed():
                self.connections.add(event.connection)
            case inputs.Closed() if event.connection not in self.connections:
                return
            case inputs.Closed():
                self.connections.discard(event.connection)
                self._link.forget(event.connection)
        self._link.submit(event)
        self._news_came()

    def relay(self, connection: int, text: str) -> None:
        if connection in self.connections:
            self._link.say(connection, text)
            self._news_came()

    def _news_came(self) -> None:
        if self._link.is_full:
            log.warning("an account's home does not keep up: its clients here must resume")
            self.cut()
        self._news.set()

    def unread(self, connection: int, after: int) -> list[bytes] | None:
        return self._link.unread(connection, after)

    async def settled(self) -> None:
        """Return when all that was said so far has taken effect, or will not."""
        last = self._link.last
        if self._link.done < last:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._settling.append((last, future))
            await future

    # To them --------------------------------------------------------------------------------

    def deliver(self, parcel: Parcel) -> None:
        """What an entry of the journal means for this node."""
        link = self._link
        if parcel.link != link.number:
            if parcel.number and all(each.link != parcel.link for each in self._farewells):
                # On its way when the link was cut, or a failover has lost that it was.
                self._bid_farewell(parcel.link)
            return
        heard = link.hear(parcel)
        if isinstance(heard, Fate):
            self.cut()
            return
        for item in heard:
            self._speak(item)
        if self._settling:
            due = [future for last, future in self._settling if last <= link.done]
            self._settling = [each for each in self._settling if each[0] > link.done]
            for future in due:
                if not future.done():
                    future.set_result(None)
        if link.seen is not None:
            self._news.set()

    def _speak(self, item: Item) -> None:
        speaker = self._plane.speaker
        match item:
            case (Kind.SEND, connection, seq, payload):
                outlet = speaker.connections.get(connection)
                if outlet is not None:
                    if connection < 0:
                        self._link.keep(item)
                    outlet.send(payload, seq)
            case (Kind.CLOSE, connection, code, reason):
                outlet = speaker.connections.get(connection)
                if outlet is not None:
                    outlet.close(code, reason)
            case (Kind.ATTACHED, connection):
                speaker.attached(connection)
            case (Kind.UNATTACHED, connection):
                self.connections.discard(connection)
                speaker.unattached(connection)
            case (Kind.ANSWERED, ticket, answer):
                speaker.answered(ticket, answer)

    def cut(self) -> None:
        """Something is missing: the clients here resume, on a new link."""
        gone, self.connections = self.connections, set()
        old, self._link = self._link, self._new_link()
        if old.taken:
            self._bid_farewell(old.number)
        for _, future in self._settling:
            if not future.done():
                future.set_result(None)
        self._settling = []
        self._close(gone)

    def _close(self, connections: Iterable[int]) -> None:
        for connection in connections:
            self.connections.discard(connection)
            outlet = self._plane.speaker.connections.get(connection)
            if outlet is not None:
                outlet.close(CloseCode.GO_AWAY, "resume")

    def _bid_farewell(self, link: int) -> None:
        """The home must not wait for it for ever."""
        self._farewells.append(farewell(link, self._plane.node))
        self._news.set()

    def _new_link(self) -> Link:
        return Link(secrets.randbits(_LINK_BITS), self.account, self._plane.node)

    # Redis is lost, and back ----------------------------------------------------------------

    def go_alone(self) -> None:
        """The home goes on for the clients that are here; elsewhere they go on with what the
        standby knows."""
        if self.home is None or self.home.is_behind:
            if self.home is not None:
                self.vacate(self.home)
            self._go_on_from_standby()
        elif not self.home.is_alone:
            self.home.go_alone(self._link.number)
        else:
            return
        self._close(self._link.take_back_hellos())
        for batch in self._link.pending:
            self._apply_alone(batch)
        # What follows must not wait for a write that Redis does not answer.
        self._courier.cancel()
        self._courier = asyncio.get_running_loop().create_task(self._write_on())
        self._news.set()

    def _go_on_from_standby(self) -> None:
        known = self._standby.replica()
        self._standby.stop()
        if known is None:
            self.cut()
            return
        replica, wishes = known
        state = replica.links.get(self._link.number)
        last = 0 if state is None else state.parcels
        if self._link.heard > last:
            # Clients here were told what the standby has not read.
            replica.doubt()
        if self._link.heard != last:
            self.cut()
        self._start_alone(replica, wishes)

    async def rejoin(self) -> None:
        """Redis is back, and perhaps a home elsewhere with all that happened. FleetUnavailable."""
        self.claim_not_before(PATIENCE_S)
        asyncio.get_running_loop().call_later(RETRY_S, self._news.set)
        home = self.home
        if home is None or not home.is_alone:
            return
        try:
            if not await home.rejoin():
                self.vacate(home)
                self.cut()
        except FleetUnavailable:
            self.go_alone()
            raise

    def claim_not_before(self, delay_s: float) -> None:
        """Leave the home to who had it, for so long."""
        self._claims_from = asyncio.get_running_loop().time() + delay_s

    def vacate(self, home: Home) -> None:
        """Nobody's home any more."""
        home.stop()
        if self.home is home:
            self.home = None

    async def close(self) -> None:
        """The node goes: write what is left, hand the home over."""
        self._standby.stop()
        try:
            async with asyncio.timeout(1):
                while self._link.has_news and not self._plane.is_alone:
                    self._news.set()
                    await asyncio.sleep(0.01)
        except TimeoutError:
            log.warning("not everything could be written")
        self._courier.cancel()
        self._watch.cancel()
        if self.home is not None:
            await self.home.hand_over()

    # The courier ----------------------------------------------------------------------------

    async def _write_on(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            await self._take_leave()
            while self._link.has_news:
                link = self._link
                seen, link.seen = link.seen, None
                batch = link.take(secrets.token_urlsafe(_FRESH_BYTES))
                entries: list[Entry] = [each for each in (seen, batch) if each is not None]
                await self._write(link, entries, batch)

    async def _take_leave(self) -> None:
        """Of links that were cut; while Redis is lost, later."""
        while self._farewells and not self._plane.is_alone:
            try:
                await self._journal.append(self.account, [self._farewells[0]])
                self._farewells.popleft()
            except FleetUnavailable:
                await asyncio.sleep(RETRY_S)

    async def _write(self, link: Link, entries: list[Entry], batch: Batch | None) -> None:
        """Into the journal; a repetition is recognized by its number."""
        while link is self._link:
            if self._plane.is_alone and (self.home is None or self.home.is_alone):
                self._apply_alone(batch)
                return
            try:
                await self._journal.append(self.account, entries)
                return
            except FleetUnavailable:
                await asyncio.sleep(RETRY_S)

    def _apply_alone(self, batch: Batch | None) -> None:
        if batch is None:
            return
        if self.home is None:
            self._start_alone(self._new_replica(self.account), ())
        assert self.home is not None
        self.home.apply_alone(batch)

    def _start_alone(self, replica: Replica, wishes: Iterable[GrantIce]) -> None:
        replica.home = self._plane.node
        self.home = Home(replica, self._journal, self._plane.services, self._plane)
        self.home.start_alone(self._link.number, wishes)

    # The home -------------------------------------------------------------------------------

    async def _watch_on(self) -> None:
        while True:
            try:
                may_claim = self._plane.hears_redis and not self._plane.is_alone
                if self.home is None and self._is_wanted and may_claim:
                    await self._claim()
                self._stand_by()
                await self._look_after_link()
            except FleetUnavailable:
                pass
            await asyncio.sleep(WATCH_S * random.uniform(0.5, 1.0))  # noqa: S311

    def _stand_by(self) -> None:
        if self.home is not None or not self.connections:
            self._standby.stop()
        elif not self._plane.is_alone:
            self._standby.start()

    async def _look_after_link(self) -> None:
        """A failover may have lost what was written, or that there is this link: nothing else would
        come of it."""
        link, now = self._link, asyncio.get_running_loop().time()
        stands_at = (link.number, link.done if link.is_waiting else link.heard)
        if stands_at != self._stands_at:
            self._stands_at, self._stands_since = stands_at, now
        elif now - self._stands_since >= PATIENCE_S and not self._plane.is_alone:
            self._stands_since = now
            if link.is_waiting:
                await self._journal.append(self.account, link.pending)
            elif self.connections:
                link.ask()
                self._news.set()

    @property
    def _is_wanted(self) -> bool:
        return bool(self.connections) or self._link.is_waiting or self._link.has_news

    async def _claim(self) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._claims_from:
            return
        anew = self._emptied_at is not None and now - self._emptied_at >= PATIENCE_S
        claim = await self._journal.claim(
            self.account,
            self._plane.node,
            self._link.epoch,
            self._plane.clock.now_ms() + CLAIM_MS,
            anew=anew,
        )
        if claim is None:
            self._emptied_at = None
        elif claim.epoch == 0:
            self._emptied_at = now if self._emptied_at is None else self._emptied_at
        else:
            self._emptied_at = None
            replica = self._new_replica(self.account)
            self.home = Home(replica, self._journal, self._plane.services, self._plane)
            self.home.start(claim)
