"""What holds for every fleet: in this process, in a Redis, and in a Redis Cluster."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from coturn import free_port
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis_server import RedisServer, has_redis, start_redis, start_sentinel
from turn_client import DEADLINE, eventually

from turn_broker.fleet.contract import Fleet, FleetFull, FleetUnavailable
from turn_broker.fleet.memory import MemoryFleet
from turn_broker.fleet.messages import (
    DEFAULT_RING,
    Charge,
    Cut,
    Drain,
    HealthReport,
    LiveSession,
    NodeReport,
    Order,
    RealmSecrets,
    Revocation,
    Revoke,
    SeenUrl,
    Terms,
    TokenRecord,
    Usage,
    UseSecrets,
)
from turn_broker.fleet.redis import RedisFleet
from turn_broker.fleet.redis_url import CALL_TIMEOUT_S, connect
from turn_broker.secret_ring import SecretRing

AC1, AC2 = "AC" + "1" * 32, "AC" + "2" * 32
KINDS = [
    "memory",
    pytest.param("redis", marks=pytest.mark.redis),
    pytest.param("cluster", marks=pytest.mark.redis),
]


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    if not has_redis():
        pytest.skip("no redis-server")
    with start_redis() as server:
        yield server


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisServer]:
    """One master with every slot: keys of two slots in one command are refused as in a big one."""
    if not has_redis():
        pytest.skip("no redis-server")
    with start_redis("--cluster-enabled", "yes", "--cluster-port", str(free_port())) as server:
        server.command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        server.wait_for("CLUSTER", "INFO", expected="cluster_state:ok")
        yield server


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest) -> str:
    """Empty for memory."""
    if request.param == "memory":
        return ""
    server: RedisServer = request.getfixturevalue(request.param)
    if request.param == "redis":
        return server.url
    return f"redis+cluster://127.0.0.1:{server.port}"


@asynccontextmanager
async def fleet_at(url: str, realm: str | None = None, **options: Any) -> AsyncIterator[Fleet]:
    """A fleet of a realm of its own."""
    if not url:
        memory = MemoryFleet(time.time)
        yield memory
        await memory.close()
        return
    fleet = RedisFleet(connect(url), realm or secrets.token_hex(4), time.time, **options)
    await fleet.start()
    try:
        yield fleet
    finally:
        await fleet.close()


@pytest.fixture
async def fleet(url: str) -> AsyncIterator[Fleet]:
    async with fleet_at(url) as fleet:
        yield fleet


def token(name: str = "alice.1", account: str = AC1, ttl: int = 60, **more: Any) -> TokenRecord:
    now = int(time.time())
    return TokenRecord(
        id=name, account=account, issued_at=now, expires_at=now + ttl, dialect="native", **more
    )


def report(node: str, *live: str, version: int = 0) -> NodeReport:
    sessions = tuple(
        LiveSession(session=str(number), id=name, since=1) for number, name in enumerate(live)
    )
    return NodeReport(
        node=node,
        at=int(time.time()),
        software="test",
        secrets_version=version,
        sessions=sessions,
        live=len(live),
    )


def realm_secrets(version: int, active: str = "s" * 32) -> RealmSecrets:
    return RealmSecrets(version=version, rings={DEFAULT_RING: SecretRing(active)})


def revoked(name: str = "alice.1", scope: Any = "token", ttl: int = 60) -> Revocation:
    return Revocation(scope=scope, name=name, until=int(time.time()) + ttl)


class Agent:
    """Hears orders, and answers revocations with `cut`."""

    def __init__(self, fleet: Fleet, node: str, cut: int | None = 0) -> None:
        self.heard: list[Order] = []
        self._fleet, self._node, self._cut = fleet, node, cut
        self._changed = asyncio.Event()

    async def run(self) -> None:
        orders = self._fleet.orders(self._node)
        assert isinstance(orders, AsyncGenerator)
        async with aclosing(orders):
            async for order in orders:
                self.heard.append(order)
                self._changed.set()
                if isinstance(order, Revoke) and self._cut is not None:
                    with contextlib.suppress(FleetUnavailable):
                        await self._fleet.answer(order.ticket, self._node, self._cut)

    async def until_heard(self, order: Order, timeout_s: float = DEADLINE) -> None:
        async with asyncio.timeout(timeout_s):
            while order not in self.heard:
                self._changed.clear()
                await self._changed.wait()

    def names(self) -> list[str]:
        return [order.revocation.name for order in self.heard if isinstance(order, Revoke)]


@asynccontextmanager
async def agent(fleet: Fleet, node: str, cut: int | None = 0) -> AsyncIterator[Agent]:
    """Listens, and has heard the state."""
    one = Agent(fleet, node, cut)
    task = asyncio.create_task(one.run())
    try:
        await one.until_heard(Drain(node, node in await fleet.draining()))
        yield one
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


# Tokens


async def test_a_token_is_known_until_it_expires(fleet: Fleet) -> None:
    known = token(label="room 7", terms=Terms(hard_expiry=True, max_bytes=9, address="1.2.3.4"))
    fleet.record(known)
    fleet.record(token("old.1", ttl=-5))

    assert await fleet.token("alice.1") == known
    assert await fleet.token("old.1") is None
    assert await fleet.token("alice.2") is None
    assert known.identity == "alice"
    assert fleet.lost_records == 0


async def test_many_tokens_at_once(fleet: Fleet) -> None:
    for number in range(2000):
        fleet.record(token(f"alice.{number}"))

    assert await fleet.token("alice.1999") is not None
    assert await fleet.token("alice.0") is not None


# Revocations


async def test_a_revocation_reaches_agents_and_counts_what_they_cut(fleet: Fleet) -> None:
    await fleet.report(report("a"))
    await fleet.report(report("b"))
    async with agent(fleet, "a", 2) as a, agent(fleet, "b", 3):
        async with asyncio.timeout(DEADLINE):
            cut = await fleet.revoke(revoked(), wait_s=600)

        assert cut == Cut(relays=5, nodes=("a", "b"), silent=())
        assert a.names() == ["alice.1"]


async def test_a_node_that_does_not_answer_is_named(fleet: Fleet) -> None:
    await fleet.report(report("a"))
    await fleet.report(report("mute"))
    async with agent(fleet, "a", 1), agent(fleet, "mute", None):
        cut = await fleet.revoke(revoked("bob", "identity"), wait_s=1)

    assert cut == Cut(relays=1, nodes=("a",), silent=("mute",))


async def test_without_agents_nobody_is_waited_for(fleet: Fleet) -> None:
    async with asyncio.timeout(DEADLINE):
        cut = await fleet.revoke(revoked(), wait_s=600)

    assert cut == Cut(relays=0, nodes=(), silent=())


async def test_what_is_revoked(fleet: Fleet) -> None:
    await fleet.revoke(revoked("alice.1"), 0)
    await fleet.revoke(revoked("bob", "identity"), 0)
    await fleet.revoke(revoked("carol.1", ttl=-5), 0)

    assert fleet.is_revoked("alice.1")
    assert not fleet.is_revoked("alice.2")
    assert not fleet.is_revoked("alice")
    assert fleet.is_revoked("bob.1")
    assert fleet.is_revoked("bob")
    assert not fleet.is_revoked("carol.1")
    assert {one.name for one in await fleet.revocations()} == {"alice.1", "bob"}


async def test_the_longer_of_two_revocations_holds(fleet: Fleet) -> None:
    longer = revoked(ttl=500)
    await fleet.revoke(longer, 0)
    await fleet.revoke(revoked(ttl=60), 0)

    assert await fleet.revocations() == (longer,)


async def test_who_repeats_himself_takes_no_more_room(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one client could keep all others from revoking."""
    monkeypatch.setattr("turn_broker.fleet.redis.MAX_REVOCATIONS", 2)
    for number in range(9):
        await fleet.revoke(revoked(ttl=60 + number), 0)
    if isinstance(fleet, RedisFleet):
        await fleet.revoke(revoked("bob.1"), 0)
        with pytest.raises(FleetFull):
            await fleet.revoke(revoked("carol.1"), 0)
        assert fleet.is_revoked("bob.1")
        assert not fleet.is_revoked("carol.1")
        assert len(await fleet.revocations()) == 2
    else:
        assert len(await fleet.revocations()) == 1


async def test_revocations_that_have_run_out_leave_room(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turn_broker.fleet.redis.MAX_REVOCATIONS", 2)
    for number in range(9):
        await fleet.revoke(revoked(f"alice.{number}", ttl=-1), 0)
    await fleet.revoke(revoked("bob.1"), 0)
    assert [one.name for one in await fleet.revocations()] == ["bob.1"]


async def test_a_late_or_invented_answer_does_no_harm(fleet: Fleet) -> None:
    await fleet.report(report("a"))
    async with agent(fleet, "a", 1) as one:
        await fleet.answer("no such ticket", "a", 7)
        assert (await fleet.revoke(revoked(), wait_s=DEADLINE)).relays == 1
        (order,) = (order for order in one.heard if isinstance(order, Revoke))
        await fleet.answer(order.ticket, "a", 7)


# Usage


async def test_charges_add_up_for_token_identity_and_account(fleet: Fleet) -> None:
    for name in ("alice.1", "alice.2"):
        fleet.record(token(name))
    await eventually(lambda: _is_written(fleet))
    charges = [
        Charge(id="alice.1", sent_bytes=10, received_bytes=1, opened=1),
        Charge(id="alice.2", sent_bytes=100, opened=1),
        Charge(id="alice.1", sent_bytes=5),
        Charge(id="stranger.1", sent_bytes=7, opened=1),
    ]

    totals = await fleet.charge(charges)

    assert totals == {
        "alice.1": Usage(sent_bytes=15, received_bytes=1, allocations=1),
        "alice.2": Usage(sent_bytes=100, allocations=1),
        "stranger.1": Usage(sent_bytes=7, allocations=1),
    }
    assert totals["alice.1"].bytes == 16
    both = Usage(sent_bytes=115, received_bytes=1, allocations=2)
    assert await fleet.usage("identity", "alice") == both
    assert await fleet.usage("account", AC1) == both
    assert await fleet.usage("account", AC2) == Usage()
    assert (await fleet.usage("identity", "stranger")).sent_bytes == 7
    assert await fleet.usage("token", "nobody.1") == Usage()
    names = [("identity", "alice"), ("account", AC1), ("token", "nobody.1")]
    assert await fleet.totals(names) == dict(zip(names, [both, both, Usage()], strict=True))
    assert await fleet.totals([]) == {}
    assert await fleet.charge([]) == {}


async def test_a_repeated_batch_counts_once(fleet: Fleet) -> None:
    charges = [Charge(id=f"alice.{number}", sent_bytes=1) for number in range(700)]

    await fleet.charge(charges, "batch-1")
    totals = await fleet.charge(charges, "batch-1")

    assert totals["alice.699"].sent_bytes == 1
    assert (await fleet.usage("identity", "alice")).sent_bytes == 700
    await fleet.charge(charges, "batch-2")
    assert (await fleet.usage("identity", "alice")).sent_bytes == 1400


async def test_live_allocations_are_those_of_the_reports(fleet: Fleet) -> None:
    fleet.record(token("alice.1"))
    await eventually(lambda: _is_written(fleet))
    await fleet.report(report("a", "alice.1", "alice.1", "alice.2", "bob.1"))
    await fleet.report(report("b", "alice.1"))

    assert (await fleet.usage("token", "alice.1")).live == 3
    assert (await fleet.usage("identity", "alice")).live == 4
    assert (await fleet.usage("account", AC1)).live == 3
    assert (await fleet.usage("token", "carol.1")).live == 0
    await fleet.report(report("a"))
    assert (await fleet.usage("token", "alice.1")).live == 1


def _is_written(fleet: Fleet) -> bool:
    return not isinstance(fleet, RedisFleet) or not fleet._records._pending


AMOUNTS = st.integers(0, 2**40)
CHARGES = st.builds(
    Charge,
    id=st.sampled_from(["a.1", "a.2", "b.1"]),
    sent_bytes=AMOUNTS,
    received_bytes=AMOUNTS,
    opened=st.integers(0, 3),
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(batches=st.lists(st.tuples(st.lists(CHARGES, max_size=6), st.booleans()), max_size=5))
async def test_no_byte_is_lost_or_counted_twice(
    url: str, batches: list[tuple[list[Charge], bool]]
) -> None:
    """Some batches are sent twice, as after an answer that was lost."""
    async with fleet_at(url) as fleet:
        made: list[Charge] = []
        for number, (charges, is_repeated) in enumerate(batches):
            for _ in range(2 if is_repeated else 1):
                await fleet.charge(charges, f"batch-{number}")
            made += charges
        for scope, name in (("token", "a.1"), ("token", "b.1"), ("identity", "a")):
            own = [c for c in made if c.id == name or c.id.startswith(f"{name}.")]
            assert await fleet.usage(scope, name) == Usage(
                sent_bytes=sum(c.sent_bytes for c in own),
                received_bytes=sum(c.received_bytes for c in own),
                allocations=sum(c.opened for c in own),
            )


# Nodes


async def test_reports_are_one_for_each_node(fleet: Fleet) -> None:
    assert await fleet.reports() == ()
    await fleet.report(report("a", version=1))
    newest = report("a", "alice.1", version=2)
    await fleet.report(newest)
    await fleet.report(report("b"))

    assert sorted((one.node, one.secrets_version) for one in await fleet.reports()) == [
        ("a", 2),
        ("b", 0),
    ]
    assert msgspec.structs.replace(newest, sessions=()) in await fleet.reports()


async def test_health_is_one_report_for_each_observer(fleet: Fleet) -> None:
    assert await fleet.health() == ()
    up = SeenUrl(node="a", url="turn:a:3478?transport=udp", works=True, verdict="up")
    down = SeenUrl(node="a", url=up.url, works=False, verdict="down", reason="timeout")
    await fleet.report_health(HealthReport(observer="one", urls=(down,)))
    await fleet.report_health(HealthReport(observer="one", urls=(up,)))
    await fleet.report_health(HealthReport(observer="two", urls=(down,)))
    assert {one.observer: one.urls for one in await fleet.health()} == {
        "one": (up,),
        "two": (down,),
    }


async def test_draining_is_remembered_and_ordered_to_that_node_alone(fleet: Fleet) -> None:
    async with agent(fleet, "a") as a, agent(fleet, "b") as b:
        await fleet.drain("a", True)
        await a.until_heard(Drain("a", True))
        assert await fleet.draining() == {"a"}
        async with agent(fleet, "a") as later:
            assert Drain("a", True) in later.heard
        await fleet.drain("b", True)
        await fleet.drain("b", True)
        await b.until_heard(Drain("b", True))
        await fleet.drain("a", False)
        await eventually(lambda: a.heard[-1] == Drain("a", False))
        assert all(isinstance(order, Drain) and order.node == "b" for order in b.heard)
    assert await fleet.draining() == {"b"}


# Secrets


async def test_secrets_are_compared_and_set(fleet: Fleet) -> None:
    assert await fleet.secrets() is None
    assert not await fleet.replace_secrets(realm_secrets(2))
    assert await fleet.replace_secrets(realm_secrets(1))
    assert not await fleet.replace_secrets(realm_secrets(1, "other"))
    assert await fleet.secrets() == realm_secrets(1)
    async with agent(fleet, "a") as one:
        assert one.heard[0] == UseSecrets(realm_secrets(1))
        ring = SecretRing("a").begin("b", 5).promote(6, 60).begin("c", 7)
        newest = RealmSecrets(version=2, rings={DEFAULT_RING: ring, AC1: SecretRing("own")})
        assert await fleet.replace_secrets(newest)
        await one.until_heard(UseSecrets(newest))
    assert await fleet.secrets() == newest
    assert not await fleet.replace_secrets(realm_secrets(4))


async def test_of_many_who_replace_one_wins(fleet: Fleet) -> None:
    outcomes = await asyncio.gather(
        *(fleet.replace_secrets(realm_secrets(1, f"secret-{n}")) for n in range(10))
    )

    winner = outcomes.index(True)
    assert outcomes.count(True) == 1
    assert await fleet.secrets() == realm_secrets(1, f"secret-{winner}")


# Orders


async def test_an_agent_begins_with_what_holds_and_then_hears_each_order(fleet: Fleet) -> None:
    await fleet.replace_secrets(realm_secrets(1))
    await fleet.revoke(revoked("alice.1"), 0)
    await fleet.revoke(revoked("gone.1", ttl=-5), 0)
    async with agent(fleet, "a") as one:
        await fleet.revoke(revoked("bob.1"), 0)
        await fleet.replace_secrets(realm_secrets(2))
        await one.until_heard(UseSecrets(realm_secrets(2)))

        assert one.heard[0] == UseSecrets(realm_secrets(1))
        assert one.names() == ["alice.1", "bob.1"]


async def test_closing_ends_every_orders(url: str) -> None:
    async with fleet_at(url) as fleet:
        one = Agent(fleet, "a")
        task = asyncio.create_task(one.run())
        await one.until_heard(Drain("a", False))
        await fleet.close()
        await asyncio.wait_for(task, DEADLINE)


# A Redis that goes away


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """One that a test may break."""
    if not has_redis():
        pytest.skip("no redis-server")
    with start_redis() as server:
        yield server


@pytest.mark.redis
async def test_a_redis_that_dies_and_comes_back(own_redis: RedisServer) -> None:
    """What was written is there, what is written meanwhile follows, and so do the orders."""
    url = own_redis.url
    async with fleet_at(url, "realm") as fleet, fleet_at(url, "realm") as other:
        fleet.record(token("alice.1"))
        await fleet.replace_secrets(realm_secrets(1))
        async with agent(fleet, "a") as one:
            own_redis.kill()
            fleet.record(token("alice.2"))
            with pytest.raises(FleetUnavailable):
                await fleet.usage("token", "alice.1")
            with pytest.raises(FleetUnavailable):
                await fleet.drain("a", True)
            own_redis.start()
            await other.replace_secrets(realm_secrets(2))
            await other.revoke(revoked("alice.1"), 0)
            await other.drain("a", True)
            await one.until_heard(Drain("a", True))
            await one.until_heard(UseSecrets(realm_secrets(2)))
            assert one.names()[-1] == "alice.1"
            await eventually(lambda: fleet.is_revoked("alice.1"))
            await eventually(lambda: _is_written(fleet))
            assert await other.token("alice.2") is not None
            assert await other.token("alice.1") is not None
            await fleet.report(report("a"))
            assert (await other.revoke(revoked("bob.1"), DEADLINE)).nodes == ("a",)


@pytest.mark.redis
async def test_an_answer_is_heard_that_was_given_while_nobody_listened(redis: RedisServer) -> None:
    """As when an agent finds Redis again before the broker does that revokes."""
    realm = secrets.token_hex(4)
    deaf = RedisFleet(connect(redis.url), realm, time.time)
    answers = f"parley:turn:{{{realm}}}:answers"
    async with fleet_at(redis.url, realm) as fleet, agent(fleet, "a", 3):
        await fleet.report(report("a"))
        cut = asyncio.create_task(deaf.revoke(revoked(), DEADLINE))
        await eventually(lambda: redis.command("XLEN", answers) == ":1\r\n")
        await deaf.start()
        try:
            assert await cut == Cut(relays=3, nodes=("a",), silent=())
        finally:
            await deaf.close()


@pytest.mark.redis
async def test_a_redis_that_hangs_is_unavailable_in_time(own_redis: RedisServer) -> None:
    async with fleet_at(own_redis.url) as fleet, agent(fleet, "a") as one:
        own_redis.hang()
        fleet.record(token())
        assert not fleet.is_revoked("alice.1")
        began = time.monotonic()
        outcomes = await asyncio.gather(
            fleet.token("bob.1"),
            fleet.revoke(revoked()),
            fleet.revocations(),
            fleet.charge([Charge(id="alice.1", sent_bytes=5)], "batch"),
            fleet.usage("account", AC1),
            fleet.report(report("a")),
            fleet.reports(),
            fleet.drain("a", True),
            fleet.draining(),
            fleet.secrets(),
            fleet.replace_secrets(realm_secrets(1)),
            fleet.answer("ticket", "a", 1),
            return_exceptions=True,
        )
        assert time.monotonic() - began < 2 * CALL_TIMEOUT_S, "no call waits twice"
        assert [type(one) for one in outcomes] == [FleetUnavailable] * len(outcomes)
        own_redis.resume()
        await fleet.charge([Charge(id="alice.1", sent_bytes=5)], "batch")
        assert (await fleet.usage("token", "alice.1")).sent_bytes == 5
        await fleet.drain("a", True)
        await one.until_heard(Drain("a", True))


@pytest.mark.redis
async def test_a_redis_that_forgets_everything(own_redis: RedisServer) -> None:
    """Orders count from 1 again, and an agent hears them all the same."""
    async with fleet_at(own_redis.url) as fleet, agent(fleet, "a") as one:
        for number in range(5):
            await fleet.revoke(revoked(f"alice.{number}"), 0)
        await eventually(lambda: len(one.names()) == 5)
        own_redis.command("FLUSHALL")
        await fleet.drain("a", True)
        await one.until_heard(Drain("a", True))
        assert fleet.is_revoked("alice.0")
        async with asyncio.timeout(DEADLINE):
            while len(await fleet.revocations()) < 5:  # told by those who remember  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@pytest.mark.redis
async def test_a_fleet_starts_before_its_redis(own_redis: RedisServer) -> None:
    own_redis.kill()
    async with fleet_at(own_redis.url) as fleet:
        with pytest.raises(FleetUnavailable):
            await fleet.secrets()
        listening = Agent(fleet, "a")
        task = asyncio.create_task(listening.run())
        own_redis.start()
        await listening.until_heard(Drain("a", False))
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.mark.redis
async def test_an_agent_that_is_slow_is_told_the_state_anew(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits inside an order while the stream is trimmed past it."""
    monkeypatch.setattr("turn_broker.fleet.redis_scripts.MAX_ENTRIES", 1)
    realm = secrets.token_hex(4)
    async with fleet_at(redis.url, realm) as fleet:
        orders = fleet.orders("a")
        assert isinstance(orders, AsyncGenerator)
        async with aclosing(orders):
            assert await anext(orders) == Drain("a", False)
            for number in range(300):
                await fleet.drain("a", number % 2 == 0)
            redis.command("XTRIM", f"parley:turn:{{{realm}}}:orders", "MAXLEN", "10")
            await fleet.drain("a", True)
            async with asyncio.timeout(DEADLINE):
                while await anext(orders) != Drain("a", True):
                    pass


@pytest.mark.redis
async def test_a_master_that_dies_under_sentinel(own_redis: RedisServer) -> None:
    """Its replica takes over, and agents and brokers find it."""
    replica_of = ("--replicaof", "127.0.0.1", str(own_redis.port))
    with (
        start_redis(*replica_of) as replica,
        start_sentinel(own_redis, "main") as sentinel,
    ):
        replica.wait_for("INFO", "replication", expected="master_link_status:up")
        sentinel.wait_for("SENTINEL", "replicas", "main", expected=str(replica.port))
        url = f"redis+sentinel://127.0.0.1:{sentinel.port}/main"
        async with fleet_at(url) as fleet, agent(fleet, "a") as one:
            await fleet.replace_secrets(realm_secrets(1))
            await one.until_heard(UseSecrets(realm_secrets(1)))
            own_redis.command("WAIT", "1", "5000")
            own_redis.kill()
            replica.wait_for("ROLE", expected="master")

            async with asyncio.timeout(2 * DEADLINE):
                while True:
                    with contextlib.suppress(FleetUnavailable):
                        await fleet.drain("a", True)
                        break
            await one.until_heard(Drain("a", True))
            assert await fleet.secrets() == realm_secrets(1)


@pytest.mark.redis
async def test_tokens_that_redis_never_got_are_counted(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turn_broker.fleet.redis_records.MAX_PENDING", 3)
    monkeypatch.setattr("turn_broker.fleet.redis_records.FLUSH_S", 0.05)
    own_redis.kill()
    async with fleet_at(own_redis.url) as fleet:
        for number in range(5):
            fleet.record(token(f"alice.{number}"))
        assert await fleet.token("alice.0") is not None
        assert fleet.lost_records == 2
        await eventually(lambda: getattr(fleet, "failures", 0) > 0)

    assert fleet.lost_records == 5


@pytest.mark.redis
async def test_what_another_version_wrote_is_passed_over(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    realm = secrets.token_hex(4)
    key = f"parley:turn:{{{realm}}}:"
    redis.command("SET", f"{key}token:alice.1", "{}")
    redis.command("HSET", f"{key}revoked", "token:alice.1", "[]")
    async with fleet_at(redis.url, realm) as fleet, agent(fleet, "a") as one:
        assert await fleet.token("alice.1") is None
        assert await fleet.revocations() == ()
        redis.command("XADD", f"{key}orders", "0-*", "order", "{}")
        redis.command("XADD", f"{key}orders", "0-*", "other", "{}")
        redis.command("XADD", f"{key}answers", "0-*", "ticket", "x")
        await fleet.drain("a", True)
        await one.until_heard(Drain("a", True))
        await fleet.report(report("a"))
        assert (await fleet.revoke(revoked(), DEADLINE)).nodes == ("a",)
    assert "another version" in caplog.text


# Secrets at rest


@pytest.mark.redis
async def test_sealed_secrets_do_not_lie_in_redis(redis: RedisServer) -> None:
    realm, key = secrets.token_hex(4), "seal-key-" * 5
    async with (
        fleet_at(redis.url, realm, seal_key=key) as fleet,
        fleet_at(redis.url, realm, seal_key=key) as other,
        fleet_at(redis.url, realm, seal_key="another " * 5) as stranger,
        fleet_at(redis.url, realm) as keyless,
    ):
        assert await fleet.replace_secrets(realm_secrets(1, "very-secret"))

        assert await other.secrets() == realm_secrets(1, "very-secret")
        assert "very-secret" not in redis.command("GET", f"parley:turn:{{{realm}}}:secrets")
        assert "very-secret" not in redis.command(
            "XRANGE", f"parley:turn:{{{realm}}}:orders", "-", "+"
        )
        for wrong in (stranger, keyless):
            with pytest.raises(FleetUnavailable, match="another key"):
                await wrong.secrets()


@pytest.mark.redis
async def test_realms_share_nothing(redis: RedisServer) -> None:
    async with fleet_at(redis.url, "a}b") as one, fleet_at(redis.url, "{a") as other:
        await one.replace_secrets(realm_secrets(1))
        await one.drain("n", True)

        assert await other.secrets() is None
        assert await other.draining() == frozenset()


# A state file


async def test_a_state_file_outlives_the_process(tmp_path: Path) -> None:
    path = tmp_path / "fleet.json"
    first = MemoryFleet(time.time, path)
    await first.replace_secrets(realm_secrets(1))
    await first.drain("a", True)
    await first.revoke(revoked("alice.1"), 0)
    await first.revoke(revoked("gone.1", ttl=-5), 0)

    second = MemoryFleet(time.time, path)

    assert path.stat().st_mode & 0o777 == 0o600
    assert await second.secrets() == realm_secrets(1)
    assert await second.draining() == {"a"}
    assert [one.name for one in await second.revocations()] == ["alice.1"]
    assert second.is_revoked("alice.1")
    assert list(tmp_path.iterdir()) == [path]  # noqa: ASYNC240 - a folder in memory


async def test_what_cannot_be_written_does_not_hold(tmp_path: Path) -> None:
    fleet = MemoryFleet(time.time, tmp_path / "missing" / "fleet.json")

    for change in (fleet.replace_secrets(realm_secrets(1)), fleet.drain("a", True)):
        with pytest.raises(FleetUnavailable, match="cannot be written"):
            await change
    with pytest.raises(FleetUnavailable):
        await fleet.revoke(revoked("alice.1"), 0)

    assert await fleet.secrets() is None
    assert await fleet.draining() == frozenset()
    assert not fleet.is_revoked("alice.1")


async def test_a_state_file_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "fleet.json"
    path.write_bytes(b"{")

    with pytest.raises(ValueError, match="no state file"):
        MemoryFleet(time.time, path)


# Bounds of memory


async def test_memory_forgets_what_is_old_and_counts_what_it_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("turn_broker.fleet.memory.MAX_TOKENS", 10)
    monkeypatch.setattr("turn_broker.fleet.memory.MAX_REVOCATIONS", 2)
    now = time.time()
    fleet = MemoryFleet(lambda: now)
    for number in range(12):
        fleet.record(token(f"alice.{number}", ttl=100))
    await fleet.report(report("a"))

    assert fleet.lost_records == 2
    assert await fleet.token("alice.1") is None
    assert await fleet.token("alice.2") is not None
    for name in ("alice.1", "alice.2"):
        await fleet.revoke(revoked(name), 0)
    with pytest.raises(FleetFull):
        await fleet.revoke(revoked("alice.3"), 0)
    await fleet.revoke(revoked("alice.2", ttl=70), 0)
    now += 200
    assert await fleet.token("alice.11") is None
    assert await fleet.reports() == ()
    await fleet.revoke(revoked("alice.3", ttl=300), 0)
    assert [one.name for one in await fleet.revocations()] == ["alice.3"]


async def test_an_agent_in_this_process_that_is_slow_is_told_the_state_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("turn_broker.fleet.memory.MAX_BACKLOG", 3)
    fleet = MemoryFleet(time.time)
    async with aclosing(fleet.orders("a")) as orders:
        assert await anext(orders) == Drain("a", False)
        for number in range(9):
            await fleet.revoke(revoked(f"alice.{number}"), 0)
        heard = [await anext(orders) for _ in range(10)]

    names = {order.revocation.name for order in heard if isinstance(order, Revoke)}
    assert names == {f"alice.{number}" for number in range(9)}
