"""ICE servers that signaling hands out are those of the client's address, like those over HTTP.

Clients stand at loopback addresses of their own. With Redis one of the two nodes grants what the
other one's clients ask for.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from accounts import Account
from raw_session import RawSession
from redis_server import has_redis, start_redis
from servers import Server, start_serve
from websockets.asyncio.client import connect

FREE, BOUND = Account(1), Account(2)
ADMIN = "admin-token-of-the-ice-servers-tests"
WEST, EAST, ELSEWHERE = "127.0.1.7", "127.0.2.7", "127.0.3.7"
PROXY = "127.0.9.9"
HOSTS = {"west": "192.0.2.1", "east": "192.0.2.2", "far": "192.0.2.3"}
SHORT_S = 6
"""Comes again after 4.8 s, and is looked up while it is good."""
PATIENCE_S = 30.0

Json = dict[str, Any]


def config(name: str, redis_url: str = "") -> str:
    nodes = "".join(
        f'[[turn.nodes]]\nid = "{region}-1"\nregion = "{region}"\n'
        f'urls = ["turn:{host}:3478?transport=udp"]\n'
        for region, host in HOSTS.items()
    )
    limits = "limits = { bind_address = true }"
    bound = BOUND.toml.replace("[[accounts.keys]]", f"{limits}\n[[accounts.keys]]")
    return f"""
[server]
port = 0
drain_s = 0
admin_token = "{ADMIN}"
trusted_proxies = ["{PROXY}"]
[node]
name = "{name}"
[backplane]
url = "{redis_url}"
[turn]
secret = "a-secret-that-only-this-test-has-and-no-other"
default_region = "far"
min_ttl_s = 1
[turn.probing]
enabled = false
{nodes}
[[turn.regions]]
id = "west"
networks = ["127.0.1.0/24"]
[[turn.regions]]
id = "east"
networks = ["127.0.2.0/24"]
[[turn.regions]]
id = "far"
{FREE.toml}
{bound}
"""


@pytest.fixture(scope="module", params=["memory", "redis"])
def servers(request: pytest.FixtureRequest) -> Iterator[list[Server]]:
    with contextlib.ExitStack() as running:
        if request.param == "memory":
            yield [running.enter_context(start_serve(config("a")))]
            return
        if not has_redis():
            pytest.skip("needs redis-server")
        url = running.enter_context(start_redis()).url
        yield [running.enter_context(start_serve(config(name, url))) for name in "ab"]


async def enter(
    server: Server, account: Account, source: str, forwarded_for: str = "", **hello: Any
) -> RawSession:
    headers = {"X-Forwarded-For": forwarded_for} if forwarded_for else {}
    socket = await connect(server.ws_url, local_addr=(source, 0), additional_headers=headers)
    one = RawSession(socket, account.token("ann"))
    await one.say("hello", token=one.token, **hello)
    one.greeting = await one.take()
    return one


async def leave(one: RawSession) -> None:
    await one.say("bye")
    assert await one.closed() == 1000


def region_of(answer: Json) -> str:
    """That of the first URL; what every client tries first."""
    host = answer["ice_servers"][0]["urls"][0].split(":")[1]
    return next(region for region, known in HOSTS.items() if known == host)


@contextlib.asynccontextmanager
async def as_operator(server: Server, account: Account) -> AsyncIterator[httpx.AsyncClient]:
    headers, params = {"Authorization": f"Bearer {ADMIN}"}, {"account": account.sid}
    async with httpx.AsyncClient(
        base_url=server.url, headers=headers, params=params, timeout=PATIENCE_S
    ) as http:
        yield http


async def bound_to(server: Server, account: Account, answer: Json) -> str | None:
    """The only address that may use the credential; its record may still be on its way."""
    name = answer["ice_servers"][0]["username"].partition(":")[2]
    async with as_operator(server, account) as http, asyncio.timeout(PATIENCE_S):
        while True:
            found = await http.get(f"/v1/tokens/{name}")
            if found.status_code == 200:
                address: str | None = found.json()["terms"].get("address")
                return address
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(("source", "region"), [(WEST, "west"), (EAST, "east"), (ELSEWHERE, "far")])
async def test_the_region_is_that_of_the_address(
    servers: list[Server], source: str, region: str
) -> None:
    for server in servers:
        ann = await enter(server, FREE, source)
        assert region_of(ann.greeting) == region
        await ann.say("ice_servers")
        assert region_of(await ann.until("ice_servers")) == region
        await ann.say("ice_servers", region="east")
        assert region_of(await ann.until("ice_servers")) == "east", "a wish goes first"
        await leave(ann)


async def test_what_is_pushed_is_for_the_address(servers: list[Server]) -> None:
    """Asked for once, it comes again before it expires."""

    async def pushed_at(server: Server) -> None:
        ann = await enter(server, BOUND, WEST)
        await ann.say("ice_servers", ttl=SHORT_S)
        asked, pushed = await ann.until("ice_servers"), await ann.until("ice_servers")
        assert asked["ice_servers"][0]["username"] != pushed["ice_servers"][0]["username"]
        assert (region_of(pushed), await bound_to(server, BOUND, pushed)) == ("west", WEST)
        await leave(ann)

    await asyncio.gather(*map(pushed_at, servers))


@pytest.mark.parametrize(("account", "is_bound"), [(BOUND, True), (FREE, False)])
async def test_a_credential_is_bound_to_the_address(
    servers: list[Server], account: Account, is_bound: bool
) -> None:
    for server in servers:
        ann = await enter(server, account, EAST)
        await ann.say("ice_servers")
        for answer in (ann.greeting, await ann.until("ice_servers")):
            assert await bound_to(server, account, answer) == (EAST if is_bound else None)
        await leave(ann)


async def test_a_session_that_has_moved_has_those_of_its_new_address(
    servers: list[Server],
) -> None:
    first, last = servers[0], servers[-1]
    ann = await enter(first, BOUND, WEST)
    resume = {"session": ann.greeting["session"], "secret": ann.secret, "last_seq": ann.last_seq}
    moved = await enter(last, BOUND, EAST, resume=resume)
    assert moved.greeting["type"] == "resumed"
    moved.last_seq = ann.last_seq
    await moved.say("ice_servers")
    answer = await moved.until("ice_servers")
    assert (region_of(answer), await bound_to(last, BOUND, answer)) == ("east", EAST)
    ann.kill()
    await leave(moved)


async def test_a_trusted_proxy_says_whose_address_it_is(servers: list[Server]) -> None:
    server = servers[0]
    for source, address in ((PROXY, EAST), (WEST, WEST)):
        ann = await enter(server, BOUND, source, forwarded_for=EAST)
        assert await bound_to(server, BOUND, ann.greeting) == address
        await leave(ann)


async def test_over_http(servers: list[Server]) -> None:
    server = servers[-1]
    transport = httpx.AsyncHTTPTransport(local_address=WEST)
    async with httpx.AsyncClient(base_url=server.url, transport=transport, timeout=30) as http:
        hello = {"type": "hello", "token": BOUND.token("ann")}
        welcome = (await http.post("/v1/sessions", json=hello)).json()
        assert region_of(welcome) == "west"
        assert await bound_to(server, BOUND, welcome) == WEST
        path = f"/v1/sessions/{welcome['session']}"
        http.headers["Authorization"] = f"Bearer {welcome['resume']['secret']}"
        await http.post(f"{path}/messages", content=json.dumps([{"type": "ice_servers"}]))
        (answer,) = (await http.get(f"{path}/messages?after=0")).json()["messages"]
        assert (region_of(answer), await bound_to(server, BOUND, answer)) == ("west", WEST)
        assert (await http.delete(path)).status_code == 204
