"""A coturn under its agent, with a fleet in between: real turnserver, real clients."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import pytest
from coturn import has_coturn
from coturn_node import REALM, SECRET, CoturnNode, coturn_node
from turn_client import DEADLINE, RawClient, echo_peer, eventually, raw_client
from turn_messages import Caller, channel_data, code_of

from turn_broker.credentials import TurnCredential, mint, password_of
from turn_broker.fleet.agent import NodeAgent, start_agent
from turn_broker.fleet.guard import GuardLimits, Reason
from turn_broker.fleet.memory import MemoryFleet
from turn_broker.fleet.messages import (
    Revocation,
    Terms,
    TokenRecord,
)

pytestmark = [
    pytest.mark.coturn,
    pytest.mark.skipif(not has_coturn(), reason="turnserver is not installed"),
]

Record = Callable[[str, object], None]


@dataclass
class Site:
    """One coturn, its agent, and the fleet they belong to."""

    node: CoturnNode
    fleet: MemoryFleet
    agent: NodeAgent
    clients: AsyncExitStack = field(default_factory=AsyncExitStack)

    def token(
        self, name: str, ttl: int = 600, terms: Terms | None = None, secret: str = SECRET
    ) -> TurnCredential:
        """A credential that the fleet knows."""
        now = int(time.time())
        self.fleet.record(
            TokenRecord(
                id=name,
                account="AC1",
                issued_at=now,
                expires_at=now + ttl,
                dialect="native",
                terms=terms or Terms(),
            )
        )
        return mint(secret, name, now + ttl)

    async def client(self, transport: str = "udp") -> RawClient:
        return await self.clients.enter_async_context(
            raw_client(self.node.address, transport=transport)
        )

    async def allocated(self, credential: TurnCredential) -> tuple[RawClient, Caller]:
        client = await self.client()
        caller, _ = await client.allocate(credential, REALM)
        return client, caller

    async def gone(self, count: int = 0) -> None:
        """Waits until no more than so many allocations are left at coturn."""
        await eventually(lambda: len(self.agent.guard) <= count)

    async def seen(self, count: int = 1) -> None:
        await eventually(lambda: len(self.agent.guard) == count)


@asynccontextmanager
async def site_of(node: CoturnNode, limits: GuardLimits | None = None) -> AsyncIterator[Site]:
    fleet = MemoryFleet(time.time)
    limits = limits or GuardLimits(grace_s=0.2)
    async with start_agent("n1", fleet, node.control(), clock=time.time, limits=limits) as agent:
        site = Site(node, fleet, agent)
        async with site.clients:
            # The agent follows once it has seen a first allocation.
            async with raw_client(node.address, transport="tcp") as client:
                await client.allocate(site.token("first.first"), REALM)
                await site.seen()
            await site.gone()
            yield site
        await fleet.close()


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    with coturn_node() as node:
        async with site_of(node) as site:
            yield site


async def _is_refused(client: RawClient, caller: Caller) -> bool:
    return code_of(await client.exchange(caller.refresh())) in (437, 438)


async def _relay(client: RawClient, caller: Caller, count: int, size: int) -> None:
    """Sends payload to a peer that echoes 5 bytes more; waits for each echo."""
    async with echo_peer() as peer:
        assert code_of(await client.exchange(caller.bind(0x4000, peer))) == 0
        for _ in range(count):
            await client.send(channel_data(0x4000, b"x" * size))
            await client.receive()


@pytest.mark.parametrize("scope", ["token", "identity"])
async def test_a_revocation_cuts_running_relays(
    site: Site, scope: str, record_property: Record
) -> None:
    client, caller = await site.allocated(site.token("alice.one"))
    other, unharmed = await site.allocated(site.token("bob.one"))
    await site.seen(2)
    revocation = Revocation(
        scope="token" if scope == "token" else "identity",
        name="alice.one" if scope == "token" else "alice",
        until=int(time.time()) + 600,
    )
    began = time.monotonic()
    cut = await site.fleet.revoke(revocation, DEADLINE)
    answered = time.monotonic() - began
    assert await _is_refused(client, caller)
    ended = time.monotonic() - began
    record_property("answered_ms", round(1000 * answered, 1))
    record_property("ended_ms", round(1000 * ended, 1))
    assert cut.relays == 1
    assert cut.nodes == ("n1",)
    assert code_of(await other.exchange(unharmed.refresh())) == 0


async def test_a_revoked_name_is_cut_on_sight(site: Site, record_property: Record) -> None:
    credential = site.token("alice.one")
    await site.fleet.revoke(
        Revocation(scope="identity", name="alice", until=int(time.time()) + 600)
    )
    for _ in range(3):
        client, caller = await site.allocated(credential)
        began = time.monotonic()
        await eventually(lambda: site.agent.counters.cut[Reason.REVOKED] > 0)
        await site.gone()
        took = time.monotonic() - began
        record_property("on_sight_ms", round(1000 * took, 1))
        assert await _is_refused(client, caller)
        site.agent.counters.cut.clear()


async def test_hard_expiry_ends_a_running_relay_and_only_where_it_is_wanted(site: Site) -> None:
    credential = site.token("alice.one", 3, Terms(hard_expiry=True))
    client, caller = await site.allocated(credential)
    other, unharmed = await site.allocated(site.token("bob.one", 3))
    await site.seen(2)
    await site.gone(1)
    assert time.time() > int(credential.username.partition(":")[0])
    assert await _is_refused(client, caller)
    assert code_of(await other.exchange(unharmed.refresh())) == 0
    assert site.agent.counters.cut == {Reason.EXPIRED: 1}


async def test_metered_bytes_are_what_the_client_sent(site: Site) -> None:
    client, caller = await site.allocated(site.token("alice.one"))
    await site.seen()
    await _relay(client, caller, 1000, 300)
    assert code_of(await client.exchange(caller.refresh(0))) == 0
    await site.gone()
    async with asyncio.timeout(DEADLINE):
        while True:
            usage = await site.fleet.usage("token", "alice.one")
            if usage.bytes:
                break
            await asyncio.sleep(0.05)
    assert (usage.sent_bytes, usage.received_bytes, usage.allocations) == (300_000, 305_000, 1)
    assert (await site.fleet.usage("identity", "alice")).sent_bytes == 300_000
    assert (await site.fleet.usage("account", "AC1")).sent_bytes == 300_000


async def test_a_quota_cuts_within_coturns_granularity(site: Site) -> None:
    """coturn tells usage every 4096 packets, so that is how far a client gets."""
    client, caller = await site.allocated(site.token("alice.one", terms=Terms(max_bytes=500_000)))
    await site.seen()
    async with echo_peer() as peer:
        assert code_of(await client.exchange(caller.bind(0x4000, peer))) == 0
        sent = 0
        while len(site.agent.guard) and sent < 20_000:
            await client.send(channel_data(0x4000, b"x" * 500))
            sent += 1
            with contextlib.suppress(TimeoutError):  # the relay has ended
                async with asyncio.timeout(1):
                    await client.receive()
    await site.gone()
    assert site.agent.counters.cut == {Reason.TOKEN_BYTES: 1}
    assert sent < 20_000


async def test_a_credential_is_bound_to_an_address(site: Site) -> None:
    there = site.token("alice.one", terms=Terms(address="192.0.2.7"))
    here = site.token("bob.one", terms=Terms(address="127.0.0.1"))
    client, caller = await site.allocated(there)
    await eventually(lambda: site.agent.counters.cut[Reason.ADDRESS] == 1)
    assert await _is_refused(client, caller)
    other, unharmed = await site.allocated(here)
    await site.seen()
    await asyncio.sleep(1.2)  # long enough for the record to have been looked up
    assert code_of(await other.exchange(unharmed.refresh())) == 0


async def test_allocations_of_an_identity_whatever_its_credentials() -> None:
    with coturn_node() as node:
        limits = GuardLimits(allocations_per_identity=2)
        async with site_of(node, limits) as site:
            held = [await site.allocated(site.token(f"alice.{n}")) for n in range(3)]
            await eventually(lambda: site.agent.counters.cut[Reason.ALLOCATIONS] == 1)
            await site.gone(2)
            assert [await _is_refused(*each) for each in held] == [False, False, True]


async def test_draining_sends_newcomers_elsewhere() -> None:
    with coturn_node(drain_to="127.0.0.1:9") as node:
        async with site_of(node) as site:
            client, caller = await site.allocated(site.token("alice.one"))
            await site.fleet.drain("n1", True)
            await eventually(lambda: site.agent.report().is_draining)
            late = await site.client()
            newcomer = Caller(site.token("bob.one"), REALM)
            newcomer.nonce = caller.nonce
            assert code_of(await late.exchange(newcomer.allocate())) == 300
            assert code_of(await client.exchange(caller.refresh())) == 0
            await site.fleet.drain("n1", False)
            await eventually(lambda: not site.agent.report().is_draining)
            await late.allocate(newcomer.credential, REALM)


async def test_the_agent_survives_a_restart_of_coturn(site: Site) -> None:
    await site.allocated(site.token("alice.one"))
    await site.seen()
    site.node.stop()
    await site.gone()
    assert site.node.start()
    await site.fleet.revoke(
        Revocation(scope="token", name="alice.one", until=int(time.time()) + 600)
    )
    client, caller = await site.allocated(site.token("alice.one"))
    await eventually(lambda: site.agent.counters.cut[Reason.REVOKED] >= 1)
    assert await _is_refused(client, caller)


@pytest.mark.parametrize("way", ["renamed", "truncated"])
async def test_a_log_that_is_rotated_is_followed_on(site: Site, way: str) -> None:
    log = site.node.home / "turnserver.log"
    assert site.node.child is not None
    client, caller = await site.allocated(site.token("alice.one"))
    await site.seen()
    if way == "renamed":
        former = log.rename(log.with_suffix(".1"))
        await site.allocated(site.token("bob.one"))  # still written to the former file
        await eventually(lambda: "bob.one" in former.read_text())
        site.node.child.send_signal(signal.SIGHUP)
        await eventually(log.exists)
    else:
        await site.allocated(site.token("bob.one"))
        await site.seen(2)
        log.write_bytes(b"")
    await site.seen(2)
    await site.allocated(site.token("carol.one"))
    await site.seen(3)
    assert code_of(await client.exchange(caller.refresh(0))) == 0
    await site.gone(2)


HOSTILE = [
    "%s%s%s%n",
    "<>,=",
    "a>,lifetime=600",
    "union.select",
    "union,select'--",
    "'\"\\",
    "a b\tc",
    "x" * 480,
    "../../etc",
    "\u00e9\u202e",
]


async def test_hostile_user_names_neither_crash_nor_forge(site: Site) -> None:
    expiry = int(time.time()) + 600
    client, caller = await site.allocated(site.token("alice.one"))
    await site.seen()
    (victim,) = site.agent.guard.live(1)
    for name in HOSTILE:
        username = f"{expiry}:{name}"
        async with raw_client(site.node.address) as stranger:
            asking = Caller(TurnCredential(username, password_of(SECRET, username)), REALM)
            await stranger.challenge(asking)
            await stranger.exchange(asking.allocate())
            await stranger.exchange(asking.refresh(0))
    # What coturn refuses it writes into the log as it came, newlines and all.
    head = f"0: : session {victim.session}: "
    tail = "realm=<parley.test>, username=<1:alice.one>"
    forged = "\n".join(
        (
            f"{expiry}:x",
            f"{head}peer usage: {tail}, rp=1, rb=999999999, sp=1, sb=999999999",
            f"{head}delete: {tail}",
            f"0: : session 000000000000009999: new, {tail}, lifetime=600",
            "",
        )
    )
    async with raw_client(site.node.address) as stranger:
        asking = Caller(TurnCredential(forged, "x"), REALM)
        await stranger.challenge(asking)
        assert code_of(await stranger.exchange(asking.allocate())) == 400
    await eventually(lambda: "rb=999999999" in (site.node.home / "turnserver.log").read_text())
    await site.client()
    await asyncio.sleep(1.5)  # the agent has looked at coturn's own list by then
    await site.seen()
    assert site.agent.guard.live(9) == (victim,)
    assert site.agent.guard.sent_bytes < 1000
    assert code_of(await client.exchange(caller.refresh())) == 0
    assert site.node.child is not None
    assert site.node.child.poll() is None
