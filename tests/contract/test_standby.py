"""A standby knows what the home knows, whatever the home saves, trims or writes anew in Redis."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from redis_server import RedisServer, has_redis, start_redis
from rtc import until
from simulated import board_for

from signal_server.backplane import standby as module
from signal_server.backplane.entries import Batch, Entry, Granted, Parcel
from signal_server.backplane.facts import Facts
from signal_server.backplane.link import Link
from signal_server.backplane.redis_journal import Claim, RedisJournal
from signal_server.backplane.replica import Replica
from signal_server.backplane.standby import Allowance, Standby
from signal_server.core import inputs
from signal_server.core.state import FORMAT, pack
from signal_server.wire.codec import decode
from signal_server.wire.messages import Hello
from turn_broker.fleet.redis_url import connect

ACCOUNT, NODE = "AC1", "home.1"
pytestmark = [
    pytest.mark.redis,
    pytest.mark.skipif(not has_redis(), reason="no redis-server"),
]


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with start_redis() as server:
        yield server


def new_replica(account: str) -> Replica:
    return Replica(account, board_for(0), Facts(100), 64)


class Home:
    """The home of an account, and the one link of its clients."""

    def __init__(self, journal: RedisJournal) -> None:
        self.journal = journal
        self.replica = new_replica(ACCOUNT)
        self.link = Link(7, ACCOUNT, NODE)
        self.position = "0-0"
        self._claim = Claim(0, "0-0")

    async def claim(self) -> None:
        now_ms = int(await self.journal.live(NODE))
        claim = await self.journal.claim(ACCOUNT, NODE, 0, now_ms + 60_000, anew=False)
        assert claim is not None
        self._claim = claim

    async def open(self, connection: int) -> None:
        """A client joins a room."""
        hello = decode(json.dumps({"type": "hello", "room": "r"}), 64)
        assert isinstance(hello, Hello)
        permit = inputs.Permit(account=ACCOUNT, identity=f"i{connection}")
        admission = inputs.Admission(permit=permit, token_life_s=1e6, resume_secret="s")
        opened = inputs.Opened(
            connection=connection,
            admission=admission,
            session=f"s{connection}",
            peer=f"p{connection}",
            hello=hello,
            ice=None,
        )
        self.link.submit(opened)
        await self.write()

    async def say(self, connection: int, kind: str, **fields: object) -> None:
        self.link.say(connection, json.dumps({"type": kind, **fields}))
        await self.write()

    async def write(self) -> None:
        batch = self.link.take("f")
        assert batch is not None
        await self.append(batch)

    async def append(self, entry: Entry) -> None:
        await self.journal.append(ACCOUNT, [entry])
        await self.read()

    async def read(self) -> None:
        """Apply what is new."""
        for written in await self.journal.read(ACCOUNT, self.position, None):
            self.position = written.entry_id
            if written.entry is not None:
                self.replica.apply(written.entry, written.unix_ms)

    async def save(self, *, anew: bool = False) -> None:
        holder = f"{NODE} {self._claim.epoch}"
        state = self.replica.capture()
        assert await self.journal.save(ACCOUNT, holder, self.position, state, anew=anew)


@pytest.fixture
async def home(redis: RedisServer) -> AsyncIterator[Home]:
    redis.command("FLUSHALL")
    client = connect(redis.url)
    home = Home(RedisJournal(client, "secret"))
    await home.claim()
    await home.read()
    yield home
    await client.aclose()


@asynccontextmanager
async def following(home: Home, most_bytes: int = 1 << 20) -> AsyncIterator[Standby]:
    allowance = Allowance(most_bytes)
    standby = Standby(ACCOUNT, home.journal, new_replica, allowance)
    standby.start()
    try:
        yield standby
    finally:
        standby.stop()
        assert allowance.left_bytes == most_bytes


async def agree(standby: Standby, home: Home) -> None:
    """The standby gets to know what the home knows, and makes the same of what comes next."""
    await until(lambda: _last(standby) == _last_of(home.replica), 15)
    known = standby.replica()
    assert known is not None
    copy = new_replica(ACCOUNT)
    copy.restore(home.replica.capture())
    probe = Batch(7, NODE, home.link.taken + 1, "x", [(1, '{"type":"message","data":1}')])
    mine, theirs = (_parcels(each, probe) for each in (known[0], copy))
    assert mine == theirs != []


def _parcels(replica: Replica, entry: Entry) -> list[tuple[str, Parcel]]:
    return replica.apply(entry, 2_000_000_000_000).parcels


def _last_of(replica: Replica) -> tuple[int, set[str], int]:
    parcels = replica.links[7].parcels if 7 in replica.links else 0
    sessions = replica.board.sessions.by_id
    return parcels, set(sessions), sum(each.outbox.seq for each in sessions.values())


def _last(standby: Standby) -> tuple[int, set[str], int] | None:
    known = standby.replica()
    return None if known is None else _last_of(known[0])


def _sessions(standby: Standby) -> set[str]:
    known = standby.replica()
    return set() if known is None else set(known[0].board.sessions.by_id)


async def test_a_standby_follows_from_the_first_entry(home: Home) -> None:
    async with following(home) as standby:
        await home.open(1)
        await home.open(2)
        await home.say(1, "message", to="p2", data=1)
        await agree(standby, home)


async def test_a_standby_that_comes_later_knows_the_same(home: Home) -> None:
    await home.open(1)
    await home.open(2)
    await home.save()
    await home.say(1, "message", to="p2", data=1)
    async with following(home) as standby:
        await agree(standby, home)


async def test_saving_and_trimming_take_nothing_from_a_standby(
    home: Home, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ENTRIES", 10)
    monkeypatch.setattr(module, "LOAD_PAUSE_S", 0.01)
    async with following(home) as standby:
        await home.open(1)
        await home.open(2)
        for number in range(50):
            await home.say(1, "message", to="p2", data=number)
            if number % 7 == 0:
                await home.save()
        await agree(standby, home)
    length = redis.command("XLEN", f"parley:{FORMAT}:{{{ACCOUNT}}}:journal")
    assert int(length[1:]) < 20, "behind the former state it is trimmed"


async def test_a_state_that_does_not_follow_from_the_journal_is_read(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOAD_PAUSE_S", 0.01)
    async with following(home) as standby:
        await home.open(1)
        await home.open(2)
        await agree(standby, home)
        # As a home that was alone for a while.
        home.replica.board.handle(inputs.Closed(_whole(home, 2), "left"), 3e9, 3_000_000_000_000)
        await home.save(anew=True)
        await agree(standby, home)
        await home.say(1, "message", data=2)
        await agree(standby, home)


def _whole(home: Home, connection: int) -> int:
    by_connection = home.replica.board.sessions.by_connection
    return next(c for c, session in by_connection.items() if session.peer == f"p{connection}")


async def test_what_is_written_after_a_lost_end_comes_behind_it(
    home: Home, redis: RedisServer
) -> None:
    """The Redis that goes on has a slower clock, and lacks what the home has applied."""
    await home.open(1)
    await home.open(2)
    milliseconds, _, number = home.position.partition("-")
    home.position = f"{int(milliseconds) + 3_600_000}-{number}"
    await home.save(anew=True)
    await home.say(1, "message", data=1)
    assert home.replica.links[7].batches == 3
    async with following(home) as standby:
        await agree(standby, home)


async def test_wishes_are_known_until_they_are_granted(home: Home) -> None:
    async with following(home) as standby:
        await home.open(1)
        await home.say(1, "ice_servers", id="a")
        await home.say(1, "ice_servers", id="b")
        granted = inputs.IceGranted(session="s1", request="a", grant=None)
        await home.append(Granted(pack(granted)))
        await agree(standby, home)
        known = standby.replica()
        assert known is not None
        assert [wish.request for wish in known[1]] == ["b"]


async def test_who_parts_keeps_its_own_clients_and_doubts_the_others(home: Home) -> None:
    away = Link(8, ACCOUNT, "away.1")
    await home.open(1)
    near, home.link = home.link, away
    await home.open(2)
    home.link = near
    async with following(home) as standby:
        await until(lambda: _sessions(standby) == {"s1", "s2"}, 15)
        known = standby.replica()
    assert known is not None
    replica = known[0]
    replica.go_alone(NODE, home.link.number, 3_000_000_000_000, lambda: "island")
    sessions = replica.board.sessions.by_id
    assert sessions["s1"].connection is not None
    assert sessions["s2"].connection is not None
    assert [session for session in sessions if replica._is_doubted(session)] == ["s2"]
    replica.doubt()
    assert all(replica._is_doubted(session) for session in sessions)


async def test_a_standby_that_was_stopped_knows_nothing(home: Home) -> None:
    async with following(home) as standby:
        await home.open(1)
        await until(lambda: _sessions(standby) == {"s1"}, 15)
    assert standby.replica() is None


async def test_what_standbys_hold_is_bounded(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOAD_PAUSE_S", 0.01)
    monkeypatch.setattr(module, "FULL_PAUSE_S", 0.01)
    async with following(home, 6000) as standby:
        await home.open(1)
        await until(lambda: _sessions(standby) == {"s1"}, 15)
        for number in range(20):
            await home.say(1, "message", data="x" * 500, id=number)
        await until(lambda: standby.replica() is None, 15)
        # The state is small, and takes the place of all that.
        await home.save()
        await until(lambda: _last(standby) == _last_of(home.replica), 15)
