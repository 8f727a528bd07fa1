"""What a TURN site promises, however it is run: taking back, terms, usage, rotation.

Real processes, real coturn or the embedded relay, HTTP and TURN (tests/turn_sites.py).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator

import httpx
import pytest
from coturn import has_coturn
from redis_server import has_redis
from turn_holders import Holders, holders_of
from turn_sites import (
    ALLOCATIONS,
    METERED_BYTES,
    METERED_SID,
    METERED_TOKEN,
    PATIENCE_S,
    SITES,
    Issued,
    TurnSite,
    ready_site,
    rotate,
    wait_until,
)

pytestmark = [
    pytest.mark.coturn,
    pytest.mark.redis,
    pytest.mark.skipif(not has_coturn(), reason="turnserver is not installed"),
    pytest.mark.skipif(not has_redis(), reason="redis-server is not installed"),
]
Record = Callable[[str, object], None]
ENOUGH = 100
"""Allocations after each rotation."""


@pytest.fixture(scope="module", params=list(SITES))
def site(request: pytest.FixtureRequest) -> Iterator[TurnSite]:
    with ready_site(request.param) as site:
        yield site


@pytest.fixture
async def clients(site: TurnSite) -> AsyncIterator[Holders]:
    async with holders_of(site) as holders:
        yield holders


only_fleet = pytest.mark.parametrize("site", ["fleet"], indirect=True)
only_coturn = pytest.mark.parametrize("site", ["fleet", "direct"], indirect=True)


# Taking back -------------------------------------------------------------------------------------


async def test_a_revocation_cuts_running_relays(
    site: TurnSite, clients: Holders, record_property: Record
) -> None:
    issued = {how: site.token(f"alice-{how}") for how in ("token", "identity")}
    issued["twilio"] = _twilio(site)
    held = {how: [await clients.relay(one) for _ in range(2)] for how, one in issued.items()}
    unharmed = await clients.relay(site.token("bob"))
    took_s, seen_s, told = [], [], []
    for how, one in issued.items():
        await clients.seen(one, 2)
        is_identity = how == "identity"
        path = "/v1/identities/alice-identity/revoke" if is_identity else f"/v1/tokens/{one.id}"

        began = time.monotonic()
        answer = await asyncio.to_thread(site.ask, "POST" if is_identity else "DELETE", path)
        for relay in held[how]:
            await relay.ended()
        ended = time.monotonic() - began

        record_property(f"{how}_ended_ms", round(1000 * ended, 1))
        assert answer.status_code == 200, answer.text
        told.append(answer.json())
        took_s.append(ended)
        # What is revoked may allocate at coturn, and is cut on sight.
        seen_s.append(await (await clients.relay(one)).ended())
    # The broker waits for a node for a second: a busy machine may miss that once, not each time.
    in_time = [each for each in told if not each["silent"]]
    assert len(in_time) >= 2, told
    assert {each["relays_cut"] for each in in_time} == {2}
    assert all(set(each["nodes"]) == set(site.ports) for each in in_time)
    assert max(min(took_s), min(seen_s)) < 1
    assert await unharmed.refreshed() == 0
    refused = site.ask("POST", "/v1/ice-servers", {"identity": "alice-identity"})
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    assert site.ask("GET", f"/v1/tokens/{issued['token'].id}").json()["revoked"] is True
    site.token("alice-token")  # the identity may have another


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


@only_fleet
async def test_hard_expiry_ends_a_running_relay_where_it_is_wanted(
    site: TurnSite, clients: Holders, record_property: Record
) -> None:
    hard = site.token("alice", ttl=3, terms={"hard_expiry": True})
    soft = site.token("bob", ttl=3)
    relay, unharmed = await clients.relay(hard), await clients.relay(soft)
    await relay.ended()
    late_s = time.time() - int(hard.username.partition(":")[0])
    record_property("after_expiry_s", round(late_s, 2))
    assert late_s >= 2
    assert await unharmed.refreshed() == 0


@only_coturn
async def test_a_credential_is_bound_to_the_address_that_asked(
    site: TurnSite, clients: Holders
) -> None:
    bound = site.token("alice", terms={"bind_address": True})
    here, there = await clients.relay(bound), await clients.relay(bound, source="127.0.0.7")
    await there.ended()
    assert await here.refreshed() == 0


@only_coturn
async def test_allocations_of_an_identity_are_counted_over_its_credentials(
    site: TurnSite, clients: Holders
) -> None:
    held = [await clients.relay(site.token("alice")) for _ in range(ALLOCATIONS)]
    await (await clients.relay(site.token("alice"))).ended()
    assert [await relay.refreshed() for relay in held] == [0] * ALLOCATIONS


async def test_bytes_of_a_token_are_bounded(site: TurnSite, clients: Holders) -> None:
    """coturn tells usage every 4096 packets: so far a client gets."""
    relay = await clients.relay(site.token("alice", terms={"max_bytes": 100_000}))
    assert 400 < await relay.send_until_cut(size=100, most=20_000) < 20_000


@only_fleet
async def test_an_identity_and_an_account_that_have_used_up_their_bytes(
    site: TurnSite, clients: Holders
) -> None:
    auth = (METERED_SID, METERED_TOKEN)
    relay, same, other = [
        await clients.relay(site.token(identity, auth=auth)) for identity in ("amy", "amy", "ben")
    ]
    await relay.send(100, METERED_BYTES // 100)
    assert await relay.refreshed(0) == 0
    await same.ended()
    await other.ended()
    wait_until(lambda: {"identity_bytes", "account_bytes"} <= _reasons(site))
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


def _reasons(site: TurnSite) -> set[str]:
    """For which relays were cut, as the broker's metrics know it."""
    cut = site.metrics("turn_broker_relays_cut_total")
    return {line.split('"')[3] for line in cut if not line.endswith(" 0.0")}


async def test_usage_is_what_the_client_sent(site: TurnSite, clients: Holders) -> None:
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
    site: TurnSite, clients: Holders, record_property: Record
) -> None:
    older = [site.token(f"older-{number}") for number in range(10)]
    codes: list[int] = []
    rotated = asyncio.Event()

    async def fetching() -> None:
        number = 0
        while not rotated.is_set():
            number += 1
            issued = await asyncio.to_thread(site.token, f"fresh-{number}")
            codes.extend([await clients.answer(issued, node) for node in site.ports])

    async def keeping() -> None:
        while not rotated.is_set():
            codes.extend([await clients.answer(issued) for issued in older])

    async def more(count: int) -> None:
        until = len(codes) + count
        async with asyncio.timeout(PATIENCE_S):
            while len(codes) < until:  # noqa: ASYNC110 - the others are clients
                await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(fetching())
        tasks.create_task(keeping())
        try:
            for _ in range(2 if site.kind == "fleet" else 1):
                await rotate(site)
                await more(ENOUGH)  # with tokens of either secret
        finally:
            rotated.set()
    record_property("allocations", len(codes))
    assert set(codes) == {0}
    (ring,) = site.ask("GET", "/v1/turn-secrets").json()["rings"]
    assert (ring["state"], ring["waiting_for"]) == ("active", [])
    (*_, until) = ring["retiring_until"]
    assert until > time.time() + 86_400  # no credential of a former secret lives longer
    (age,) = site.metrics("turn_broker_secret_age_seconds")
    assert age.startswith('turn_broker_secret_age_seconds{ring="*"}')
    assert 0 <= float(age.rpartition(" ")[2]) < 30
