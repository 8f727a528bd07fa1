"""One scenario over WebSocket, long poll and server-sent events, direct and behind proxies."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import jwt
import pytest
from links import DEADLINE_S, LINKS, WAIT_S, HttpLink, Json, Talker
from proxies import PROXIES, start_proxy
from servers import Server, start_serve
from switchboard_driver import candidate, sdp

IS_LONG = os.environ.get("PARLEY_LONG") == "1"
IDLE_S, PING_S = (30, 10.0) if IS_LONG else (3, 2.0)
"""After which the proxies end what is silent, and after which the server breaks its silence;
PARLEY_LONG=1 takes what proxies and servers have in production."""
ACCOUNT, KEY = "AC1" + "0" * 31, "SK1" + "0" * 31
_SECRET = secrets.token_hex(32)
CONFIG = f"""
[server]
port = 0
drain_s = 0

[limits]
ping_interval_s = {PING_S}
ping_timeout_s = 1.0
outbox_messages = 200

[turn]
secret = "{secrets.token_hex(32)}"
urls = ["turn:192.0.2.1:3478"]

[[accounts]]
sid = "{ACCOUNT}"
auth_token = "{secrets.token_hex(32)}"
keys = [{{sid = "{KEY}", secret = "{_SECRET}"}}]
"""
WAYS = tuple(LINKS)
HTTP_WAYS = ("long-poll", "sse")
_rooms = (f"room-{number}" for number in itertools.count())


def token(identity: str) -> str:
    now = int(time.time())
    claims = {"iss": ACCOUNT, "aud": "parley", "sub": identity, "iat": now, "exp": now + 600}
    return jwt.encode(claims, _SECRET, algorithm="HS256", headers={"kid": KEY})


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with start_serve(CONFIG) as server:
        yield server
        assert server.metric("signaling_internal_errors_total") == 0
        log = server.log()
        assert "Traceback" not in log, log
        assert "ASGI" not in log, log


@pytest.fixture(scope="module", params=["direct", *PROXIES])
def url(
    request: pytest.FixtureRequest, server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The way to the server: direct, or through a proxy."""
    program = request.param
    if program == "direct":
        yield server.url
        return
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    home = tmp_path_factory.mktemp(program)
    with start_proxy(program, home, urlsplit(server.url).netloc, IDLE_S) as url:
        yield url


@asynccontextmanager
async def two(url: str, one_way: str, other_way: str) -> AsyncIterator[tuple[Talker, Talker]]:
    """Two clients in one room."""
    ann, bob = Talker(url, token("ann")), Talker(url, token("bob"))
    room = next(_rooms)
    async with contextlib.AsyncExitStack() as stack:
        for talker, way in ((ann, one_way), (bob, other_way)):
            assert (await talker.hello(way))["type"] == "welcome"
            stack.push_async_callback(_cut, talker)
            await talker.ask("join", room=room)
        await ann.sees("peer_joined")
        yield ann, bob
        await asyncio.gather(ann.ask("bye"), bob.ask("bye"))


async def _cut(talker: Talker) -> None:
    await talker.link.cut()


def data_of(talker: Talker) -> list[Any]:
    return [message["data"] for message in talker.of_type("message")]


async def negotiate(ann: Talker, bob: Talker) -> None:
    """Offer, answer and both sides' candidates."""
    await ann.ask("offer", to=bob.peer, sdp=sdp(("0", "aaaa")))
    offer = await bob.sees("offer")
    assert (offer["from"], offer["sdp"]) == (ann.peer, sdp(("0", "aaaa")))
    number = offer["negotiation"]
    for n in range(1, 6):
        await ann.ask("candidate", to=bob.peer, candidate=candidate(n, "aaaa"), negotiation=number)
    await bob.ask("answer", to=ann.peer, sdp=sdp(("0", "bbbb")), negotiation=number)
    trickled = [candidate(n, "bbbb") for n in range(1, 6)]
    await bob.ask("candidate", to=ann.peer, candidates=trickled, negotiation=number)
    for listener, ufrag in ((ann, "bbbb"), (bob, "aaaa")):
        await listener.until(lambda listener=listener: len(_candidates(listener)) >= 5)  # type: ignore[misc]
        assert _candidates(listener) == [candidate(n, ufrag)["candidate"] for n in range(1, 6)]
    kinds = [message["type"] for message in bob.messages]
    assert kinds.index("offer") < kinds.index("candidate")
    kinds = [message["type"] for message in ann.messages]
    assert kinds.index("answer") < kinds.index("candidate")


def _candidates(talker: Talker) -> list[str]:
    return [
        each["candidate"]
        for message in talker.of_type("candidate")
        for each in message["candidates"]
    ]


async def chat(sender: Talker, receiver: Talker, numbers: range) -> None:
    """Say the numbers one after another."""
    for number in numbers:
        await sender.ask("message", to=receiver.peer, data=number)


@pytest.mark.parametrize("way", WAYS)
async def test_the_conversation(url: str, way: str) -> None:
    async with two(url, way, way) as (ann, bob):
        await negotiate(ann, bob)
        await asyncio.gather(chat(ann, bob, range(20)), chat(bob, ann, range(20)))
        for talker in (ann, bob):
            await talker.sees("message", 20)
            assert data_of(talker) == list(range(20))

        await ann.link.cut()
        lost = await bob.sees("peer_updated")
        assert (lost["peer"], lost["connected"]) == (ann.peer, False)
        await chat(bob, ann, range(20, 30))
        resumed = await ann.resume(way)
        assert (resumed["type"], resumed["replayed"]) == ("resumed", 10)
        assert [entry["peer"] for entry in resumed["rooms"][0]["peers"]] == [bob.peer]
        await ann.sees("message", 30)
        assert data_of(ann) == list(range(30))
        assert (await bob.sees("peer_updated", 2))["connected"] is True


async def test_changing_transport_loses_and_doubles_nothing(url: str) -> None:
    async with two(url, "websocket", "websocket") as (ann, bob):
        journey = ("long-poll", "sse", "websocket", "sse", "long-poll", "websocket")
        async with asyncio.TaskGroup() as talk:
            talk.create_task(chat(ann, bob, range(300)))
            talk.create_task(chat(bob, ann, range(300)))
            for number, way in enumerate(journey, 1):
                await ann.sees("message", number * 30)
                await ann.move(way)
        for talker in (ann, bob):
            await talker.sees("message", 300)
            assert data_of(talker) == list(range(300))
        assert bob.of_type("peer_updated") == bob.of_type("peer_left") == []


async def test_silence_longer_than_the_proxies_patience(url: str) -> None:
    async with asyncio.TaskGroup() as group:
        for way in WAYS:
            group.create_task(_silence(url, way))


async def _silence(url: str, way: str) -> None:
    async with two(url, way, way) as (ann, bob):
        began = time.monotonic()
        await asyncio.sleep(2 * IDLE_S + 1)
        await ann.ask("message", to=bob.peer, data="still there?")
        said = time.monotonic()
        await bob.sees("message")
        assert time.monotonic() - said < IDLE_S, "it is not held back on the way"
        assert bob.of_type("peer_updated") == []
        if way == "long-poll":
            assert bob.link.reads < 3 + (time.monotonic() - began) / WAIT_S
        else:
            assert bob.link.reads == 1, "the connection was never cut"


@pytest.mark.parametrize("way", HTTP_WAYS)
async def test_a_client_that_vanishes_is_lost(server: Server, way: str) -> None:
    async with two(server.url, "websocket", way) as (ann, bob):
        await bob.link.cut()
        gone = time.monotonic()
        assert (await ann.sees("peer_updated"))["connected"] is False
        assert PING_S < time.monotonic() - gone < PING_S + 3.0
        async with httpx.AsyncClient(base_url=server.url) as http:
            reply = await http.get(
                f"/v1/sessions/{bob.session}/messages?after=0",
                headers={"Authorization": f"Bearer {bob.secret}"},
            )
            assert (reply.status_code, reply.json()["code"]) == (404, "not_found")
        await ann.ask("message", to=bob.peer, data=1)
        replayed = (await bob.resume(way))["replayed"]
        assert replayed in (1, 2), "own loss is no news, the message is, and the room if unread"
        await bob.sees("message")


@pytest.mark.parametrize("way", HTTP_WAYS)
async def test_delete_says_bye(server: Server, way: str) -> None:
    ann, bob = Talker(server.url, token("ann")), Talker(server.url, token("bob"))
    room = next(_rooms)
    for talker in (ann, bob):
        await talker.hello(way, room=room)
    await ann.sees("peer_joined")
    assert isinstance(bob.link, HttpLink)
    assert await bob.link.leave() == 204
    assert (await ann.sees("peer_left"))["peer"] == bob.peer
    assert await bob.until(lambda: bob.link.ended) == "not_found"
    assert (await bob.resume(way))["code"] == "resume_expired"
    await bob.link.cut()
    await ann.ask("bye")
    await ann.link.cut()


async def test_a_gap_is_said(server: Server) -> None:
    """A client that never acknowledges hears what the log still has, or that it has not."""
    async with (
        two(server.url, "websocket", "sse") as (ann, bob),
        httpx.AsyncClient(base_url=server.url) as http,
    ):
        http.headers["Authorization"] = f"Bearer {bob.secret}"
        await chat(ann, bob, range(220))
        await bob.sees("message", 220)
        await bob.link.cut()
        path, last = f"/v1/sessions/{bob.session}/messages", bob.seq
        reply = await http.get(path, params={"after": 0})
        assert (reply.status_code, reply.json()["code"]) == (409, "resume_gap")
        reply = await http.get(path, params={"after": last - 100, "wait": 0})
        assert [each["seq"] for each in reply.json()["messages"]] == [*range(last - 99, last + 1)]
        assert reply.json()["next"] == last
        await bob.resume("websocket")


async def test_refusals(server: Server) -> None:
    """Every one has a code, and none of them harms the session."""
    async with two(server.url, "websocket", "long-poll") as (ann, bob):
        path = f"/v1/sessions/{bob.session}"
        async with httpx.AsyncClient(base_url=server.url, timeout=DEADLINE_S) as http:

            async def refused(method: str, path: str, secret: str = bob.secret, **more: Any) -> Any:
                headers = {"Authorization": f"Bearer {secret}"} if secret else {}
                reply = await http.request(method, path, headers=headers, **more)
                assert reply.headers["content-type"] == "application/problem+json", reply.text
                assert reply.headers["cache-control"] == "no-store"
                if reply.status_code == 401:
                    assert reply.headers["www-authenticate"] == 'Bearer realm="parley"'
                return reply.status_code, reply.json()["code"]

            for method, of in (
                *(("GET", "/messages"), ("POST", "/messages"), ("GET", "/events")),
                ("DELETE", ""),
            ):
                assert await refused(method, path + of, "") == (401, "unauthenticated")
                assert await refused(method, path + of, "x") == (401, "unauthenticated")
                assert await refused(method, path + "x" + of) == (404, "not_found")
                assert await refused(method, path + of, ann.secret) == (401, "unauthenticated")
                other = f"/v1/sessions/{ann.session}{of}"
                assert await refused(method, other, ann.secret) == (404, "not_found")
            post = (("POST", path + "/messages"), (400, "bad_request"))
            for body in ("", "{}", "[", "[1", '"a"', b"\xff", "[" * 100_000, "[{}]x"):
                assert await refused(*post[0], content=body) == post[1], body
            for query in (
                "after=-1",
                "after=x",
                "wait=31",
                "wait=nan",
                "wait=-1",
                "after=" + "9" * 30,
            ):
                assert await refused("GET", f"{path}/messages?{query}") == (400, "bad_request")
            assert await refused("GET", f"{path}/events?after=x") == (400, "bad_request")
            ping = {"type": "ping"}
            too_large = (413, "payload_too_large")
            assert await refused(*post[0], json=[ping] * 65) == too_large
            assert await refused(*post[0], json=[{**ping, "x": "x" * 132_000}]) == too_large
            assert await refused(*post[0], content=b"[" + b" " * 300_000 + b"]") == too_large
            headers = {"Authorization": f"Bearer {bob.secret}"}
            reply = await http.request("HEAD", path + "/messages", headers=headers)
            assert reply.status_code == 405
            bad = [1, {"type": "nonsense"}, {"type": "ping", "t": 7}, {"type": "hello"}]
            reply = await http.post(path + "/messages", json=bad, headers=headers)
            kinds = [(each["type"], each.get("code")) for each in reply.json()["results"]]
            assert kinds[:3] == [("error", "bad_request"), ("error", "bad_request"), ("pong", None)]
            assert kinds[3][0] == "error"
        await chat(ann, bob, range(3))
        await bob.sees("message", 3)


async def test_refused_hellos(server: Server) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=DEADLINE_S) as http:

        async def said(body: Any) -> tuple[int, str]:
            content = body if isinstance(body, str | bytes) else json.dumps(body)
            reply = await http.post("/v1/sessions", content=content)
            assert reply.headers["cache-control"] == "no-store"
            return reply.status_code, reply.json()["code"]

        hello: Json = {"type": "hello", "token": token("ann")}
        assert await said("") == (400, "bad_request")
        assert await said(b"\xff") == (400, "bad_request")
        assert await said([hello]) == (400, "bad_request")
        assert await said({"type": "ping"}) == (401, "unauthenticated")
        assert await said({"type": "hello"}) == (401, "unauthenticated")
        assert await said({**hello, "token": "x"}) == (401, "unauthenticated")
        assert await said(json.dumps({**hello, "data": "x" * 150_000})) == (
            413,
            "payload_too_large",
        )
        resume = {"session": "s_nobody", "secret": "x", "last_seq": 0}
        assert await said({**hello, "resume": resume}) == (410, "resume_expired")
        reply = await http.post(
            "/v1/sessions",
            json={"type": "hello"},
            headers={"Authorization": f"Bearer {hello['token']}"},
        )
        assert reply.status_code == 201, "the token may ride in the header"


@pytest.mark.parametrize("way", HTTP_WAYS)
async def test_a_second_get_takes_the_place_of_the_first(server: Server, way: str) -> None:
    async with two(server.url, "websocket", "long-poll") as (ann, bob):
        of = {"long-poll": "/messages?wait=20&after=", "sse": "/events?after="}[way]
        await bob.sees("room")
        link = bob.link
        link.is_muted = True
        await link.cut()
        async with httpx.AsyncClient(base_url=server.url, timeout=DEADLINE_S) as http:
            http.headers["Authorization"] = f"Bearer {bob.secret}"
            path = f"/v1/sessions/{bob.session}{of}{bob.seq}"
            waiting = {asyncio.create_task(http.get(path))}
            for _ in range(5):
                # Each has a connection of its own: which of the two comes first is open.
                waiting.add(asyncio.create_task(http.get(path)))
                ended, waiting = await asyncio.wait(
                    waiting, timeout=10, return_when=asyncio.FIRST_COMPLETED
                )
                (former,) = [each.result() for each in ended]
                assert former.status_code == 200
                assert b'"type"' not in former.content
            await ann.ask("message", to=bob.peer, data="once")
            if way == "sse":
                await bob.resume("websocket")
            (last,) = [await asyncio.wait_for(each, 10) for each in waiting]
            assert last.text.count("once") == 1
        if way == "long-poll":
            await bob.resume("websocket")


async def test_sigterm_ends_gets_that_wait() -> None:
    with start_serve(CONFIG.replace("drain_s = 0", "drain_s = 1")) as server:
        talkers = [Talker(server.url, token(way)) for way in HTTP_WAYS]
        for talker, way in zip(talkers, HTTP_WAYS, strict=True):
            await talker.hello(way)
            await talker.ask("join", room=next(_rooms))
            await talker.sees("room")
        server.process.terminate()
        began = time.monotonic()
        for talker in talkers:
            assert await talker.until(lambda talker=talker: talker.link.ended)  # type: ignore[misc]
            assert talker.of_type("go_away")
            await talker.link.cut()
        await asyncio.to_thread(server.process.wait, 15)
        assert time.monotonic() - began < 15, "a GET may wait longer"
        assert "Traceback" not in server.log()
        assert "ASGI" not in server.log(), server.log()
