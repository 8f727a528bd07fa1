"""The signaling client against a scripted server: what a real server does rarely, at will."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator

import msgspec
import pytest
from scripted import QUICK, Wire, next_of, scripted

from signal_server.client import SignalingClient
from signal_server.client_session import SessionLost
from signal_server.client_wire import ServerMessage, SignalingError
from signal_server.roster import Roster
from signal_server.wire import messages as wire
from signal_server.wire.codes import CloseCode


@pytest.fixture(autouse=True)
async def no_task_survives() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    left = {task for task in asyncio.all_tasks() - before if task.get_name().startswith("parley")}
    assert not left


def test_peer_every_server_message_can_be_read() -> None:
    assert set(ServerMessage.__args__) == set(wire.SERVER_MESSAGES)


async def test_peer_hello_join_and_roster() -> None:
    async def session(server: Wire, _: int) -> None:
        hello = await server.welcome()
        assert (hello["type"], hello["token"], hello["features"]) == ("hello", "t", ["gated"])
        join = await server.room("a", "b", revision=7)
        assert join["data"] == {"name": "Me"}
        await server.number(type="peer_left", peer="a", identity="other", revision=7, reason="x")
        await server.number(type="peer_left", peer="b", identity="other", revision=8, reason="x")
        await server.number(
            type="peer_joined", peer="c", identity="cy", revision=9, polite=True, data={"n": 1}
        )
        await server.number(
            type="peer_updated", peer="c", identity="cy", revision=11, data={"n": 2}
        )
        await server.number(type="message", **{"from": "c"}, identity="cy", data=1)
        await server.gone()

    async with (
        scripted(session) as url,
        SignalingClient(url, "t", room="blue", data={"name": "Me"}, settings=QUICK) as client,
    ):
        assert (client.peer, client.roster.room) == ("p1", "blue")
        await next_of(client, wire.RelayedMessage)
        assert list(client.roster.peers) == ["a", "c"], "revision 7 was in the snapshot"
        assert client.roster.peers["c"].polite
        assert bytes(client.roster.peers["c"].data) == b'{"n":2}'  # type: ignore[arg-type]
        assert client.roster.revision == 11


async def test_peer_requests_are_matched_by_id() -> None:
    async def session(server: Wire, _: int) -> None:
        await server.welcome()
        requests = [await server.take() for _ in range(3)]
        assert len({request["id"] for request in requests}) == 3
        by_type = {request["type"]: request["id"] for request in requests}
        await server.say(type="ok", id="of nobody")
        await server.say(type="ok", id=by_type["offer"], negotiation=4)
        await server.say(
            type="error",
            id=by_type["message"],
            code="rate_limited",
            message="slower",
            retryable=True,
            retry_after_ms=250,
        )
        await server.number(
            type="ice_servers", ice_servers=[{"urls": "stun:x"}], ttl=5, expires_at=9
        )
        await server.say(type="ok", id=by_type["ice_servers"])
        await server.gone()

    async with scripted(session) as url, SignalingClient(url, "t", settings=QUICK) as client:
        number, refused, ice = await asyncio.gather(
            client.offer("b", "v=0"),
            client.send("b", [1]),
            client.ice_servers(ttl=5),
            return_exceptions=True,
        )
        assert number == 4
        assert isinstance(refused, SignalingError)
        assert (refused.code, refused.retryable, refused.retry_after_s) == (
            "rate_limited",
            True,
            0.25,
        )
        assert isinstance(ice, wire.IceServers)


async def test_peer_request_times_out() -> None:
    async def session(server: Wire, _: int) -> None:
        await server.welcome()
        await server.gone()

    impatient = msgspec.structs.replace(QUICK, request_timeout_s=0.05)
    async with scripted(session) as url, SignalingClient(url, "t", settings=impatient) as client:
        with pytest.raises(SignalingError, match="no answer to update") as late:
            await client.update({})
        assert late.value.retryable


async def test_peer_refused_hello_is_typed() -> None:
    async def session(server: Wire, _: int) -> None:
        await server.take()
        await server.say(type="error", code="token_expired", message="expired")
        await server.socket.close(CloseCode.UNAUTHENTICATED)

    async with scripted(session) as url:
        with pytest.raises(SignalingError) as refused:
            await SignalingClient(url, "t", settings=QUICK).__aenter__()
    assert (refused.value.code, refused.value.retryable) == ("token_expired", False)


async def test_peer_refused_join_leaves_nothing_open() -> None:
    closed = asyncio.Event()

    async def session(server: Wire, _: int) -> None:
        await server.welcome()
        join = await server.take()
        await server.say(type="error", id=join["id"], code="room_full", message="", retryable=True)
        await server.gone()
        closed.set()

    async with scripted(session) as url:
        with pytest.raises(SignalingError, match="room_full"):
            await SignalingClient(url, "t", room="blue", settings=QUICK).__aenter__()
        await asyncio.wait_for(closed.wait(), 20)


async def test_peer_unreachable_server_is_typed() -> None:
    with pytest.raises(SignalingError) as failure:
        await SignalingClient("ws://127.0.0.1:1/v1/signal", "t", settings=QUICK).__aenter__()
    assert failure.value.retryable


@pytest.mark.parametrize("code", [CloseCode.GO_AWAY, CloseCode.SLOW_CONSUMER, 1012, None])
async def test_peer_reconnects_and_joins_again(code: int | None) -> None:
    tokens: list[str] = []

    async def token() -> str:
        tokens.append(f"t{len(tokens) + 1}")
        return tokens[-1]

    async def session(server: Wire, number: int) -> None:
        hello = await server.welcome(peer=f"p{number}")
        assert hello["token"] == f"t{number}"
        join = await server.room(f"friend{number}")
        assert (join["room"], join["data"]) == ("blue", {"mood": number})
        if number == 1:
            await server.say(type="ok", id=(await server.take())["id"])
            await server.take()
            if code is None:
                server.socket.transport.abort()
            else:
                await server.socket.close(code)
        await server.gone()

    async with (
        scripted(session) as url,
        SignalingClient(url, token, room="blue", data={"mood": 1}, settings=QUICK) as client,
    ):
        await client.update({"mood": 2})
        with pytest.raises(SignalingError) as lost:
            await client.update({"mood": 3})
        assert lost.value.retryable, "a request that may not have arrived says so"
        assert (await next_of(client, wire.RoomSnapshot)).peers[0].peer == "friend1"
        welcome = await next_of(client, wire.Welcome)
        assert (welcome.peer, client.peer) == ("p2", "p2")
        await next_of(client, wire.RoomSnapshot)
        assert list(client.roster.peers) == ["friend2"]
    assert tokens == ["t1", "t2"]


@pytest.mark.parametrize("code", [CloseCode.KICKED, CloseCode.SUPERSEDED, CloseCode.PROTOCOL_ERROR])
async def test_peer_stays_away_when_told_to(code: CloseCode) -> None:
    connections = 0

    async def session(server: Wire, number: int) -> None:
        nonlocal connections
        connections = number
        await server.welcome()
        await server.number(type="message", **{"from": "c"}, identity="cy", data=1)
        await server.socket.close(code)

    async with scripted(session) as url, SignalingClient(url, "t", settings=QUICK) as client:
        await next_of(client, wire.RelayedMessage)
        with pytest.raises(SignalingError) as final:
            await next_of(client, wire.Welcome)
        assert final.value.code == code.name.lower()
        with pytest.raises(SignalingError, match=final.value.code):
            await client.broadcast(1)
        with pytest.raises(SignalingError, match=final.value.code):
            await anext(client)
    assert connections == 1


async def test_peer_gives_up_when_refused_while_reconnecting() -> None:
    async def session(server: Wire, number: int) -> None:
        if number == 1:
            await server.welcome()
            await server.socket.close(CloseCode.TOKEN_EXPIRED)
        elif number == 2:
            await server.take()
            await server.say(type="error", code="draining", message="", retryable=True)
        else:
            await server.take()
            await server.say(type="error", code="token_expired", message="expired")

    async with scripted(session) as url, SignalingClient(url, "t", settings=QUICK) as client:
        with pytest.raises(SignalingError, match="token_expired"):
            await next_of(client, wire.Welcome)


async def test_peer_notices_a_half_open_connection() -> None:
    async def session(server: Wire, number: int) -> None:
        await server.welcome(peer=f"p{number}", ping_interval_s=0.05 if number == 1 else 60.0)
        if number == 1:
            await server.socket.wait_closed()
        await server.gone()

    async with scripted(session) as url, SignalingClient(url, "t", settings=QUICK) as client:
        assert (await next_of(client, wire.Welcome)).peer == "p2"


async def test_peer_measures_the_round_trip() -> None:
    async def session(server: Wire, _: int) -> None:
        await server.welcome()
        await server.gone()

    async with scripted(session) as url, SignalingClient(url, "t", settings=QUICK) as client:
        assert 0 < await client.ping() < QUICK.pong_timeout_s


async def test_peer_overflow_is_an_error_after_what_was_taken() -> None:
    async def session(server: Wire, _: int) -> None:
        await server.welcome()
        for index in range(5):
            await server.number(type="message", **{"from": "c"}, identity="cy", data=index)
        await server.gone()

    small = msgspec.structs.replace(QUICK, incoming_messages=3)
    async with scripted(session) as url, SignalingClient(url, "t", settings=small) as client:
        async with asyncio.timeout(20):
            await client._line.socket.wait_closed()
        taken = [await anext(client) for _ in range(3)]
        assert [bytes(each.data) for each in taken if isinstance(each, wire.RelayedMessage)] == [
            b"0",
            b"1",
            b"2",
        ]
        with pytest.raises(SignalingError, match="buffer_full"):
            await anext(client)


async def test_peer_a_hole_in_the_numbering_is_not_believed() -> None:
    async def session(server: Wire, number: int) -> None:
        await server.welcome(peer=f"p{number}")
        if number == 1:
            server.seq = 1
            await server.number(type="message", **{"from": "c"}, identity="cy", data="late")
        await server.gone()

    async with scripted(session) as url, SignalingClient(url, "t", settings=QUICK) as client:
        async with asyncio.timeout(20):
            first = await anext(client)
        assert isinstance(first, SessionLost), "the message after the hole is not handed out"


async def test_peer_unknown_messages_are_counted_and_left_out() -> None:
    async def session(server: Wire, _: int) -> None:
        await server.welcome()
        await server.number(type="invented_later", call="c")
        await server.number(type="message", **{"from": "c"}, identity="cy", data=1, new_field=[])
        await server.gone()

    async with scripted(session) as url, SignalingClient(url, "t", settings=QUICK) as client:
        assert (await next_of(client, wire.RelayedMessage)).seq == 2


@pytest.mark.parametrize("text", ["{", '{"type":"peer_left","seq":1}', "[]", '"\\ud800"'])
async def test_peer_unreadable_server_is_an_error(text: str) -> None:
    async def session(server: Wire, _: int) -> None:
        await server.welcome()
        await server.socket.send(text)
        await server.gone()

    async with scripted(session) as url, SignalingClient(url, "t", settings=QUICK) as client:
        with pytest.raises(SignalingError, match="bad_request"):
            await next_of(client, wire.Welcome)


async def test_peer_cancelled_user_leaves_nothing_behind() -> None:
    said: list[str] = []
    done = asyncio.Event()

    async def session(server: Wire, _: int) -> None:
        await server.welcome()
        said.append((await server.take())["type"])
        await server.gone()
        done.set()

    async with scripted(session) as url:

        async def use() -> None:
            async with SignalingClient(url, "t", settings=QUICK) as client:
                started.set()
                await anext(client)

        started = asyncio.Event()
        user = asyncio.create_task(use())
        await started.wait()
        user.cancel()
        with pytest.raises(asyncio.CancelledError):
            await user
        await asyncio.wait_for(done.wait(), 20)
    assert said == ["bye"]


async def test_peer_iteration_ends_on_close() -> None:
    async def session(server: Wire, _: int) -> None:
        await server.welcome()
        await server.gone()

    async with scripted(session) as url:
        async with SignalingClient(url, "t", settings=QUICK) as client:
            await client.close()
            assert [message async for message in client] == []
        await client.close()


def test_peer_roster_ignores_what_it_cannot_place() -> None:
    roster = Roster()
    roster.apply(wire.PeerUpdated(peer="x", identity="x", revision=1))
    roster.apply(wire.PeerLeft(peer="x", identity="x", revision=2, reason="left"))
    roster.apply(wire.GoAway(reason="drain", reconnect_after_ms=1, deadline_ms=2))
    assert (roster.revision, roster.peers) == (2, {})


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30
    )


def test_peer_client_needs_no_aiortc() -> None:
    code = "import sys, signal_server.client as c; assert not {'aiortc', 'av'} & {*sys.modules}"
    assert run_python(code).returncode == 0


def test_peer_missing_aiortc_is_named() -> None:
    code = "import sys; sys.modules['aiortc'] = None; import signal_server.aiortc_peer"
    assert "pip install 'parley-rtc[probes]'" in run_python(code).stderr
