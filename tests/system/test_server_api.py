"""The server API and the end of a node, against a running server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from servers import Parley, start_parley
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedError

Json = dict[str, Any]


@pytest.fixture
def parley() -> Iterator[Parley]:
    with start_parley("--resume-window", "30") as running:
        yield running


class Peer:
    """A client by hand."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.welcome: Json = {}

    async def say(self, kind: str, **fields: Any) -> None:
        await self.socket.send(json.dumps({"type": kind, **fields}))

    async def hear(self, *kinds: str) -> Json:
        """The next message of one of these types."""
        async with asyncio.timeout(10):
            while True:
                message: Json = json.loads(await self.socket.recv())
                if message["type"] in kinds:
                    return message

    async def closed(self) -> int:
        """The code with which the server closes."""
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionClosedError):
                async for _ in self.socket:
                    pass
        assert self.socket.close_code is not None
        return self.socket.close_code


@asynccontextmanager
async def peer(parley: Parley, identity: str, room: str | None = "r") -> AsyncIterator[Peer]:
    async with connect(parley.ws_url) as socket:
        one = Peer(socket)
        token = await asyncio.to_thread(parley.token, identity)
        await one.say("hello", token=token, **({"room": room} if room else {}))
        one.welcome = await one.hear("welcome")
        yield one


def api(parley: Parley, method: str, path: str, body: Any = None, token: str | None = None) -> Any:
    """Status and body of one call."""
    request = urllib.request.Request(
        parley.url + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {token or parley.admin_token}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            text = reply.read()
            return reply.status, json.loads(text) if text else None
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, json.loads(refusal.read())["code"]


async def call(parley: Parley, *args: Any, **fields: Any) -> Any:
    return await asyncio.to_thread(api, parley, *args, **fields)


async def test_rooms_are_listed_spoken_to_and_closed(parley: Parley) -> None:
    async with peer(parley, "ann") as ann, peer(parley, "bob") as bob:
        await ann.hear("peer_joined")
        status, listed = await call(parley, "GET", "/v1/rooms")
        assert (status, [(r["room"], r["peers"]) for r in listed["rooms"]]) == (200, [("r", 2)])
        _, room = await call(parley, "GET", "/v1/rooms/r")
        assert [m["identity"] for m in room["members"]] == ["ann", "bob"]
        said = await call(parley, "POST", "/v1/rooms/r/messages", {"data": {"text": "hi"}})
        assert said == (202, None)
        for one in (ann, bob):
            message = await one.hear("message")
            assert (message["from"], message["data"]) == ("server", {"text": "hi"})
        assert await call(parley, "DELETE", "/v1/rooms/r") == (204, None)
        assert [await ann.closed(), await bob.closed()] == [4504, 4504]
        assert await call(parley, "GET", "/v1/rooms/r") == (404, "not_found")


async def test_a_rooms_name_may_have_slashes(parley: Parley) -> None:
    async with peer(parley, "ann", "team/a~b/%") as ann, peer(parley, "bob", "team/a~b/%"):
        path = "/v1/rooms/team%2Fa~b%2F%25"
        _, room = await call(parley, "GET", path)
        assert (room["room"], len(room["members"])) == ("team/a~b/%", 2)
        assert await call(parley, "POST", f"{path}/messages", {"data": 1}) == (202, None)
        kicked = f"{path}/peers/{ann.welcome['peer']}"
        assert await call(parley, "DELETE", kicked) == (204, None)
        assert await ann.closed() == 4503
        assert await call(parley, "DELETE", path) == (204, None)


async def test_a_ban_beats_a_valid_token(parley: Parley) -> None:
    async with peer(parley, "ann") as ann, peer(parley, "bob") as bob:
        path = f"/v1/rooms/r/peers/{bob.welcome['peer']}"
        assert await call(parley, "DELETE", f"{path}?ban_s=-1") == (400, "bad_request")
        assert await call(parley, "DELETE", f"{path}?ban_s=60") == (204, None)
        assert await bob.closed() == 4503
        assert (await ann.hear("peer_left"))["reason"] == "kicked"
        async with peer(parley, "bob", None) as again:
            await again.say("join", room="r", id=1)
            assert (await again.hear("ok", "error"))["code"] == "forbidden"
        assert await call(parley, "DELETE", path) == (404, "not_found")


async def test_the_timeline_of_a_call(parley: Parley) -> None:
    async with peer(parley, "ann") as ann, peer(parley, "bob") as bob:
        await ann.say("call_invite", to="bob", media={"audio": True}, room="r", id=1)
        name = (await ann.hear("ok"))["call"]
        await bob.hear("call_invite")
        await bob.say("call_accept", call=name)
        await ann.hear("call_accepted")
        await ann.say("call_hangup", call=name)
        await bob.hear("call_ended")
        status, timeline = await call(parley, "GET", f"/v1/calls/{name}")
        events = [event["event"] for event in timeline["events"]]
        assert (status, timeline["state"], events[0]) == (200, "ended", "invited")
        assert "accepted" in events
        assert await call(parley, "GET", "/v1/calls/c_none") == (404, "not_found")


async def test_who_may_not(parley: Parley) -> None:
    for method, path in (("GET", "/v1/rooms"), ("DELETE", "/v1/rooms/r"), ("POST", "/v1/drain")):
        assert await call(parley, method, path, token="wrong") == (401, "unauthenticated")
        without = await call(parley, method, path, token=parley.access_token)
        assert without == (403, "forbidden")
    assert await call(parley, "POST", "/v1/rooms/r/messages", {"data": 1}) == (404, "not_found")
    async with peer(parley, "ann"):
        bad = await call(parley, "POST", "/v1/rooms/r/messages", {"text": 1})
        assert bad == (400, "bad_request")


@pytest.mark.parametrize("how", ["signal", "api"])
async def test_a_node_says_good_bye(parley: Parley, how: str) -> None:
    async with peer(parley, "ann") as ann, peer(parley, "bob") as bob:
        if how == "signal":
            parley.process.send_signal(signal.SIGTERM)
        else:
            assert await call(parley, "POST", "/v1/drain") == (202, None)
        for one in (ann, bob):
            assert (await one.hear("go_away"))["reason"] == "shutdown"
            assert await one.closed() == 4000
    assert await asyncio.to_thread(parley.process.wait, 10) == 0
