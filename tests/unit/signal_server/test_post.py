"""What a node says of a link that the home may have forgotten, or has not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest
from simulated import board_for
from turn_client import eventually

from signal_server.backplane import post as module
from signal_server.backplane.entries import Batch, Entry, Parcel, farewell
from signal_server.backplane.facts import Facts
from signal_server.backplane.journaled import JournaledBackplane
from signal_server.backplane.post import Post
from signal_server.backplane.redis_journal import Claim, RedisJournal
from signal_server.backplane.replica import Replica
from signal_server.backplane.standby import Allowance, Standby
from signal_server.core.inputs import Admission, Permit, Resumed
from signal_server.wire.messages import Resume


class ScriptedJournal(RedisJournal):
    """Keeps what is appended; somebody else is the home."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    async def append(self, account: str, entries: object) -> None:
        assert isinstance(entries, list)
        self.entries += entries

    async def claim(
        self, account: str, node: str, known: int, deadline_ms: int, *, anew: bool
    ) -> Claim | None:
        return None

    @property
    def batches(self) -> list[Batch]:
        return [each for each in self.entries if isinstance(each, Batch)]


class Node(JournaledBackplane):
    """Nothing but what a post asks it for."""

    def __init__(self) -> None:
        self.node = "here"
        self.is_alone = False
        self.standby_allowance = Allowance(1000)

    @property
    def hears_redis(self) -> bool:
        return False


@pytest.fixture
def journal() -> ScriptedJournal:
    return ScriptedJournal()


@pytest.fixture
async def post(journal: ScriptedJournal, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Post]:
    monkeypatch.setattr(module, "WATCH_S", 0.01)
    monkeypatch.setattr(Standby, "start", lambda _: None)
    post = Post("a", Node(), journal, lambda _: Replica("a", board_for(1), Facts(10), 64))
    yield post
    await post.close()


async def test_a_parcel_for_a_link_that_is_gone_is_answered_with_a_farewell(
    post: Post, journal: ScriptedJournal
) -> None:
    post.deliver(Parcel("a", 5, 1, 0, 0, 0, []))
    post.deliver(Parcel("a", 7, 1, 20, 10, 0, []))
    post.deliver(Parcel("a", 7, 1, 30, 20, 0, []))
    await eventually(lambda: bool(journal.entries))
    await asyncio.sleep(0)
    assert journal.entries == [farewell(7, "here")], "once, and none for one that is known as cut"


async def test_a_link_that_hears_nothing_asks_for_an_answer(
    post: Post, journal: ScriptedJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    post.connections.add(5)
    post.relay(5, "{}")
    await eventually(lambda: len(journal.batches) == 1)
    link = journal.batches[0].link
    post.deliver(Parcel("a", link, 1, 10, 0, 1, []))
    monkeypatch.setattr(module, "PATIENCE_S", 0.02)
    await eventually(lambda: journal.batches[-1].number == 2)
    last = journal.batches[-1]
    assert last == Batch(link, "here", 2, last.fresh, [])


async def test_what_has_no_effect_is_written_again(
    post: Post, journal: ScriptedJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.02)
    post.connections.add(5)
    post.relay(5, "{}")
    await eventually(lambda: len(journal.batches) > 1)
    assert journal.batches[0] == journal.batches[1]


class AloneHome:
    """A home that hears that Redis is lost."""

    is_behind = is_alone = False

    def __init__(self) -> None:
        self.applied: list[Batch] = []

    def go_alone(self, link: int) -> None:
        self.is_alone = True

    def apply_alone(self, batch: Batch) -> None:
        self.applied.append(batch)


class Outlet:
    def __init__(self) -> None:
        self.closed: list[tuple[int, str]] = []

    def close(self, code: int, reason: str) -> None:
        self.closed.append((code, reason))


async def test_without_redis_who_has_just_said_hello_says_it_again(
    post: Post, journal: ScriptedJournal
) -> None:
    """The journal may have it: elsewhere the same session would have the same secret."""
    outlets = {5: Outlet(), 6: Outlet()}
    home, node = AloneHome(), post._plane
    node.speaker = SimpleNamespace(connections=outlets)  # type: ignore[misc]
    post.home = home  # type: ignore[assignment]
    post.connections.add(5)
    admission = Admission(
        permit=Permit(account="a", identity="i"), token_life_s=1, resume_secret="x"
    )
    resumed = Resumed(connection=6, admission=admission, resume=Resume("s", "x", 0))
    post.relay(5, "{}")
    post.submit(resumed)
    await eventually(lambda: bool(journal.entries))
    post.go_alone()
    assert home.is_alone
    assert [batch.events for batch in home.applied] == [[(5, "{}")]]
    assert (outlets[5].closed, outlets[6].closed) == ([], [(4000, "resume")])
    assert post.connections == {5}
    post.home = None


async def test_without_redis_nothing_waits_for_a_write_under_way(
    post: Post, journal: ScriptedJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(account: str, entries: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(journal, "append", hang)
    home, node = AloneHome(), post._plane
    node.speaker = SimpleNamespace(connections={})  # type: ignore[misc]
    post.home = home  # type: ignore[assignment]
    post.connections.add(5)
    post.relay(5, "first")
    await eventually(lambda: bool(post._link.pending))
    post.relay(5, "second")
    node.is_alone = True  # type: ignore[misc]
    post.go_alone()
    await eventually(lambda: len(home.applied) == 2)
    assert [batch.events for batch in home.applied] == [[(5, "first")], [(5, "second")]]
    post.home = None
