"""Whose rooms and calls the server API shows and changes: on one node, and asked at another."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple

import httpx
import pytest
from accounts import Account
from raw_session import RawSession
from redis_server import has_redis, start_redis
from servers import Server, start_serve

from signal_server.core.state import FORMAT

HERE, THERE = Account(1), Account(2)
ADMIN = "admin-token-of-the-server-api-tests"
NOBODY = "AC" + "9" * 32
_rooms = (f"room-{number}" for number in itertools.count())

Json = dict[str, Any]


class Deployment(NamedTuple):
    home: Server
    """Where the sessions are."""
    asked: Server


def config(name: str, redis_url: str = "") -> str:
    return f"""
[server]
port = 0
drain_s = 0
admin_token = "{ADMIN}"
[node]
name = "{name}"
[backplane]
url = "{redis_url}"
[turn]
secret = "a-secret-that-only-this-test-has-and-no-other"
urls = ["turn:192.0.2.1:3478?transport=udp"]
{HERE.toml}
{THERE.toml}
"""


@pytest.fixture(scope="module", params=["memory", "redis"])
def deployment(request: pytest.FixtureRequest) -> Iterator[Deployment]:
    with contextlib.ExitStack() as running:
        if request.param == "memory":
            server = running.enter_context(start_serve(config("a")))
            yield Deployment(server, server)
            return
        if not has_redis():
            pytest.skip("needs redis-server")
        url = running.enter_context(start_redis()).url
        nodes = [running.enter_context(start_serve(config(name, url))) for name in "ab"]
        yield Deployment(*nodes)


@pytest.fixture
async def http(deployment: Deployment) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=deployment.asked.url, timeout=30) as client:
        yield client


@pytest.fixture
def room() -> str:
    """A name that both accounts use."""
    return next(_rooms)


def bearer(token: str) -> dict[str, Any]:
    return {"headers": {"Authorization": f"Bearer {token}"}}


def admin_of(account: Account, **claims: Any) -> dict[str, Any]:
    return bearer(account.token("boss", grants={"admin": True}, **claims))


async def enter(deployment: Deployment, account: Account, identity: str, room: str) -> RawSession:
    one = await RawSession.open(deployment.home.ws_url, account.token(identity), room=room)
    await one.until("room")
    return one


def members(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [member["identity"] for member in answer.json()["members"]]


def refusal(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


async def test_each_account_has_its_own(
    deployment: Deployment, http: httpx.AsyncClient, room: str
) -> None:
    """Two rooms of one name: whoever asks sees, and removes from, that of his account."""
    ann = await enter(deployment, HERE, "ann", room)
    zoe = await enter(deployment, THERE, "zoe", room)
    path = f"/v1/rooms/{room}"
    for how, who in (
        (admin_of(HERE), "ann"),
        (admin_of(THERE), "zoe"),
        ({"auth": (THERE.sid, THERE.auth_token)}, "zoe"),
        ({"auth": (THERE.key_sid, THERE.secret)}, "zoe"),
        (bearer(ADMIN), "ann"),
        (bearer(ADMIN) | {"params": {"account": HERE.sid}}, "ann"),
        (bearer(ADMIN) | {"params": {"account": THERE.sid}}, "zoe"),
    ):
        assert members(await http.get(path, **how)) == [who]
        listed = (await http.get("/v1/rooms", **how)).json()["rooms"]
        assert [each["peers"] for each in listed if each["room"] == room] == [1]

    wrong = await http.delete(f"{path}/peers/{ann.peer}", **admin_of(THERE))
    assert refusal(wrong) == (404, "not_found")
    said = await http.post(f"{path}/messages", json={"data": "hi"}, **admin_of(THERE))
    assert said.status_code == 202
    assert (await zoe.until("message"))["data"] == "hi"
    assert (await http.delete(f"{path}/peers/{zoe.peer}", **admin_of(THERE))).status_code == 204
    assert await zoe.closed() == 4503
    assert members(await http.get(path, **admin_of(HERE))) == ["ann"]
    assert (await http.delete(path, **admin_of(HERE))).status_code == 204
    assert await ann.closed() == 4504
    assert [each["type"] for each in ann.log] == ["room"]


async def test_a_call_is_its_accounts(deployment: Deployment, http: httpx.AsyncClient) -> None:
    ann = await RawSession.open(deployment.home.ws_url, THERE.token("ann"))
    path = f"/v1/calls/{(await ann.ask('call_invite', to='bob', id='c'))['call']}"
    assert (await http.get(path, **admin_of(THERE))).json()["state"] == "invited"
    assert refusal(await http.get(path, **admin_of(HERE))) == (404, "not_found")
    assert refusal(await http.get(path, **bearer(ADMIN))) == (404, "not_found")
    other = bearer(ADMIN) | {"params": {"account": THERE.sid}}
    assert (await http.get(path, **other)).status_code == 200
    await ann.say("bye")
    assert await ann.closed() == 1000


@pytest.mark.parametrize("path", ["/v1/rooms", "/v1/rooms/r", "/v1/calls/c_x"])
async def test_who_may_not(http: httpx.AsyncClient, path: str) -> None:
    theirs: dict[str, Any] = {"params": {"account": THERE.sid}}
    assert refusal(await http.get(path)) == (401, "unauthenticated")
    assert refusal(await http.get(path, **bearer(HERE.token("ann")))) == (403, "forbidden")
    assert refusal(await http.get(path, **admin_of(HERE), **theirs)) == (403, "forbidden")
    own = (HERE.sid, HERE.auth_token)
    assert refusal(await http.get(path, auth=own, **theirs)) == (403, "forbidden")
    unknown = await http.get(path, **admin_of(HERE), params={"account": NOBODY})
    assert refusal(unknown) == (403, "forbidden"), "who may not ask does not learn who exists"
    nobodys = await http.get(path, **bearer(ADMIN), params={"account": NOBODY})
    assert refusal(nobodys) == (404, "not_found")
    old = admin_of(HERE, exp=1)
    assert refusal(await http.get(path, **old)) == (401, "token_expired")


async def test_a_token_for_some_rooms_administers_these(http: httpx.AsyncClient) -> None:
    moderator = admin_of(HERE, room="lobby-*")
    assert refusal(await http.get("/v1/rooms/lobby-1", **moderator)) == (404, "not_found")
    for path in ("/v1/rooms/other", "/v1/rooms", "/v1/calls/c_x", "/v1/identities/ann/usage"):
        assert refusal(await http.get(path, **moderator)) == (403, "forbidden")
    assert refusal(await http.delete("/v1/rooms/other", **moderator)) == (403, "forbidden")


def test_nodes_say_the_format_that_they_share(deployment: Deployment) -> None:
    has_redis_behind = deployment.home is not deployment.asked
    for server in deployment:
        assert (f'"state_format": "{FORMAT}"' in server.log()) is has_redis_behind


async def test_only_the_operator_drains(http: httpx.AsyncClient) -> None:
    for how in (admin_of(HERE), admin_of(THERE), {"auth": (THERE.sid, THERE.auth_token)}):
        assert refusal(await http.post("/v1/drain", **how)) == (403, "forbidden")
    assert (await http.get("/readyz")).status_code == 200


async def test_guessing_shuts_out() -> None:
    """On a server of its own: the address is everybody's in the others."""
    with start_serve(config("a")) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
            wrong = [await http.get("/v1/rooms", **bearer(f"guess-{n}")) for n in range(12)]
            answer = await http.get("/v1/rooms", **bearer(ADMIN))
    assert refusal(wrong[0]) == (401, "unauthenticated")
    assert refusal(answer) == refusal(wrong[-1]) == (429, "rate_limited")
    assert int(answer.headers["retry-after"]) > 0
