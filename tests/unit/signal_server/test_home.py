"""What a home says of entries that were written before it was one, and when another one is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NoReturn

import pytest
from simulated import board_for
from turn_client import eventually

from signal_server.backplane.contract import Services
from signal_server.backplane.entries import Batch, Claimed, Entry, Parcel
from signal_server.backplane.facts import Facts
from signal_server.backplane.home import Home
from signal_server.backplane.redis_clock import RedisClock
from signal_server.backplane.redis_journal import Claim, Lease, RedisJournal, Written
from signal_server.backplane.replica import Replica

BATCH = Batch(7, "far", 1, "f", [])
MORE = Batch(7, "far", 2, "f", [])


class ScriptedJournal(RedisJournal):
    """Answers without Redis; `lease` is what a renewal finds."""

    def __init__(self, *entries: Entry) -> None:
        self.entries = [Written(f"{n}-0", entry) for n, entry in enumerate(entries, 1)]
        self.lease: Lease | None = Lease(1_000, f"{len(entries)}-0", False)
        self.reclaims = 0
        self.saves: list[bool] = []
        """Whether anew."""

    async def saved(self, account: str) -> tuple[bytes | None, str]:
        return None, "0-0"

    async def read(self, account: str, after: str, block_ms: int | None) -> list[Written]:
        await asyncio.sleep(0)
        unread = [each for each in self.entries if each.unix_ms > int(after.partition("-")[0])]
        if not unread:
            await asyncio.sleep(0.005)
        return unread

    async def renew(self, account: str, holder: str) -> Lease | None:
        return self.lease

    async def reclaim(self, account: str, node: str, epoch: int, deadline_ms: int) -> Claim | None:
        self.reclaims += 1
        return None

    async def save(
        self, account: str, holder: str, position: str, state: bytes, *, anew: bool = False
    ) -> bool:
        self.saves.append(anew)
        return True

    async def missing(self, nodes: object) -> set[str]:
        return set()


class Node:
    """`Around` that keeps what is said."""

    node = "here"

    def __init__(self) -> None:
        self.clock = RedisClock(lambda: 0.0, lambda: 0.0)
        self.said: list[tuple[int, int]] = []
        """Epochs, and batches that have taken effect."""
        self.is_over = False

    def deliver(self, parcel: Parcel) -> None:
        raise AssertionError("nobody is connected here")

    def dispatch(self, node: str, parcel: Parcel) -> None:
        assert node == "far"
        self.said.append((parcel.epoch, parcel.done))

    def over(self, home: Home) -> None:
        self.is_over = True


def none(*_: object, **__: object) -> NoReturn:
    raise AssertionError("there is nothing to grant or announce")


@asynccontextmanager
async def home_of(journal: ScriptedJournal, claim: Claim) -> AsyncIterator[tuple[Home, Node]]:
    node = Node()
    replica = Replica("a", board_for(1), Facts(10), 64)
    home = Home(replica, journal, Services(none, none), node)
    home.start(claim)
    try:
        yield home, node
    finally:
        home.stop()


async def test_what_the_former_home_may_not_have_said_is_said() -> None:
    journal = ScriptedJournal(Claimed("far", 1), BATCH, Claimed("here", 2))
    async with home_of(journal, Claim(2, "3-0")) as (home, node):
        await eventually(lambda: not home.is_behind)
        assert node.said == [(1, 1)]


async def test_a_home_that_is_behind_says_nothing() -> None:
    journal = ScriptedJournal(Claimed("far", 1), BATCH)
    async with home_of(journal, Claim(2, "3-0")) as (home, node):
        await eventually(lambda: bool(home.replica.links))
        assert home.is_behind
        assert node.said == []


@pytest.mark.parametrize("last", [(), (MORE, Claimed("here", 3))])
async def test_what_stands_before_a_doubtful_claim_is_not_said(last: tuple[Entry, ...]) -> None:
    """Not even by the next home, whose own claim is not doubtful."""
    doubtful = Claimed("here", 2, is_doubtful=True)
    journal = ScriptedJournal(Claimed("far", 1), BATCH, doubtful, *last)
    async with home_of(journal, Claim(2, f"{len(journal.entries)}-0")) as (home, node):
        await eventually(lambda: not home.is_behind)
        assert node.said == [(2, 1), *[(2, 2) for _ in last[:1]]]


async def test_what_another_claim_means_is_not_said() -> None:
    """The other one may know less than is known here."""
    other = Claimed("far", 3, is_doubtful=True)
    journal = ScriptedJournal(Claimed("here", 2), BATCH, other, MORE)
    async with home_of(journal, Claim(2, "1-0")) as (_, node):
        await eventually(lambda: node.is_over)
        assert node.said == [(2, 1)]


async def test_a_home_that_is_behind_does_not_reclaim() -> None:
    """What it has not read yet may be lost."""
    journal = ScriptedJournal(Claimed("far", 1), BATCH)
    journal.lease = None
    async with home_of(journal, Claim(2, "3-0")) as (_, node):
        await eventually(lambda: node.is_over)
        assert journal.reclaims == 0


async def test_after_a_failover_that_lost_nothing_the_state_is_saved_anew() -> None:
    """So that the next claim is not doubtful for nothing."""
    journal = ScriptedJournal(Claimed("here", 2))
    async with home_of(journal, Claim(2, "1-0")) as (home, _):
        await eventually(lambda: not home.is_behind and len(journal.saves) == 1)
        journal.lease = Lease(1_000, "1-0", True)
        await eventually(lambda: True in journal.saves)
