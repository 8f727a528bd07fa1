"""The agent between a fleet and a TURN server, each of which may go away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from turn_broker.fleet import agent as module
from turn_broker.fleet.agent import NodeAgent, start_agent
from turn_broker.fleet.contract import FleetUnavailable
from turn_broker.fleet.guard import GuardLimits, Reason
from turn_broker.fleet.memory import MemoryFleet
from turn_broker.fleet.messages import (
    DEFAULT_RING,
    Charge,
    NodeReport,
    RealmSecrets,
    Revocation,
    Terms,
    TokenRecord,
    Usage,
)
from turn_broker.fleet.turn_control import (
    ControlLost,
    SessionClosed,
    SessionEvent,
    SessionOpened,
    SessionUsed,
)
from turn_broker.secret_ring import RetiringSecret, SecretRing

NODE = "n1"


class Control:
    """A TURN server without a network."""

    software = "fake 1"
    doubted_records = 7

    def __init__(self) -> None:
        self.open: dict[str, SessionOpened] = {}
        self.secrets: list[tuple[str, ...]] = []
        self.draining: list[bool] = []
        self.is_up = True
        self.closed = False
        self._queue: asyncio.Queue[SessionEvent | None] = asyncio.Queue()

    def _check(self) -> None:
        if not self.is_up:
            raise ControlLost("down")

    def allocate(self, session: str, who: str = "alice.one", expiry: int = 0) -> None:
        username = f"{expiry or int(time.time()) + 600}:{who}"
        self.open[session] = SessionOpened(session=session, username=username, client="192.0.2.1")
        self._queue.put_nowait(self.open[session])

    def use(self, session: str, sent: int) -> None:
        self._queue.put_nowait(SessionUsed(session=session, sent_bytes=sent, received_bytes=0))

    def go_down(self) -> None:
        self.is_up = False
        self.open.clear()
        self._queue.put_nowait(None)

    async def set_secrets(self, secrets: tuple[str, ...]) -> None:
        self._check()
        self.secrets.append(secrets)

    async def drain(self, on: bool) -> None:
        self._check()
        self.draining.append(on)

    async def cut(self, session: str) -> bool:
        self._check()
        if self.open.pop(session, None) is None:
            return False
        self._queue.put_nowait(SessionClosed(session=session))
        return True

    async def events(self) -> AsyncGenerator[SessionEvent, None]:
        self._check()
        self._queue = asyncio.Queue()
        for each in list(self.open.values()):
            yield each
        while (event := await self._queue.get()) is not None:
            yield event
        raise ControlLost("gone")

    async def close(self) -> None:
        self.closed = True


class Fleet(MemoryFleet):
    """Can be out of reach."""

    is_up = True
    batches: list[str]
    told = 0
    """Reports."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self.asked: set[str] = set()
        """Tokens that were looked up."""

    def _check(self) -> None:
        if not self.is_up:
            raise FleetUnavailable

    async def token(self, opaque_id: str) -> TokenRecord | None:
        self._check()
        self.asked.add(opaque_id)
        return await super().token(opaque_id)

    async def charge(self, charges: Sequence[Charge], batch: str = "") -> dict[str, Usage]:
        self.batches = [*getattr(self, "batches", []), batch]
        self._check()
        return await super().charge(charges, batch)

    async def report(self, report: NodeReport) -> None:
        self._check()
        await super().report(report)
        self.told += 1


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {
        "TICK_S": 0.01,
        "CHARGE_INTERVAL_S": 0.02,
        "LOOKUP_INTERVAL_S": 0.02,
        "REPORT_INTERVAL_S": 0.02,
        "FIRST_RETRY_S": 0.01,
        "LAST_RETRY_S": 0.05,
    }.items():
        monkeypatch.setattr(module, name, seconds)


class World:
    def __init__(self, **limits: Any) -> None:
        self.control = Control()
        self.fleet = Fleet(time.time)
        self.limits = GuardLimits(**{"grace_s": 0.0, **limits})
        self.agent: NodeAgent

    def record(self, who: str = "alice.one", expiry: int = 0, **terms: Any) -> None:
        now = int(time.time())
        self.fleet.record(
            TokenRecord(
                id=who,
                account="AC1",
                issued_at=now,
                expires_at=expiry or now + 600,
                dialect="native",
                terms=Terms(**terms),
            )
        )

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110 - the agent tells nobody
                await asyncio.sleep(0.002)


@asynccontextmanager
async def running(**limits: Any) -> AsyncIterator[World]:
    world = World(**limits)
    async with start_agent(
        NODE, world.fleet, world.control, clock=time.time, limits=world.limits
    ) as agent:
        world.agent = agent
        await asyncio.sleep(0.01)
        yield world
    await world.fleet.close()
    assert world.control.closed


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with running() as world:
        yield world


def realm(version: int, *rings: SecretRing) -> RealmSecrets:
    names = [DEFAULT_RING, "AC1", "AC2"]
    return RealmSecrets(version=version, rings=dict(zip(names, rings, strict=False)))


async def reported(world: World) -> NodeReport:
    """Made after this was called."""
    enough = world.fleet.told + 2
    await world.until(lambda: world.fleet.told >= enough)
    (report,) = await world.fleet.reports()
    return report


async def test_secrets_are_in_force_before_their_version_is_reported(world: World) -> None:
    world.control.is_up = False
    await world.fleet.replace_secrets(realm(1, SecretRing("a")))
    assert (await reported(world)).secrets_version == 0
    world.control.go_down()
    world.control.is_up = True
    await world.until(lambda: world.agent.report().secrets_version == 1)
    assert world.control.secrets[-1] == ("a",)
    await world.fleet.replace_secrets(realm(2, SecretRing("a", next="b")))
    await world.until(lambda: world.agent.report().secrets_version == 2)
    assert ("a", "b") in world.control.secrets


async def test_a_retired_secret_is_removed_when_its_time_has_come(world: World) -> None:
    old = RetiringSecret("old", int(time.time()) + 2)
    await world.fleet.replace_secrets(realm(1, SecretRing("new", (old,))))
    await world.until(lambda: bool(world.control.secrets))
    await world.until(lambda: len(world.control.secrets) == 2)
    assert world.control.secrets == [("new", "old"), ("new",)]


async def test_a_revocation_is_answered_with_what_was_cut(world: World) -> None:
    world.control.allocate("s1")
    world.control.allocate("s2", "bob.one")
    await world.until(lambda: len(world.agent.guard) == 2)
    await reported(world)
    cut = await world.fleet.revoke(
        Revocation(scope="identity", name="alice", until=int(time.time()) + 60)
    )
    assert (cut.relays, cut.nodes, list(world.control.open)) == (1, (NODE,), ["s2"])
    assert world.agent.report().cut == 1


async def test_draining_is_done_and_reported_and_done_again_after_a_restart(world: World) -> None:
    await world.fleet.drain(NODE, True)
    await world.until(lambda: world.agent.report().is_draining)
    world.control.go_down()
    await world.until(lambda: not world.agent.report().is_draining)
    world.control.is_up = True
    await world.until(lambda: world.agent.report().is_draining)
    await world.fleet.drain(NODE, False)
    await world.until(lambda: not world.agent.report().is_draining)
    assert world.control.draining[-2:] == [True, False]


async def test_usage_is_charged_once_though_the_fleet_was_away(world: World) -> None:
    world.record()
    world.control.allocate("s1")
    await world.until(lambda: len(world.agent.guard) == 1)
    world.fleet.is_up = False
    world.control.use("s1", 70)
    await world.until(lambda: len(getattr(world.fleet, "batches", [])) > 5)
    assert len(set(world.fleet.batches[-3:])) == 1
    world.fleet.is_up = True
    await world.until(lambda: not world.agent.guard.charges())
    usage = await world.fleet.usage("account", "AC1")
    assert (usage.sent_bytes, usage.allocations) == (70, 1)
    assert world.agent.counters.fleet_lost > 0


async def test_what_is_known_holds_without_the_fleet(world: World) -> None:
    expiry = int(time.time()) + 2
    world.record(expiry=expiry, hard_expiry=True)
    world.record("bob.one", max_bytes=10)
    world.control.allocate("s1", expiry=expiry)
    world.control.allocate("s2", "bob.one")
    await world.until(lambda: world.fleet.asked == {"alice.one", "bob.one"})
    world.fleet.is_up = False
    world.control.use("s2", 11)
    await world.until(lambda: not world.control.open)
    assert world.agent.counters.cut == {Reason.EXPIRED: 1, Reason.TOKEN_BYTES: 1}


async def test_a_quota_of_the_account_cuts(world: World) -> None:
    world.record(account_bytes=100, identity_bytes=1000)
    world.control.allocate("s1")
    await world.until(lambda: len(world.agent.guard) == 1)
    world.control.use("s1", 101)
    await world.until(lambda: not world.control.open)
    assert world.agent.counters.cut == {Reason.ACCOUNT_BYTES: 1}


async def test_a_lost_server_is_followed_again_and_cuts_are_made_up_for(world: World) -> None:
    world.control.allocate("s1")
    await world.until(lambda: len(world.agent.guard) == 1)
    world.control.go_down()
    await world.until(lambda: len(world.agent.guard) == 0)
    cut = await world.fleet.revoke(
        Revocation(scope="token", name="alice.one", until=int(time.time()) + 60)
    )
    assert cut.relays == 0
    world.control.allocate("s1")
    world.control.is_up = True
    await world.until(lambda: not world.control.open)
    assert world.agent.counters.cut == {Reason.REVOKED: 1}
    assert world.agent.counters.control_lost > 0


async def test_a_cut_that_fails_is_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turn_broker.fleet.guard.RETRY_CUT_S", 0.05)
    world.control.allocate("s1")
    await world.until(lambda: len(world.agent.guard) == 1)
    world.control.is_up = False
    await world.fleet.revoke(
        Revocation(scope="token", name="alice.one", until=int(time.time()) + 60)
    )
    assert world.control.open
    world.control.is_up = True
    await world.until(lambda: not world.control.open)


async def test_the_report_tells_of_the_node(world: World) -> None:
    world.control.allocate("s1")
    world.control.use("s1", 5)
    await world.until(lambda: world.agent.report().sent_bytes == 5)
    report = await reported(world)
    assert (report.node, report.software, report.live) == (NODE, "fake 1", 1)
    assert [each.id for each in world.agent.report().sessions] == ["alice.one"]
    assert (report.cut, report.cuts, report.doubted) == (0, {}, 7)
    await world.fleet.revoke(Revocation(scope="token", name="alice.one", until=2**40), 0)
    await world.until(lambda: world.agent.report().cut == 1)
    assert world.agent.report().cuts == {"revoked": 1}


async def test_a_flaw_of_ours_is_counted_and_the_rest_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def flawed(on: bool) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr(world.control, "drain", flawed)
        await world.fleet.drain(NODE, True)
        await world.until(lambda: world.agent.counters.mistakes > 0)
        world.control.allocate("s1")
        await world.until(lambda: len(world.agent.guard) == 1)
    await world.until(lambda: world.agent.report().is_draining)
