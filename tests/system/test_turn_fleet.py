"""The TURN fleet as operators and clients meet it: real processes, real coturn, HTTP and TURN.

The same promises for three ways to run it (tests/turn_sites.py), where they make sense.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass

import httpx
import pytest
from brokers import ACCOUNT_SID, ROOT, start_broker
from coturn import has_coturn
from redis_server import has_redis
from turn_client import RawClient, echo_peer, raw_client
from turn_messages import Caller, channel_data, code_of
from turn_sites import (
    ALLOCATIONS,
    METERED_BYTES,
    METERED_SID,
    METERED_TOKEN,
    PATIENCE_S,
    SITES,
    Issued,
    TurnSite,
    wait_until,
)

pytestmark = [
    pytest.mark.coturn,
    pytest.mark.redis,
    pytest.mark.skipif(not has_coturn(), reason="turnserver is not installed"),
    pytest.mark.skipif(not has_redis(), reason="redis-server is not installed"),
]
Record = Callable[[str, object], None]
CLOSED = 0xDEAD
CUT = (437, CLOSED)
"""What a client meets on a relay that is gone: a refusal, or a closed connection."""


@pytest.fixture(scope="module", params=list(SITES))
def site(request: pytest.FixtureRequest) -> Iterator[TurnSite]:
    with SITES[request.param]() as site:
        wait_until(lambda: site.ask("GET", "/v1/turn-nodes").json()["nodes"][0]["agent"])
        for name in site.ports:
            wait_until(lambda name=name: site.node(name)["agent"])
            wait_until(lambda name=name: site.node(name)["up"])
        yield site


only_fleet = pytest.mark.parametrize("site", ["fleet"], indirect=True)
only_coturn = pytest.mark.parametrize("site", ["fleet", "direct"], indirect=True)


@dataclass
class Relay:
    """An allocation and its holder."""

    client: RawClient
    caller: Caller

    async def refreshed(self, lifetime: int | None = None) -> int:
        try:
            await self.client.send(self.caller.refresh(lifetime))
            answer = await self.client.receive()
        except ConnectionError:
            return CLOSED
        return code_of(answer) if answer else CLOSED

    async def ended(self) -> float:
        """Seconds until a refresh is refused."""
        began = time.monotonic()
        while await self.refreshed() not in CUT:
            assert time.monotonic() - began < PATIENCE_S, "the relay goes on"
            await asyncio.sleep(0.01)
        return time.monotonic() - began

    async def send(self, count: int, size: int) -> None:
        """Payload to a peer that sends back 5 bytes more of each; waits for every echo."""
        async with echo_peer() as peer:
            assert code_of(await self.client.exchange(self.caller.bind(0x4000, peer))) == 0
            for _ in range(count):
                await self.client.send(channel_data(0x4000, b"x" * size))
                await self.client.receive()


@dataclass
class Clients:
    """TURN clients of one test; over TCP, because coturn remembers a UDP client's port."""

    site: TurnSite
    stack: AsyncExitStack

    async def relay(self, issued: Issued, node: str = "", source: str = "") -> Relay:
        address = ("127.0.0.1", self.site.ports[node]) if node else issued.address
        client = await self.stack.enter_async_context(
            raw_client(address, transport="tcp", source=source)
        )
        caller, _ = await client.allocate(issued.credential, self.site.realm)
        return Relay(client, caller)

    async def answer(self, issued: Issued, node: str = "") -> int:
        """0, or the code with which an allocation is refused; it is given back at once."""
        address = ("127.0.0.1", self.site.ports[node]) if node else issued.address
        async with raw_client(address, transport="tcp") as client:
            caller = Caller(issued.credential, self.site.realm)
            await client.challenge(caller)
            code = code_of(await client.exchange(caller.allocate()))
            if code == 0:
                await client.exchange(caller.refresh(0))
            return code


@pytest.fixture
async def clients(site: TurnSite) -> AsyncIterator[Clients]:
    async with AsyncExitStack() as stack:
        yield Clients(site, stack)


async def _live(site: TurnSite, count: int) -> None:
    """Waits until the agents report at least so many relays."""
    deadline = time.monotonic() + PATIENCE_S
    while sum(site.node(name)["agent"]["sessions"] for name in site.ports) < count:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


# Taking back -------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["token", "twilio", "identity"])
async def test_a_revocation_cuts_running_relays(
    site: TurnSite, clients: Clients, how: str, record_property: Record
) -> None:
    issued = _twilio(site) if how == "twilio" else site.token(f"alice-{how}")
    path = f"/v1/identities/alice-{how}/revoke" if how == "identity" else f"/v1/tokens/{issued.id}"
    held = [await clients.relay(issued), await clients.relay(issued)]
    unharmed = await clients.relay(site.token("bob"))
    await _live(site, 3)

    began = time.monotonic()
    answer = await asyncio.to_thread(site.ask, "POST" if how == "identity" else "DELETE", path)
    answered = time.monotonic() - began
    assert [await relay.refreshed() in CUT for relay in held] == [True, True]
    ended = time.monotonic() - began

    record_property("answered_ms", round(1000 * answered, 1))
    record_property("ended_ms", round(1000 * ended, 1))
    assert (answer.status_code, answer.json()["relays_cut"]) == (200, 2), answer.text
    assert (set(answer.json()["nodes"]), answer.json()["silent"]) == (set(site.ports), [])
    assert ended < 1
    assert await unharmed.refreshed() == 0
    if how == "identity":
        refused = site.ask("POST", "/v1/ice-servers", {"identity": "alice-identity"})
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    else:
        assert site.ask("GET", path).json()["revoked"] is True
        site.token("alice-token")  # the identity may have another
    # What is revoked may allocate at coturn, and is cut on sight.
    with_old = await clients.relay(issued)
    assert await with_old.ended() < 1


def _twilio(site: TurnSite) -> Issued:
    """Revoked by what follows the colon of the SDK's `token.username`."""
    path = f"/2010-04-01/Accounts/{site.account[0]}/Tokens.json"
    answer = httpx.post(site.url.rstrip("/") + path, auth=site.account, data={"Ttl": "600"})
    assert answer.status_code == 201
    token = answer.json()
    site.secrets.add(token["password"])
    urls = [server["url"] for server in token["ice_servers"] if "username" in server]
    return Issued(
        id=token["username"].partition(":")[2],
        username=token["username"],
        password=token["password"],
        urls=tuple(urls),
    )


# Terms -------------------------------------------------------------------------------------------


@only_coturn
async def test_hard_expiry_ends_a_running_relay_where_it_is_wanted(
    site: TurnSite, clients: Clients, record_property: Record
) -> None:
    hard = site.token("alice", ttl=2, terms={"hard_expiry": True})
    soft = site.token("bob", ttl=2)
    relay, unharmed = await clients.relay(hard), await clients.relay(soft)
    await relay.ended()
    late_s = time.time() - int(hard.username.partition(":")[0])
    record_property("after_expiry_s", round(late_s, 2))
    assert 2 <= late_s < 5
    assert await unharmed.refreshed() == 0


@only_coturn
async def test_a_credential_is_bound_to_the_address_that_asked(
    site: TurnSite, clients: Clients
) -> None:
    bound = site.token("alice", terms={"bind_address": True})
    here, there = await clients.relay(bound), await clients.relay(bound, source="127.0.0.7")
    await there.ended()
    assert await here.refreshed() == 0


@only_coturn
async def test_allocations_of_an_identity_are_counted_over_its_credentials(
    site: TurnSite, clients: Clients
) -> None:
    held = [await clients.relay(site.token("alice")) for _ in range(ALLOCATIONS)]
    await (await clients.relay(site.token("alice"))).ended()
    assert [await relay.refreshed() for relay in held] == [0] * ALLOCATIONS


async def test_bytes_of_a_token_are_bounded(site: TurnSite, clients: Clients) -> None:
    """coturn tells usage every 4096 packets: so far a client gets."""
    relay = await clients.relay(site.token("alice", terms={"max_bytes": 100_000}))
    packets = 0
    with suppress(ConnectionError):
        async with echo_peer() as peer:
            assert code_of(await relay.client.exchange(relay.caller.bind(0x4000, peer))) == 0
            while packets < 20_000:
                await relay.client.send(channel_data(0x4000, b"x" * 100))
                packets += 1
                if not await relay.client.receive():
                    break
    assert 400 < packets < 20_000


@only_coturn
async def test_an_account_that_has_used_up_its_bytes(site: TurnSite, clients: Clients) -> None:
    auth = (METERED_SID, METERED_TOKEN)
    first, second = site.token("alice", auth=auth), site.token("bob", auth=auth)
    relay, other = await clients.relay(first), await clients.relay(second)
    await relay.send(100, METERED_BYTES // 100)
    assert await relay.refreshed(0) == 0
    await other.ended()
    deadline = time.monotonic() + PATIENCE_S
    while True:
        refused = site.ask("POST", "/v1/ice-servers", {}, auth=auth)
        if refused.status_code != 200:
            break
        assert time.monotonic() < deadline
        await asyncio.sleep(0.2)
    assert (refused.status_code, refused.json()["code"]) == (429, "limit_exceeded")
    assert refused.headers["retry-after"]
    site.token("carol")  # other accounts have theirs


async def test_usage_is_what_the_client_sent(site: TurnSite, clients: Clients) -> None:
    issued = site.token("mallory/with a slash")
    relay = await clients.relay(issued)
    await relay.send(200, 500)
    path = "/v1/identities/mallory/with%20a%20slash/usage"
    assert await relay.refreshed(0) == 0
    deadline = time.monotonic() + PATIENCE_S
    while not (used := site.ask("GET", path).json())["bytes"] or used["live"]:
        assert time.monotonic() < deadline, used
        await asyncio.sleep(0.1)
    expected = {"sent_bytes": 100_000, "received_bytes": 101_000, "bytes": 201_000}
    assert used == {**expected, "allocations": 1, "live": 0}
    token = site.ask("GET", f"/v1/tokens/{issued.id}").json()
    assert (token["usage"]["bytes"], token["dialect"]) == (201_000, "native")


# Rotation ----------------------------------------------------------------------------------------


async def test_rotation_refuses_nobody(
    site: TurnSite, clients: Clients, record_property: Record
) -> None:
    older = [site.token(f"older-{number}") for number in range(10)]
    codes: list[int] = []
    rotated = asyncio.Event()

    async def fetching() -> None:
        number = 0
        while not rotated.is_set():
            number += 1
            issued = await asyncio.to_thread(site.token, f"fresh-{number}")
            for node in site.ports:
                codes += [await clients.answer(issued, node)]

    async def keeping() -> None:
        while not rotated.is_set():
            for issued in older:
                codes += [await clients.answer(issued)]

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(fetching())
        tasks.create_task(keeping())
        for _ in range(2):
            await _rotate(site)
            await asyncio.sleep(1.5)  # clients go on, with tokens of either secret
        rotated.set()
    record_property("allocations", len(codes))
    assert len(codes) > 50
    assert set(codes) == {0}
    (ring,) = site.ask("GET", "/v1/turn-secrets").json()["rings"]
    assert (ring["state"], ring["waiting_for"]) == ("active", [])
    (*_, until) = ring["retiring_until"]
    assert until > time.time() + 86_400  # no credential of a former secret lives longer
    (age,) = site.metrics("turn_broker_secret_age_seconds")
    assert age.startswith('turn_broker_secret_age_seconds{ring="*"}')
    assert 0 <= float(age.rpartition(" ")[2]) < 30


async def _rotate(site: TurnSite) -> None:
    command = [sys.executable, "-m", "signal_server", "turn", "rotate", "--url", site.url]
    environment = {**os.environ, "PARLEY_SERVER_ADMIN_TOKEN": site.admin_token}
    child = await asyncio.create_subprocess_exec(
        *command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await asyncio.wait_for(child.communicate(), PATIENCE_S)
    assert child.returncode == 0, err.decode()
    assert b"mints with a new secret" in out


# Nodes -------------------------------------------------------------------------------------------


def _nodes_of(site: TurnSite, issued: Issued) -> list[str]:
    """Node ids of a credential's URLs, in their order."""
    names = {str(port): name for name, port in site.ports.items()}
    return [names[url.partition("?")[0].rpartition(":")[2]] for url in issued.urls]


@only_fleet
def test_regions_by_request_and_by_address(site: TurnSite) -> None:
    west = _nodes_of(site, site.token("alice", region="west"))
    east = _nodes_of(site, site.token("alice", region="east"))
    assert west == ["west-1", "west-1", "east-1"]
    assert east == ["east-1", "east-1", "west-1"]
    assert _nodes_of(site, site.token("alice"))[0] == "east-1"  # the default region
    bearer = {"authorization": f"Bearer {site.access_token('alice')}"}
    assert _nodes_of(site, site.token(headers=bearer))[0] == "west-1"  # 127.0.0.0/8


@only_fleet
async def test_draining_sends_newcomers_elsewhere(site: TurnSite, clients: Clients) -> None:
    before = site.token("alice", region="east")
    relay = await clients.relay(before)
    assert site.ask("POST", "/v1/turn-nodes/east-1/drain").json()["draining"] is True
    try:
        wait_until(lambda: site.node("east-1")["draining"])
        assert set(_nodes_of(site, site.token("bob", region="east"))) == {"west-1"}
        deadline = time.monotonic() + PATIENCE_S
        while await clients.answer(before) != 300:  # Try Alternate: west
            assert time.monotonic() < deadline
        assert await relay.refreshed() == 0
        second = site.token("carol", region="east", url=site.second_url)
        wait_until(lambda: set(_nodes_of(site, second)) == {"west-1"} or _other(site))
    finally:
        assert site.ask("POST", "/v1/turn-nodes/east-1/undrain").json()["draining"] is False
    wait_until(lambda: not site.node("east-1")["draining"])
    assert "east-1" in _nodes_of(site, site.token("bob", region="east"))
    assert await clients.answer(before) == 0
    assert site.ask("POST", "/v1/turn-nodes/north-1/drain").status_code == 404


def _other(site: TurnSite) -> bool:
    """Whether the second broker sends nobody east."""
    issued = site.token("carol", region="east", url=site.second_url)
    return set(_nodes_of(site, issued)) == {"west-1"}


@only_fleet
async def test_a_node_that_dies_leaves_the_list_and_comes_back(
    site: TurnSite, clients: Clients, record_property: Record
) -> None:
    agent = site.agents["east-1"]
    os.kill(agent.turnserver, signal.SIGKILL)
    agent.child.send_signal(signal.SIGSTOP)
    try:
        left_s = wait_until(lambda: not site.node("east-1")["up"])
        urls = site.node("east-1")["urls"]
        assert {url["verdict"] for url in urls} == {"down"}
        assert set(_nodes_of(site, site.token("alice", region="east"))) == {"west-1"}
        assert 'turn_broker_node_up{node="east-1"} 0.0' in site.metrics("turn_broker_node_up")
    finally:
        agent.child.send_signal(signal.SIGCONT)  # and the agent starts it again
    back_s = wait_until(lambda: site.node("east-1")["up"])
    record_property("left_s", round(left_s, 2))
    record_property("back_s", round(back_s, 2))
    issued = site.token("alice", region="east")
    assert _nodes_of(site, issued)[0] == "east-1"
    assert await clients.answer(issued) == 0


# Several brokers, and a Redis that is not there ---------------------------------------------------


@only_fleet
async def test_a_second_broker_knows_what_the_first_did(site: TurnSite, clients: Clients) -> None:
    issued = site.token("dora")
    assert site.ask("GET", f"/v1/tokens/{issued.id}", url=site.second_url).status_code == 200
    relay = await clients.relay(issued)
    await _live(site, 1)
    cut = site.ask("POST", "/v1/identities/dora/revoke", url=site.second_url).json()
    assert cut["relays_cut"] == 1
    assert await relay.refreshed() in CUT
    wait_until(lambda: site.ask("POST", "/v1/ice-servers", {"identity": "dora"}).status_code == 403)

    await _rotate(site)
    rings = [
        site.ask("GET", "/v1/turn-secrets", url=url).json() for url in (site.url, site.second_url)
    ]
    assert rings[0] == rings[1]
    wait_until(lambda: len(site.metrics("turn_broker_secret_age_seconds", site.second_url)) == 1)
    assert await clients.answer(site.token("emil", url=site.second_url)) == 0


@only_fleet
async def test_redis_dies_and_comes_back(site: TurnSite, clients: Clients) -> None:
    assert site.redis is not None
    expiring = site.token("alice", ttl=3, terms={"hard_expiry": True})
    relay = await clients.relay(expiring)
    await _live(site, 1)
    site.redis.kill()
    try:
        meanwhile = site.token("frida")
        other = await clients.relay(meanwhile)
        await relay.ended()  # agents go on with what they know
        refused = await asyncio.to_thread(site.ask, "DELETE", f"/v1/tokens/{meanwhile.id}")
        assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
        assert refused.headers["retry-after"]
        assert site.is_ready()
        assert await other.refreshed() == 0
        config = site.agents["east-1"].home / "late.toml"
        config.write_text(f'[backplane]\nurl = "{site.redis.url}"\n')
        log = config.with_suffix(".err")
        with start_broker("turn:192.0.2.1:3478", config=config, log=log) as late:
            # It has never heard the realm's secrets, so it may not take clients yet.
            assert not site.is_ready(late.url)
    finally:
        site.redis.start()
    began = time.monotonic()
    while site.ask("GET", f"/v1/tokens/{meanwhile.id}").status_code != 200:
        assert time.monotonic() - began < PATIENCE_S
        await asyncio.sleep(0.1)
    while True:
        answer = await asyncio.to_thread(site.ask, "DELETE", f"/v1/tokens/{meanwhile.id}")
        if await other.refreshed() in CUT:
            break
        assert time.monotonic() - began < PATIENCE_S
        await asyncio.sleep(0.2)
    assert answer.status_code == 200
    token = site.ask("GET", f"/v1/tokens/{meanwhile.id}").json()
    assert (token["account_sid"], token["revoked"]) == (ACCOUNT_SID, True)


# What nobody may read -----------------------------------------------------------------------------


async def test_no_log_has_a_credential_in_it(site: TurnSite, clients: Clients) -> None:
    """The last test of each site: over everything that the others did."""
    site.secrets.add(clients.site.token("greta").password)
    site.ask("GET", "/v1/turn-nodes", headers={"authorization": "Bearer wrong-token-of-somebody"})
    site.ask("GET", "/v1/tokens/x%0d%0aforged.y", auth=("AC" + "0" * 32, "wrong-password-of-a"))
    site.secrets |= {"wrong-token-of-somebody", "wrong-password-of-a", "mallory/with"}
    assert len(site.secrets) > 5
    for path in site.logs:
        text = path.read_text(errors="replace")
        assert not [secret[:6] for secret in site.secrets if secret in text], path
        assert "Traceback" not in text, path
