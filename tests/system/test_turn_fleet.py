"""A TURN fleet of two regions: nodes that drain and die, two brokers, a Redis that goes away.

Real processes (tests/turn_sites.py): `parley serve` and `parley turn agent` with its coturn,
twice, and Redis.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from brokers import ACCOUNT_SID, start_broker
from coturn import has_coturn
from redis_server import has_redis
from turn_holders import CUT, Holders, holders_of
from turn_sites import PATIENCE_S, Issued, TurnSite, ready_site, rotate, wait_until

pytestmark = [
    pytest.mark.coturn,
    pytest.mark.redis,
    pytest.mark.skipif(not has_coturn(), reason="turnserver is not installed"),
    pytest.mark.skipif(not has_redis(), reason="redis-server is not installed"),
]
Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def site() -> Iterator[TurnSite]:
    with ready_site("fleet") as site:
        yield site


@pytest.fixture
async def clients(site: TurnSite) -> AsyncIterator[Holders]:
    async with holders_of(site) as holders:
        yield holders


# Nodes -------------------------------------------------------------------------------------------


def _nodes_of(site: TurnSite, issued: Issued) -> list[str]:
    """Node ids of a credential's URLs, in their order."""
    names = {str(port): name for name, port in site.ports.items()}
    return [names[url.partition("?")[0].rpartition(":")[2]] for url in issued.urls]


def test_regions_by_request_and_by_address(site: TurnSite) -> None:
    west = _nodes_of(site, site.token("alice", region="west"))
    east = _nodes_of(site, site.token("alice", region="east"))
    assert west == ["west-1", "west-1", "east-1"]
    assert east == ["east-1", "east-1", "west-1"]
    assert _nodes_of(site, site.token("alice"))[0] == "east-1"  # the default region
    bearer = {"authorization": f"Bearer {site.access_token('alice')}"}
    assert _nodes_of(site, site.token(headers=bearer))[0] == "west-1"  # 127.0.0.0/8


async def test_draining_sends_newcomers_elsewhere(site: TurnSite, clients: Holders) -> None:
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
        wait_until(lambda: not _second_sends_anybody(site, "east-1"))
    finally:
        assert site.ask("POST", "/v1/turn-nodes/east-1/undrain").json()["draining"] is False
    wait_until(lambda: not site.node("east-1")["draining"])
    assert "east-1" in _nodes_of(site, site.token("bob", region="east"))
    deadline = time.monotonic() + PATIENCE_S
    while await clients.answer(before) != 0:
        assert time.monotonic() < deadline
    assert site.ask("POST", "/v1/turn-nodes/north-1/drain").status_code == 404


def _second_sends_anybody(site: TurnSite, node: str) -> bool:
    """Whether the second broker hands that node out."""
    return node in _nodes_of(site, site.token("carol", region="east", url=site.second_url))


async def test_a_node_that_dies_leaves_the_list_and_comes_back(
    site: TurnSite, clients: Holders, record_property: Record
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
        wait_until(lambda: not site.node("east-1", site.second_url)["up"])  # it has no prober
        assert not _second_sends_anybody(site, "east-1")
    finally:
        agent.child.send_signal(signal.SIGCONT)  # and the agent starts it again
    back_s = wait_until(lambda: site.node("east-1")["up"])
    wait_until(lambda: _second_sends_anybody(site, "east-1"))
    record_property("left_s", round(left_s, 2))
    record_property("back_s", round(back_s, 2))
    issued = site.token("alice", region="east")
    assert _nodes_of(site, issued)[0] == "east-1"
    assert await clients.answer(issued) == 0


# Several brokers, and a Redis that is not there ---------------------------------------------------


async def test_a_second_broker_knows_what_the_first_did(site: TurnSite, clients: Holders) -> None:
    issued = site.token("dora")
    path = f"/v1/tokens/{issued.id}"  # written behind the answer
    wait_until(lambda: site.ask("GET", path, url=site.second_url).status_code == 200)
    relay = await clients.relay(issued)
    await clients.seen(issued, 1)
    cut = site.ask("POST", "/v1/identities/dora/revoke", url=site.second_url).json()
    assert cut["relays_cut"] == 1 or "east-1" in cut["silent"], "a busy agent may be late"
    await relay.ended()
    wait_until(lambda: site.ask("POST", "/v1/ice-servers", {"identity": "dora"}).status_code == 403)

    await rotate(site)
    rings = [
        site.ask("GET", "/v1/turn-secrets", url=url).json() for url in (site.url, site.second_url)
    ]
    assert rings[0] == rings[1]
    wait_until(lambda: len(site.metrics("turn_broker_secret_age_seconds", site.second_url)) == 1)
    assert await clients.answer(site.token("emil", url=site.second_url)) == 0


async def test_redis_dies_and_comes_back(site: TurnSite, clients: Holders) -> None:
    assert site.redis is not None
    expiring = site.token("alice", ttl=3, terms={"hard_expiry": True})
    relay = await clients.relay(expiring)
    await clients.seen(expiring, 1)
    site.redis.kill()
    try:
        meanwhile = site.token("frida")
        other = await clients.relay(meanwhile)
        await relay.ended()  # agents go on with what they know
        refused = await asyncio.to_thread(site.ask, "DELETE", f"/v1/tokens/{meanwhile.id}")
        assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
        assert refused.headers["retry-after"]
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
