"""The backplane of a node among others: every account's inputs go through its journal in Redis.

Owns the node's posts, its inbox and its signs of life, and notices when Redis is lost. It does not
know what a journal's entries mean.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable

from signal_server import clock
from signal_server.backplane.contract import Figures, Services, Speaker, figures_of
from signal_server.backplane.entries import Parcel
from signal_server.backplane.facts import Facts
from signal_server.backplane.home import Home
from signal_server.backplane.post import Post
from signal_server.backplane.redis_clock import RedisClock
from signal_server.backplane.redis_journal import RedisJournal
from signal_server.backplane.replica import Replica
from signal_server.backplane.standby import Allowance
from signal_server.core import inputs
from signal_server.core.rate_limit import RateClass
from signal_server.core.switchboard import Switchboard
from signal_server.core.tally import Tally
from signal_server.wire.messages import ClientMessage
from turn_broker.fleet.contract import FleetUnavailable

log = logging.getLogger("parley.backplane")

ALIVE_S = 1.0
ANSWER_S = 1.2
"""Within which Redis must answer a sign of life."""
HEARS_S = 2.0
"""Without an answer for so long, nothing is asked that should not take effect late."""
COMEBACK_S = 2.5
"""How long nobody claims after a silence: a home elsewhere may have taken Redis for lost."""
LOST_AFTER = 3
"""Signs of life in a row without an answer, after which Redis is lost."""
STALL_S = 0.5
"""A look that took so much longer than it may says that this process stood still, and nothing about
Redis: a node that was frozen must find out first what has become of its homes."""
BLOCK_MS = 1000
PAUSE_S = 0.1
MAX_WAITING_PARCELS = 20_000


class JournaledBackplane:
    """See the module's text."""

    def __init__(
        self,
        name: str,
        journal: RedisJournal,
        new_board: Callable[[], Switchboard],
        new_facts: Callable[[], Facts],
        json_depth: int,
        services: Services,
        standby_bytes: int,
    ) -> None:
        self.node = f"{name}.{secrets.token_hex(4)}"
        """A node that starts again is another one."""
        self.services = services
        self.standby_allowance = Allowance(standby_bytes)
        self.clock = RedisClock(clock.monotonic, clock.unix)
        self.is_alone = False
        self.is_ready = False
        self.speaker: Speaker
        self._journal = journal
        self._new_board = new_board
        self._new_facts = new_facts
        self._json_depth = json_depth
        self._posts: dict[str, Post] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._outgoing: dict[str, list[Parcel]] = {}
        self._has_parcels = asyncio.Event()
        self._answered_at = -HEARS_S
        self._past = Tally()
        """Of switchboards that ran here."""
        self._past_failures = 0

    # Backplane ------------------------------------------------------------------------------

    async def start(self, speaker: Speaker) -> None:
        self.speaker = speaker
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(each())
            for each in (self._live_on, self._collect_on, self._dispatch_on)
        ]

    async def stop(self) -> None:
        await asyncio.gather(*(post.close() for post in self._posts.values()))
        if self._outgoing and not self.is_alone:
            await self._dispatch()
        for task in self._tasks:
            task.cancel()
        try:
            if not self.is_alone:
                await self._journal.leave(self.node)
        except FleetUnavailable:
            log.warning("the others will notice by the missing sign of life")
        await self._journal.close()

    def submit(self, account: str, event: inputs.Input) -> None:
        self._post(account).submit(event)

    def relay(self, account: str, connection: int, message: ClientMessage, text: str) -> None:
        self._post(account).relay(connection, text)

    def drain(self, reason: str, spread_ms: int, deadline_ms: int, url: str | None = None) -> None:
        draining = inputs.Draining(
            reason=reason, spread_ms=spread_ms, deadline_ms=deadline_ms, url=url
        )
        for post in self._posts.values():
            post.submit(draining)

    def unread(self, connection: int, after: int) -> list[bytes] | None:
        for post in self._posts.values():
            if connection in post.connections:
                return post.unread(connection, after)
        return None

    async def settled(self, account: str) -> None:
        await self._post(account).settled()

    @property
    def failures(self) -> int:
        return self._past_failures + sum(home.failures for home in self._homes())

    def figures(self) -> Figures:
        all_of = [figures_of(home.replica.board) for home in self._homes()]
        tally, too_fast = Tally(), [0] * len(RateClass)
        tally.add(self._past)
        for each in all_of:
            tally.add(each.tally)
            tally.candidates_held += each.tally.candidates_held
            tally.held_bytes += each.tally.held_bytes
            too_fast = [a + b for a, b in zip(too_fast, each.too_fast, strict=True)]
        return Figures(
            sessions=sum(each.sessions for each in all_of),
            calls=sum(each.calls for each in all_of),
            rooms=sum(each.rooms for each in all_of),
            tally=tally,
            too_fast=too_fast,
        )

    # For posts and homes --------------------------------------------------------------------

    @property
    def hears_redis(self) -> bool:
        """Whether Redis has answered lately."""
        return asyncio.get_running_loop().time() - self._answered_at < HEARS_S

    def deliver(self, parcel: Parcel) -> None:
        post = self._posts.get(parcel.account)
        if post is not None:
            post.deliver(parcel)

    def dispatch(self, node: str, parcel: Parcel) -> None:
        waiting = self._outgoing.setdefault(node, [])
        waiting.append(parcel)
        if len(waiting) > MAX_WAITING_PARCELS:
            # The hole in the numbers cuts the links, whose clients then resume.
            waiting.clear()
        self._has_parcels.set()

    def over(self, home: Home) -> None:
        self._past.add(home.replica.board.tally)
        self._past_failures += home.failures
        self._posts[home.replica.account].vacate(home)

    def _homes(self) -> list[Home]:
        return [post.home for post in self._posts.values() if post.home is not None]

    def _post(self, account: str) -> Post:
        post = self._posts.get(account)
        if post is None:
            post = Post(account, self, self._journal, self._new_replica)
            self._posts[account] = post
        return post

    def _new_replica(self, account: str) -> Replica:
        return Replica(account, self._new_board(), self._new_facts(), self._json_depth)

    # Redis ----------------------------------------------------------------------------------

    async def _live_on(self) -> None:
        loop = asyncio.get_running_loop()
        unanswered = 0
        while True:
            began = loop.time()
            try:
                async with asyncio.timeout(ANSWER_S):
                    self.clock.set(await self._journal.live(self.node))
                silent_s = loop.time() - self._answered_at
                unanswered, self._answered_at = 0, loop.time()
                await self._found(silent_s)
            except (FleetUnavailable, TimeoutError):
                is_stall = loop.time() - began > ANSWER_S + STALL_S
                unanswered = 0 if is_stall else unanswered + 1
                if unanswered >= LOST_AFTER:
                    self._missed()
            await asyncio.sleep(max(0.05, began + ALIVE_S - loop.time()))

    async def _found(self, silent_s: float) -> None:
        if self.is_alone:
            log.warning("Redis answers again")
            for post in list(self._posts.values()):
                await post.rejoin()
        elif silent_s > HEARS_S:
            # A home that has gone alone in that time is about to notice that it need not.
            for post in self._posts.values():
                post.claim_not_before(COMEBACK_S)
        self.is_alone, self.is_ready = False, True

    def _missed(self) -> None:
        self.is_ready = False
        is_new = not self.is_alone
        if is_new:
            log.error("Redis does not answer: this node goes on for its own clients")
        self.is_alone = True
        for post in self._posts.values():
            if is_new or post.home is not None:
                post.go_alone()

    async def _collect_on(self) -> None:
        after = "0-0"
        while True:
            try:
                parcels, after = await self._journal.collect(self.node, after, BLOCK_MS)
            except FleetUnavailable:
                await asyncio.sleep(PAUSE_S)
                continue
            for parcel in parcels:
                self.deliver(parcel)

    async def _dispatch_on(self) -> None:
        while True:
            await self._has_parcels.wait()
            self._has_parcels.clear()
            await self._dispatch()

    async def _dispatch(self) -> None:
        parcels, self._outgoing = self._outgoing, {}
        if not parcels:
            return
        try:
            await self._journal.post(parcels)
        except FleetUnavailable:
            # Whether they arrived is not known; a repetition is recognized.
            for node, each in parcels.items():
                self._outgoing[node] = each + self._outgoing.get(node, [])
            await asyncio.sleep(PAUSE_S)
            self._has_parcels.set()
