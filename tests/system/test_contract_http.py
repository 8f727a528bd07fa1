"""What an HTTP client of a running server relies on: the fallback by hand, origins, errors, pages
for operators, webhooks."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from accounts import Account
from raw_session import RawSession
from rtc import traceless, until
from servers import Server, start_serve
from webhook_receiver import SECRET, Receiver
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

HOME = Account()
ADMIN = "admin-token-of-the-contract-tests"
ORIGIN = "https://app.parley.test"
REGION = "https://eu.parley.test"
CONFIG = f"""
[server]
port = 0
drain_s = 0
admin_token = "{ADMIN}"

[cors]
origins = ["{ORIGIN}"]

[calls]
lifetime_min_s = 0.3

[turn]
secret = "a-secret-that-only-this-test-has-and-no-other"
urls = ["turn:192.0.2.1:3478?transport=udp"]

[[regions]]
id = "eu"
url = "{REGION}"

{HOME.toml}
"""
AS_ADMIN = {"Authorization": f"Bearer {ADMIN}"}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with start_serve(CONFIG) as server:
        yield server
        assert server.metric("signaling_internal_errors_total") == 0
        assert traceless(server.log_file)


@pytest.fixture
async def http(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, timeout=15) as client:
        yield client


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


# The session over HTTP ----------------------------------------------------------------------------


async def test_a_session_by_hand(server: Server, http: httpx.AsyncClient) -> None:
    """As somebody with curl would try it."""
    ann = await RawSession.open(server.ws_url, HOME.token("ann"), room="by-hand")
    hello = {"type": "hello", "token": HOME.token("bob"), "room": "by-hand", "id": 7}
    began = await http.post("/v1/sessions", json=hello)
    assert began.status_code == 201
    welcome = began.json()
    assert welcome["type"] == "welcome"
    assert welcome["results"] == [{"type": "ok", "id": 7, "room": "by-hand"}]
    path, secret = f"/v1/sessions/{welcome['session']}", bearer(welcome["resume"]["secret"])
    assert began.headers["location"] == path

    polled = (await http.get(f"{path}/messages?after=0&wait=5", headers=secret)).json()
    assert [(each["seq"], each["type"]) for each in polled["messages"]] == [(1, "room")]
    said = [
        {"type": "message", "to": ann.peer, "data": 1, "id": 1},
        {"type": "message", "to": "p_nobody", "data": 2, "id": 2},
        {"type": "ping", "t": 3},
    ]
    posted = await http.post(f"{path}/messages", json=said, headers=secret)
    assert posted.status_code == 200
    assert [(each["type"], each.get("id")) for each in posted.json()["results"]] == [
        *(("ok", 1), ("error", 2)),
        ("pong", None),
    ]
    assert (await ann.until("message"))["from"] == welcome["peer"]

    waiting = asyncio.create_task(http.get(f"{path}/messages?after=1&wait=25", headers=secret))
    await ann.say("message", to=welcome["peer"], data="news")
    answer = (await waiting).json()
    assert [(each["seq"], each["data"]) for each in answer["messages"]] == [(2, "news")]
    assert answer["next"] == 2

    await ann.say("message", to=welcome["peer"], data="more")
    events = await _events(http, path, {**secret, "Last-Event-ID": "2"})
    assert (events["id"], json.loads(events["data"])["data"]) == ("3", "more")

    resume = {"session": welcome["session"], "secret": welcome["resume"]["secret"], "last_seq": 3}
    socket = await RawSession.open(server.ws_url, HOME.token("bob"), resume=resume)
    assert socket.greeting["type"] == "resumed"
    gone = await http.get(f"{path}/messages?after=3", headers=secret)
    assert (gone.status_code, gone.json()["code"]) == (401, "superseded")
    resume = {**resume, "secret": socket.secret}
    back = await http.post("/v1/sessions", json={**hello, "resume": resume})
    assert (back.status_code, back.json()["type"]) == (201, "resumed")
    assert await socket.closed() == 4502
    ended = await http.delete(path, headers=bearer(back.json()["resume"]["secret"]))
    assert ended.status_code == 204
    assert (await ann.until("peer_left"))["reason"] == "left"
    ann.kill()


async def _events(http: httpx.AsyncClient, path: str, headers: dict[str, str]) -> dict[str, str]:
    """The first event that has an id."""
    event: dict[str, str] = {}
    async with http.stream("GET", f"{path}/events", headers=headers) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        async for line in stream.aiter_lines():
            name, _, value = line.partition(":")
            event[name] = value.strip()
            if not line and "id" in event:
                break
            if not line:
                event = {}
    return event


async def test_a_hello_whose_room_is_refused_says_so(http: httpx.AsyncClient) -> None:
    token = HOME.token("ann", room="mine")
    hello = {"type": "hello", "token": token, "room": "other", "id": "h"}
    welcome = (await http.post("/v1/sessions", json=hello)).json()
    assert welcome["type"] == "welcome"
    (refusal,) = welcome["results"]
    assert (refusal["type"], refusal["code"], refusal["id"]) == ("error", "forbidden", "h")
    secret = bearer(welcome["resume"]["secret"])
    assert (await http.delete(f"/v1/sessions/{welcome['session']}", headers=secret)).is_success


# Origins ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "is_let_in"),
    [
        (ORIGIN, True),
        (REGION, True),
        (f"{ORIGIN}.evil.test", False),
        ("null", False),
        ("http://app.parley.test", False),
    ],
)
async def test_browsers_come_from_listed_origins_only(
    server: Server, http: httpx.AsyncClient, origin: str, is_let_in: bool
) -> None:
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    asked["Access-Control-Request-Headers"] = "authorization,content-type"
    for path in ("/v1/sessions", "/v1/ice-servers", "/v1/probes/sessions"):
        preflight = await http.options(path, headers=asked)
        assert (preflight.status_code == 200) is is_let_in, path
        allowed = preflight.headers.get("access-control-allow-origin")
        assert allowed == (origin if is_let_in else None)
    answer = await http.get("/healthz", headers={"Origin": origin})
    allowed = answer.headers.get("access-control-allow-origin")
    assert allowed == (origin if is_let_in else None)
    if is_let_in:
        async with connect(server.ws_url, origin=origin):  # type: ignore[arg-type]
            pass
    else:
        with pytest.raises(InvalidStatus) as refused:
            await connect(server.ws_url, origin=origin)  # type: ignore[arg-type]
        assert refused.value.response.status_code == 403
        assert json.loads(refused.value.response.body)["code"] == "forbidden"


@pytest.mark.parametrize("port", ["", ":8443"])
async def test_a_page_of_this_server_is_let_in(server: Server, port: str) -> None:
    """Also behind a proxy that speaks TLS in its stead and passes on the name it was asked by."""
    host = f"calls.parley.test{port}"
    headers = {"Host": host, "Origin": f"https://{host}"}
    name = server.ws_url.removeprefix("ws://").partition("/")[0].partition(":")
    reader, writer = await asyncio.open_connection(name[0], int(name[2]))
    asked = {**headers, "Connection": "Upgrade", "Upgrade": "websocket"}
    asked |= {"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    lines = [f"{field}: {value}" for field, value in asked.items()]
    writer.write("\r\n".join(["GET /v1/signal HTTP/1.1", *lines, "", ""]).encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 101 ")
    writer.close()
    await writer.wait_closed()


# Errors and pages for operators -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "not_found"),
        ("GET", "/v1/sessions", 405, "method_not_allowed"),
        ("POST", "/healthz", 405, "method_not_allowed"),
        ("GET", "/v1/rooms", 401, "unauthenticated"),
        ("POST", "/v1/drain", 401, "unauthenticated"),
        ("GET", "/v1/ice-servers", 401, "unauthenticated"),
        ("GET", "/v1/sessions/s_x/messages", 401, "unauthenticated"),
    ],
)
async def test_an_error_is_a_problem_with_a_code(
    http: httpx.AsyncClient, method: str, path: str, status: int, code: str
) -> None:
    answer = await http.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["title"]
    assert ("www-authenticate" in answer.headers) is (status == 401)
    assert ("allow" in answer.headers) is (status == 405)


async def test_what_operators_read(server: Server, http: httpx.AsyncClient) -> None:
    session = await RawSession.open(server.ws_url, HOME.token("ann"), room="of-an-operator")
    for path, kind in (
        ("/healthz", "text/plain"),
        ("/readyz", "text/plain"),
        ("/metrics", "text/plain; version=0.0.4"),
        ("/openapi.json", "application/json"),
        ("/asyncapi.json", "application/json"),
        ("/", "text/html"),
        ("/demo", "text/html"),
        ("/diagnostics", "text/html"),
        ("/js/parley.js", "text/javascript"),
        ("/js/parley-probes.js", "text/javascript"),
    ):
        answer = await http.get(path)
        assert answer.status_code == 200, path
        assert answer.headers["content-type"].startswith(kind), path
    page = (await http.get("/metrics")).text
    families = re.findall(r"^# TYPE (\S+) ", page, re.MULTILINE)
    assert families
    assert all(name.startswith(("signaling_", "turn_broker_", "probe_")) for name in families)
    secrets = (session.peer, session.greeting["session"], session.secret, "of-an-operator", "ann")
    for secret in secrets:
        assert not re.search(rf'[{{,][^}}]*="{re.escape(secret)}"', page)
    assert ADMIN not in page
    session.kill()


async def test_the_server_api(server: Server, http: httpx.AsyncClient) -> None:
    ann = await RawSession.open(server.ws_url, HOME.token("ann", name="Ann"), room="api")
    await ann.until("room")
    listed = (await http.get("/v1/rooms", headers=AS_ADMIN)).json()["rooms"]
    assert "api" in [each["room"] for each in listed]
    found = (await http.get("/v1/rooms/api", headers=AS_ADMIN)).json()
    (member,) = found["members"]
    assert {"peer": ann.peer, "identity": "ann"}.items() <= member.items()
    said = await http.post("/v1/rooms/api/messages", json={"data": {"x": 1}}, headers=AS_ADMIN)
    assert said.status_code == 202
    assert (await ann.until("message"))["data"] == {"x": 1}
    kicked = await http.delete(f"/v1/rooms/api/peers/{ann.peer}", headers=AS_ADMIN)
    assert kicked.status_code == 204
    assert await ann.closed() == 4503
    again = await ann.resume(server.ws_url)
    assert again.greeting["code"] == "resume_expired", "a kick is no lost connection"
    again.kill()
    bob = await RawSession.open(server.ws_url, HOME.token("bob"), room="api")
    await bob.until("room")
    assert (await http.delete("/v1/rooms/api", headers=AS_ADMIN)).status_code == 204
    assert await bob.closed() == 4504


# Webhooks -----------------------------------------------------------------------------------------


async def test_webhooks_tell_what_happens() -> None:
    """Every kind of event, from a real server, signed, numbered per room."""
    receiver = Receiver()
    await receiver.start()
    hooks = f'[[webhooks.endpoints]]\nurl = "{receiver.url}"\nsecrets = ["{SECRET}"]\n'
    with start_serve(CONFIG.replace("[[accounts]]", f"{hooks}\n[[accounts]]", 1)) as server:
        ann = await RawSession.open(server.ws_url, HOME.token("ann"), room="hooks")
        bob = await RawSession.open(server.ws_url, HOME.token("bob"), room="hooks")
        invited = await ann.ask("call_invite", id=1, to="bob", room="hooks")
        await bob.until("call_invite")
        await bob.say("call_accept", call=invited["call"])
        await ann.until("call_accepted")
        await ann.say("call_hangup", call=invited["call"])
        await bob.until("call_ended")
        await ann.ask("call_invite", id=2, to="nobody")
        for one in (ann, bob):
            await one.say("bye")
            await one.closed()
        await until(lambda: "room.closed" in [each.event["type"] for each in receiver.arrived])
    events: list[dict[str, Any]] = [each.event for each in receiver.arrived]
    assert {event["type"] for event in events} == {
        *("room.created", "room.closed", "peer.joined", "peer.left"),
        *("call.invited", "call.accepted", "call.ended", "push.requested"),
    }
    by_room: dict[str | None, list[int]] = {}
    for event in events:
        assert event.keys() >= {"type", "timestamp", "account", "room", "sequence", "data"}
        assert event["account"] == HOME.sid
        by_room.setdefault(event["room"], []).append(event["sequence"])
    for numbers in by_room.values():
        assert numbers == list(range(1, len(numbers) + 1))
    await receiver.stop()
