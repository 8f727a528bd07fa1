"""The client's half of a session against a scripted server: resume, repeat, acknowledge, obey."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from scripted import QUICK, Wire, next_of, scripted

from signal_server.client import SignalingClient
from signal_server.client_calls import Call
from signal_server.client_session import SessionLost
from signal_server.client_wire import (
    GlareError,
    NoAnswerError,
    NotAllowedError,
    RateLimitedError,
    ResumeRefusedError,
    SignalingError,
)
from signal_server.roster import Roster
from signal_server.wire import messages as wire
from signal_server.wire.codes import CloseCode
from signal_server.wire.receipts import Receipt, Stage


def entry(peer: str) -> dict[str, object]:
    return {"peer": peer, "identity": peer, "polite": True}


async def test_peer_session_resumes_and_sends_again() -> None:
    """Secret and last number are shown, ids are kept, repetitions ignored, the roster is new."""

    async def session(server: Wire, number: int) -> None:
        if number == 1:
            await server.welcome()
            await server.room("a", "b")
            asked.extend([await server.take() for _ in range(3)])
            await server.ok(asked.pop(1))
            await server.number(type="message", **{"from": "a"}, identity="a", data=1)
            await server.socket.close(CloseCode.GO_AWAY)
            return
        hello = await server.resumed(
            rooms=[{"room": "blue", "epoch": 1, "revision": 9, "peers": [entry("c")]}], replayed=1
        )
        assert hello["resume"] == {"session": "s", "secret": "x", "last_seq": 2}
        server.seq = 1
        await server.number(type="message", **{"from": "a"}, identity="a", data=1)
        await server.number(type="peer_left", peer="c", identity="c", revision=10, reason="old")
        await server.number(type="peer_joined", peer="d", identity="d", revision=10, polite=True)
        again = [await server.take() for _ in range(2)]
        assert [(r["id"], r["data"]) for r in again] == [(r["id"], r["data"]) for r in asked]
        for request in again:
            await server.ok(request)
        await server.gone()

    asked: list[dict[str, object]] = []

    async with (
        scripted(session) as url,
        SignalingClient(url, "t", room="blue", settings=QUICK) as client,
    ):
        await asyncio.gather(*(client.send("a", number) for number in range(3)))
        await next_of(client, wire.RoomSnapshot)
        data = (await next_of(client, wire.RelayedMessage)).data
        assert bytes(data) == b"1"
        await next_of(client, wire.PeerJoined)
        assert client.peer == "p1"
        assert list(client.roster.peers) == ["c", "d"], "what was replayed is in the snapshot"
        assert client._line.session.resume().secret == "after x"
        assert client._line.session.last_seq == 4


async def test_peer_session_messages_are_iterated_once() -> None:
    async def session(server: Wire, number: int) -> None:
        if number == 1:
            await server.welcome()
            await server.number(type="message", **{"from": "a"}, identity="a", data=1)
            await server.take()
            server.socket.transport.abort()
            return
        await server.resumed()
        server.seq = 0
        for data in (1, 2):
            await server.number(type="message", **{"from": "a"}, identity="a", data=data)
        await server.ok(await server.take())
        await server.gone()

    async with scripted(session) as url, SignalingClient(url, "t", settings=QUICK) as client:
        assert bytes((await next_of(client, wire.RelayedMessage)).data) == b"1"
        await client.leave()
        assert isinstance(await anext(client), wire.Resumed)
        assert bytes((await next_of(client, wire.RelayedMessage)).data) == b"2"


@pytest.mark.parametrize("code", ["resume_expired", "resume_gap"])
async def test_peer_session_lost_is_said(code: str) -> None:
    async def session(server: Wire, number: int) -> None:
        if number == 1:
            await server.welcome()
            await server.room("a")
            await server.take()
            server.socket.transport.abort()
            return
        assert (await server.take())["resume"]
        await server.say(type="error", code=code, message="over")
        hello = await server.welcome(peer="p2")
        assert hello.get("resume") is None
        first = await server.take()
        assert (first["type"], first["room"]) == ("join", "blue")
        await server.say(type="error", id=first["id"], code="room_full", message="full")
        assert (await server.take())["type"] == "bye"

    async with (
        scripted(session) as url,
        SignalingClient(url, "t", room="blue", settings=QUICK) as client,
    ):
        with pytest.raises(ResumeRefusedError) as refused:
            await client.send("a", 1)
        assert refused.value.code == code
        assert await next_of(client, SessionLost) == SessionLost("s", "p1", code)
        assert isinstance(await anext(client), wire.Welcome)
        assert (await next_of(client, wire.Error)).code == "room_full"
        assert (client.peer, client.roster.peers) == ("p2", {})


async def test_peer_session_acknowledges() -> None:
    """After some messages, after some time, and on what is sent anyway."""
    steps: list[int] = []

    async def session(server: Wire, _: int) -> None:
        await server.welcome()
        for number in range(4):
            await server.number(type="message", **{"from": "a"}, identity="a", data=number)
        frame = msgspec.json.decode(await server.socket.recv())
        assert (frame["type"], frame["seq"]) == ("ack", 4)
        await server.number(type="message", **{"from": "a"}, identity="a", data=4)
        frame = msgspec.json.decode(await server.socket.recv())
        assert (frame["type"], frame["seq"]) == ("ack", 5)
        await server.number(type="message", **{"from": "a"}, identity="a", data="go")
        request = await server.take()
        steps.append(server.acked)
        await server.ok(request)
        await server.gone()

    settings = msgspec.structs.replace(QUICK, ack_after_messages=4, ack_after_s=1.5)
    async with scripted(session) as url, SignalingClient(url, "t", settings=settings) as client:
        while bytes((await next_of(client, wire.RelayedMessage)).data) != b'"go"':
            pass
        await client.leave()
    assert steps == [6]


async def test_peer_session_goes_away_when_asked() -> None:
    at: list[float] = []

    async def session(server: Wire, number: int) -> None:
        if number == 1:
            await server.welcome()
            at.append(asyncio.get_running_loop().time())
            await server.number(
                type="go_away", reason="drain", reconnect_after_ms=200, deadline_ms=5000
            )
            await server.socket.wait_closed()
            assert server.socket.close_code == CloseCode.GO_AWAY, "not 1000, which is a bye"
            return
        at.append(asyncio.get_running_loop().time())
        await server.resumed()
        await server.gone()

    async with scripted(session) as url, SignalingClient(url, "t", settings=QUICK) as client:
        await next_of(client, wire.Resumed)
        assert 0.2 <= at[1] - at[0] < 5, "not at once, and before the server's deadline"


async def test_peer_session_refreshes_its_token() -> None:
    tokens = iter(["t1", "t2", "t3"])

    async def token() -> str:
        return next(tokens)

    async def session(server: Wire, number: int) -> None:
        if number == 1:
            assert (await server.welcome())["token"] == "t1"
            await server.number(type="token_expiring", expires_in_s=30)
            refresh = await server.take()
            assert (refresh["type"], refresh["token"]) == ("refresh", "t2")
            await server.ok(refresh)
            await server.socket.close(CloseCode.TOKEN_EXPIRED)
            return
        assert (await server.resumed())["token"] == "t3"
        await server.gone()

    async with scripted(session) as url, SignalingClient(url, token, settings=QUICK) as client:
        await next_of(client, wire.TokenExpiring)
        await next_of(client, wire.Resumed)


async def test_peer_session_without_a_token_is_tried_again() -> None:
    attempts = 0

    async def token() -> str:
        nonlocal attempts
        attempts += 1
        if attempts == 2:
            raise OSError("the issuer is down")
        return "t"

    async def session(server: Wire, number: int) -> None:
        if number == 1:
            await server.welcome()
            server.socket.transport.abort()
            return
        await server.resumed()
        await server.gone()

    async with scripted(session) as url, SignalingClient(url, token, settings=QUICK) as client:
        await next_of(client, wire.Resumed)
    assert attempts == 3


async def test_peer_session_waits_when_rate_limited() -> None:
    ids: list[str] = []

    async def session(server: Wire, _: int) -> None:
        async def too_fast(wait_ms: int) -> None:
            request = await server.take()
            ids.append(request["id"])
            await server.say(
                type="error",
                id=request["id"],
                code="rate_limited",
                message="too fast",
                retryable=True,
                retry_after_ms=wait_ms,
            )

        await server.welcome()
        await too_fast(50)
        await server.ok(await server.take())
        await too_fast(50)
        for _ in range(QUICK.rate_limit_tries):
            await too_fast(1)
        await too_fast(60_000)
        await server.gone()

    async with scripted(session) as url, SignalingClient(url, "t", settings=QUICK) as client:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await client.update(1)
        assert loop.time() - began >= 0.05
        with pytest.raises(RateLimitedError):
            await client.send("a", "not repeated: it would come after later ones")
        with pytest.raises(RateLimitedError):
            await client.update(2)
        with pytest.raises(RateLimitedError, match="too fast"):
            await client.update(3)
    assert len(set(ids)) == len(ids), "a refusal belongs to its id"


async def test_peer_session_time_stands_still_while_away() -> None:
    """A request does not run out of time for want of a connection."""

    async def session(server: Wire, number: int) -> None:
        if number == 1:
            await server.welcome()
            await server.take()
            server.socket.transport.abort()
            return
        if number < 5:
            await asyncio.sleep(0.5)
            server.socket.transport.abort()
            return
        await server.resumed()
        await server.ok(await server.take())
        await server.take()
        await server.gone()

    impatient = msgspec.structs.replace(QUICK, request_timeout_s=1)
    async with scripted(session) as url, SignalingClient(url, "t", settings=impatient) as client:
        await client.leave()
        with pytest.raises(NoAnswerError):
            await client.leave()


async def test_peer_session_refusals_have_types() -> None:
    async def session(server: Wire, _: int) -> None:
        await server.welcome()
        for code in ("forbidden", "limit_exceeded"):
            request = await server.take()
            await server.say(type="error", id=request["id"], code=code, message="no")
        await server.gone()

    async with scripted(session) as url, SignalingClient(url, "t", settings=QUICK) as client:
        with pytest.raises(NotAllowedError):
            await client.refresh("t2")
        with pytest.raises(SignalingError) as other:
            await client.leave()
        assert type(other.value) is SignalingError


def test_peer_roster_shows_who_is_away() -> None:
    roster = Roster()

    def after(revision: int, **change: Any) -> tuple[bool, Any]:
        roster.apply(wire.PeerUpdated(peer="a", identity="a", revision=revision, **change))
        return roster.peers["a"].connected, roster.peers["a"].data

    here = wire.RosterEntry(peer="a", identity="a", polite=False)
    roster.restore(wire.RoomState("r", 1, 5, [here]))
    assert after(6, connected=False) == (False, msgspec.UNSET)
    assert after(7, data=msgspec.Raw(b"1")) == (False, msgspec.Raw(b"1"))
    assert after(8, connected=True) == (True, msgspec.Raw(b"1"))
    roster.restore(None)
    assert (roster.room, roster.peers) == (None, {})


def test_peer_roster_replaces_a_device() -> None:
    roster = Roster()
    peers = [wire.RosterEntry(peer="p1", identity="ann", polite=True)]
    roster.restore(wire.RoomState("blue", 1, 4, peers))
    replaced = wire.PeerReplaced(
        peer="p2", replaced="p1", identity="ann", revision=5, polite=False, name="Ann"
    )
    roster.apply(replaced)
    roster.apply(replaced)
    assert (list(roster.peers), roster.revision) == (["p2"], 5)
    assert (roster.peers["p2"].polite, roster.peers["p2"].name) == (False, "Ann")


async def test_peer_session_learns_of_glare_receipts_and_ice_servers() -> None:
    async def session(server: Wire, _: int) -> None:
        await server.welcome()
        glare = {"type": "error", "code": "glare", "message": "lost", "winner_negotiation": 1}
        offer = await server.take()
        await server.say(**glare, id=offer["id"])
        offer = await server.take()
        await server.ok(offer, negotiation=2)
        await server.say(**glare, id=offer["id"], negotiation=2)
        message = await server.take()
        await server.number(type="receipt", ref=message["id"], stage="relayed")
        await server.ok(message)
        fresh = [{"urls": ["turn:fresh"]}]
        await server.number(type="ice_servers", ice_servers=fresh, ttl=60, expires_at=1)
        await server.gone()

    async with scripted(session) as url, SignalingClient(url, "t", settings=QUICK) as client:
        assert client.granted_ice_servers == []
        with pytest.raises(GlareError):
            await client.offer("a", "sdp")
        assert await client.offer("a", "sdp") == 2
        late = await next_of(client, wire.Error)
        assert (late.code, late.negotiation, late.winner_negotiation) == ("glare", 2, 1)
        ref = await client.send("a", 1)
        receipt = await next_of(client, Receipt)
        assert (receipt.ref, receipt.stage) == (ref, Stage.RELAYED)
        await next_of(client, wire.IceServers)
        assert client.granted_ice_servers == [{"urls": ["turn:fresh"]}]


@pytest.mark.parametrize("replayed", [0, 1])
async def test_peer_session_finds_its_calls(replayed: int) -> None:
    """When all that is repeated has arrived, the calls are those that `resumed` shows."""
    media = {"audio": True, "video": False}
    invite = {"type": "call_invite", "from": "a", "identity": "ann", "room": "r", "media": media}

    async def session(server: Wire, number: int) -> None:
        if number == 1:
            await server.welcome()
            await server.number(**invite, call="c1", lifetime_s=30)
            await server.take()
            server.socket.transport.abort()
            return
        caller = {"peer": "b", "identity": "bob", "state": "calling"}
        fields = {"state": "invited", "role": "callee", "peers": [caller], "room": "r"}
        await server.resumed(calls=[{"call": "c2", **fields, "media": media}], replayed=replayed)
        await server.ok(await server.take())
        if replayed:
            await server.number(**invite, call="c2", lifetime_s=20)
        await server.gone()

    async with scripted(session) as url, SignalingClient(url, "t", settings=QUICK) as client:
        first = await next_of(client, Call)
        await client.update(1)
        second = await next_of(client, Call)
        assert (await first.ended()).reason == "unreachable"
        assert (first.id, second.id, list(client.calls)) == ("c1", "c2", ["c2"])
        assert second.peer == ("a" if replayed else "b")
