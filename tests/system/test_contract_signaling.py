"""Promises of the signaling contract as a client of a running server finds them kept.

What other tests show already is not repeated here: resume (test_session_resume), fallback
(test_fallback), hostile input (test_peer_hostile), the buffer (test_peer_buffer).
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import jwt
import pytest
from accounts import Account
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from raw_session import Json, RawSession
from rtc import traceless, until
from servers import Server, start_serve
from switchboard_driver import candidate, sdp
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

WINDOW_S = 2.0
HERE, ELSEWHERE = Account(1), Account(2)
ADMIN = "admin-token-of-the-contract-tests"
SIGNER = Ed25519PrivateKey.generate()
SIGNER_SID = "SK" + "e" * 32
_PEM = SIGNER.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)
CONFIG = f"""
[server]
port = 0
drain_s = 0.5
admin_token = "{ADMIN}"

[node]
name = "node-a"
region = "region-a"

[limits]
resume_window_s = {WINDOW_S}
early_ttl_s = 0.5

[calls]
lifetime_min_s = 0.3

[turn]
secret = "a-secret-that-only-this-test-has-and-no-other"
urls = ["turn:192.0.2.1:3478?transport=udp"]
min_ttl_s = 1

{HERE.toml}
[[accounts.keys]]
sid = "{SIGNER_SID}"
algorithm = "EdDSA"
public_key = \"\"\"{_PEM.decode()}\"\"\"

{ELSEWHERE.toml}
"""
_rooms = (f"contract-{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with start_serve(CONFIG) as server:
        yield server
        assert server.metric("signaling_internal_errors_total") == 0
        assert traceless(server.log_file)
        assert "eyJ" not in server.log(), "no token in the log"


@pytest.fixture
def room() -> str:
    return next(_rooms)


async def enter(server: Server, name: str, room: str | None = None, **hello: Any) -> RawSession:
    """In the room, having read everything up to there."""
    token = hello.pop("token", None) or HERE.token(name)
    into = {"room": room} if room else {}
    session = await RawSession.open(server.ws_url, token, id="hello", **into, **hello)
    assert session.greeting["type"] == "welcome", session.greeting
    await session.until("ok", id="hello")
    return session


async def pair(server: Server, room: str, **hello: Any) -> tuple[RawSession, RawSession]:
    one = await enter(server, "ann", room, **hello)
    other = await enter(server, "bob", room)
    await one.until("peer_joined", peer=other.peer)
    return one, other


async def bye(*sessions: RawSession) -> None:
    for session in sessions:
        await session.say("bye")
        assert await session.closed() == 1000


async def is_quiet(session: RawSession) -> list[Json]:
    """What has come up to the answer of a ping; numbered messages only."""
    mark = time.monotonic()
    before = len(session.log)
    await session.say("ping", t=mark)
    await session.until("pong", t=mark)
    return session.log[before:]


async def code_of(session: RawSession, kind: str, **fields: Any) -> str | None:
    """The error that asking for it brings; None for `ok`."""
    answer = await session.ask(kind, id=f"{kind}-{time.monotonic()}", **fields)
    return answer.get("code")


# The simplest client ------------------------------------------------------------------------------


async def test_a_client_of_four_messages_makes_a_call(server: Server, room: str) -> None:
    """No subprotocol, no ids, no acks, no negotiation numbers, no resume."""
    sockets, offers, ends = [], [], []
    for name in ("ann", "bob"):
        socket = await connect(server.ws_url)
        token = HERE.token(name)
        await socket.send(json.dumps({"type": "hello", "token": token, "room": room}))
        sockets.append(socket)
    ann, bob = sockets

    async def first(socket: Any, *kinds: str) -> Json:
        async with asyncio.timeout(10):
            while (message := json.loads(await socket.recv()))["type"] not in kinds:
                pass
        found: Json = message
        return found

    bob_peer = (await first(ann, "peer_joined"))["peer"]
    early = {"type": "candidate", "to": bob_peer, "candidate": candidate(1, "aaaa")}
    await ann.send(json.dumps(early))
    await ann.send(json.dumps({"type": "offer", "to": bob_peer, "sdp": sdp(("0", "aaaa"))}))
    offers.append(await first(bob, "offer", "candidate"))
    assert offers[0]["type"] == "offer", "the candidate that was sent first comes second"
    found = (await first(bob, "candidate"))["candidates"]
    ends.append([each["candidate"] for each in found])
    caller = offers[0]["from"]
    answer = {"type": "answer", "to": caller, "sdp": sdp(("0", "bbbb"))}
    await bob.send(json.dumps(answer))
    late = {"type": "candidate", "to": caller, "candidate": candidate(2, "bbbb")}
    await bob.send(json.dumps(late))
    assert (await first(ann, "answer"))["sdp"] == answer["sdp"]
    ends.append([each["candidate"] for each in (await first(ann, "candidate"))["candidates"]])
    assert ends == [[candidate(1, "aaaa")["candidate"]], [candidate(2, "bbbb")["candidate"]]]
    for socket in sockets:
        await socket.close()


# Every message of the server ----------------------------------------------------------------------

UNNUMBERED = {"welcome", "resumed", "pong", "ok", "error"}
_PAIR = ("from", "identity", "negotiation", "pc")
FIELDS: dict[str, tuple[str, ...]] = {
    "welcome": (
        *("session", "peer", "identity", "resume", "node", "region"),
        *("ping_interval_s", "limits", "ice_servers"),
    ),
    "resumed": ("from_seq", "replayed", "rooms", "calls", "resume"),
    "room": ("room", "epoch", "revision", "peers"),
    "peer_joined": ("peer", "identity", "revision", "polite"),
    "peer_left": ("peer", "identity", "revision", "reason"),
    "peer_updated": ("peer", "identity", "revision"),
    "peer_replaced": ("peer", "identity", "revision", "polite", "replaced"),
    "offer": (*_PAIR, "sdp"),
    "answer": (*_PAIR, "sdp"),
    "pranswer": (*_PAIR, "sdp"),
    "rollback": _PAIR,
    "candidate": (*_PAIR, "candidates"),
    "applied": _PAIR,
    "renegotiate": (*_PAIR, "reason"),
    "state": (*_PAIR, "state", "candidate_type"),
    "message": ("from", "identity", "data"),
    "receipt": ("ref", "stage"),
    "call_invite": ("call", "from", "room", "media"),
    "call_ringing": ("call", "device"),
    "call_accepted": ("call", "from", "device", "room", "media"),
    "call_ended": ("call", "reason"),
    "ice_servers": ("ice_servers", "ttl", "expires_at"),
    "go_away": ("reason", "reconnect_after_ms", "deadline_ms"),
    "token_expiring": ("expires_in_s",),
    "pong": ("t",),
    "ok": ("id",),
    "error": ("id", "code", "message", "retryable"),
}


class Witness(RawSession):
    """Keeps one message of each type."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.seen: dict[str, Json] = {}

    async def take(self) -> Json:
        message = await super().take()
        kind = message["type"]
        missing = [name for name in FIELDS[kind] if name not in message]
        assert not missing, (missing, message)
        assert ("seq" in message) is (kind not in UNNUMBERED), message
        self.seen[kind] = message
        return message


async def test_every_message_of_the_server_has_its_fields(room: str) -> None:
    with start_serve(CONFIG) as server:
        url = server.ws_url
        seen: dict[str, Json] = {}
        features = ["receipts", "from a later version"]
        ann = await Witness.open(url, HERE.token("ann"), id=0, room=room, features=features)
        bob = await Witness.open(url, HERE.token("bob"), id=0, room=room, data={"a": 1})
        await ann.until("peer_joined", peer=bob.peer)
        await _negotiate_everything(ann, bob)
        await _call(ann, bob)
        for one in (ann, bob):
            await one.ask("join", id="back", room=room)
        await ann.say("ice_servers", ttl=300, id="i")
        await ann.until("ice_servers", ttl=300)
        assert (await ann.ask("message", id="e", to="p_nobody", data=1))["code"] == "not_found"
        bob.kill()
        await ann.until("peer_updated", peer=bob.peer, connected=False)
        resume = {"session": bob.greeting["session"], "secret": bob.secret}
        back = await Witness.open(url, bob.token, resume={**resume, "last_seq": bob.last_seq})
        assert back.greeting["type"] == "resumed"
        replaces = {"session": back.greeting["session"], "secret": back.secret}
        soon = HERE.token("bob", exp=int(time.time()) + 6)
        again = await Witness.open(url, soon, room=room, replaces=replaces)
        await ann.until("peer_replaced", peer=again.peer, replaced=bob.peer)
        await again.until("room")
        await again.until("token_expiring")
        await bye(again)
        await ann.until("peer_left", peer=again.peer, reason="left")
        async with httpx.AsyncClient(base_url=server.url) as http:
            headers = {"Authorization": f"Bearer {ADMIN}"}
            assert (await http.post("/v1/drain", headers=headers)).status_code == 202
        away = await ann.until("go_away")
        assert 0 <= away["reconnect_after_ms"] <= away["deadline_ms"] == 500
        assert await ann.closed() == 4000
        for witness in (ann, bob, back, again):
            seen |= witness.seen
        assert set(seen) == set(FIELDS)
        assert seen["welcome"]["node"] == "node-a"
        assert seen["welcome"]["region"] == "region-a"
        assert set(seen["welcome"]["resume"]) == {"secret", "window_s"}
        assert seen["room"]["peers"][0].keys() >= {"peer", "identity", "polite"}
        assert seen["error"]["retryable"] is False


async def _negotiate_everything(ann: RawSession, bob: RawSession) -> None:
    offer = await ann.ask("offer", id=1, to=bob.peer, sdp=sdp(("0", "aaaa")))
    number = {"negotiation": offer["negotiation"]}
    assert (await bob.until("offer"))["pc"] == "main"
    await bob.say("pranswer", to=ann.peer, sdp=sdp(("0", "bbbb")), **number)
    await bob.say("answer", to=ann.peer, sdp=sdp(("0", "bbbb")), **number)
    await bob.say("candidate", to=ann.peer, candidates=[candidate(1, "bbbb"), None], **number)
    await ann.until("pranswer")
    await ann.until("answer")
    assert isinstance((await ann.until("candidate"))["candidates"], list)
    await bob.say("applied", to=ann.peer, **number)
    await bob.say("renegotiate", to=ann.peer, reason="ice_restart")
    await bob.say("state", to=ann.peer, state="connected", candidate_type="relay")
    await bob.say("message", to=ann.peer, data=[None, {"x": 1}])
    await bob.say("update", data={"hand": True})
    await bob.say("ping", t=1.5)
    for kind in ("applied", "renegotiate", "state", "message", "peer_updated"):
        await ann.until(kind)
    assert (await bob.until("pong"))["t"] == 1.5
    await ann.say("offer", to=bob.peer, sdp=sdp(("0", "cccc")))
    await ann.say("rollback", to=bob.peer)
    await bob.until("rollback")


async def _call(ann: RawSession, bob: RawSession) -> None:
    media = {"audio": True, "video": True}
    call = (await ann.ask("call_invite", id=2, to="bob", media=media))["call"]
    await bob.until("call_invite", call=call)
    await bob.say("call_ringing", call=call)
    await bob.say("call_accept", call=call)
    await ann.until("call_ringing", call=call, device=bob.peer)
    accepted = await ann.until("call_accepted", call=call, device=bob.peer)
    assert accepted["media"] == media
    await ann.say("call_hangup", call=call)
    await bob.until("call_ended", call=call, reason="user_hangup")


# Requests and rooms -------------------------------------------------------------------------------


async def test_only_a_request_with_an_id_is_answered(server: Server, room: str) -> None:
    ann = await enter(server, "ann")
    await ann.say("join", room=room)
    assert [message["type"] for message in await is_quiet(ann)] == ["room"]
    await ann.say("message", to="p_nobody", data=1)
    refusal = await ann.take()
    assert (refusal["type"], refusal["code"], refusal.get("id")) == ("error", "not_found", None)
    for name in ("text", 7):
        assert (await ann.ask("update", id=name, data=1))["id"] == name
    first = await ann.ask("join", id="again", room=room)
    others = [message["type"] for message in await is_quiet(ann)]
    assert await ann.ask("join", id="again", room=room) == first
    assert await is_quiet(ann) == [], f"a repeated id is not executed again, as once: {others}"
    await bye(ann)


async def test_a_session_is_in_one_room(server: Server, room: str) -> None:
    ann, bob = await pair(server, room)
    other = next(_rooms)
    assert await code_of(bob, "join", room=other) is None
    assert (await ann.until("peer_left", peer=bob.peer))["reason"] == "moved"
    assert await code_of(ann, "message", to=bob.peer, data=1) == "not_found"
    assert await code_of(bob, "leave") is None
    assert await code_of(bob, "message", data=1) == "wrong_state"
    assert await code_of(bob, "join", room=room) is None
    await ann.until("peer_joined", peer=bob.peer)
    await bye(ann, bob)


async def test_a_message_without_addressee_is_for_the_whole_room(server: Server, room: str) -> None:
    ann, bob = await pair(server, room)
    cleo = await enter(server, "cleo", room)
    await ann.say("message", data={"to": "all"}, **{"from": "p_mallory", "identity": "mallory"})
    for one in (bob, cleo):
        heard = await one.until("message")
        assert (heard["from"], heard["identity"]) == (ann.peer, "ann"), "the server's stamp"
        assert heard["data"] == {"to": "all"}
    assert not ann.data()
    await bye(ann, bob, cleo)


async def test_polite_is_the_receivers_own_role(server: Server, room: str) -> None:
    ann = await enter(server, "ann", room, data={"n": 1})
    bob = await enter(server, "bob", room)
    (entry,) = bob.log[0]["peers"]
    assert (entry["peer"], entry["identity"], entry["data"]) == (ann.peer, "ann", {"n": 1})
    assert entry["polite"] is not (await ann.until("peer_joined"))["polite"]
    await bye(ann, bob)


async def test_end_of_candidates_is_delivered_last(server: Server, room: str) -> None:
    ann, bob = await pair(server, room)
    await ann.say("candidate", to=bob.peer, candidates=[candidate(n, "aaaa") for n in (1, 2)])
    await ann.say("candidate", to=bob.peer, candidate=None)
    await ann.say("offer", to=bob.peer, sdp=sdp(("0", "aaaa")))
    await bob.until("offer")
    lines: list[str] = []
    while "" not in lines:
        found = await bob.until("candidate")
        lines += [each["candidate"] for each in found["candidates"]]
    assert lines == [candidate(n, "aaaa")["candidate"] for n in (1, 2)] + [""]
    late = {"to": bob.peer, "candidate": candidate(3, "aaaa")}
    assert await code_of(ann, "candidate", **late) == "candidate_after_end"
    await bye(ann, bob)


# Tokens and accounts ------------------------------------------------------------------------------


async def test_rooms_and_identities_of_accounts_do_not_meet(server: Server, room: str) -> None:
    ann = await enter(server, "ann", room)
    twin = await enter(server, "ann", room, token=ELSEWHERE.token("ann"))
    assert await is_quiet(ann) == []
    assert await code_of(ann, "message", to=twin.peer, data=1) == "not_found"
    assert await code_of(ann, "offer", to=twin.peer, sdp="v=0") == "not_found"
    await twin.say("message", data="to all")
    call = (await twin.ask("call_invite", id=1, to=["ann", "bob"], lifetime_s=5))["call"]
    bob = await enter(server, "bob")
    for one in (ann, bob):
        assert await is_quiet(one) == [], "nobody here hears or rings"
        assert await code_of(one, "call_accept", call=call) == "not_found"
    resume = {"session": twin.greeting["session"], "secret": twin.secret, "last_seq": 0}
    thief = await RawSession.open(server.ws_url, HERE.token("ann"), resume=resume)
    assert thief.greeting["code"] == "resume_expired"
    thief.kill()
    async with httpx.AsyncClient(base_url=server.url) as http:
        http.headers["Authorization"] = f"Bearer {ADMIN}"
        members = (await http.get(f"/v1/rooms/{room}")).json()["members"]
        assert [member["peer"] for member in members] == [ann.peer]
        assert (await http.get(f"/v1/calls/{call}")).status_code == 404
    await bye(ann, bob, twin)


@pytest.mark.parametrize("way", ["hello", "header", "subprotocol"])
async def test_where_a_token_rides(server: Server, way: str) -> None:
    token = HERE.token("ann")
    how: Json = {"subprotocols": [Subprotocol("parley.v1.json")]}
    hello = {"type": "hello"}
    if way == "hello":
        hello["token"] = token
    elif way == "header":
        how["additional_headers"] = {"Authorization": f"Bearer {token}"}
    else:
        how["subprotocols"].append(Subprotocol(f"parley.token.{token}"))
    async with connect(server.ws_url, **how) as socket:
        assert socket.subprotocol == "parley.v1.json"
        await socket.send(json.dumps(hello))
        assert json.loads(await socket.recv())["identity"] == "ann"
        await socket.send('{"type":"bye"}')


async def test_a_token_in_the_address_is_none(server: Server) -> None:
    token = HERE.token("ann")
    async with connect(f"{server.ws_url}?token={token}&access_token={token}") as socket:
        await socket.send('{"type":"hello"}')
        assert json.loads(await socket.recv())["code"] == "unauthenticated"
        await socket.wait_closed()
        assert socket.close_code == 4500


async def test_the_key_decides_the_algorithm(server: Server) -> None:
    claims, headers = HERE.claims("ann"), {"kid": SIGNER_SID}
    signed = jwt.encode(claims, SIGNER, algorithm="EdDSA", headers=headers)
    ann = await enter(server, "ann", token=signed)
    assert ann.greeting["identity"] == "ann"
    await bye(ann)
    forged = jwt.encode(claims, "k" * 64, algorithm="HS256", headers=headers)
    refused = await RawSession.open(server.ws_url, forged)
    assert refused.greeting["code"] == "unauthenticated"
    assert await refused.closed() == 4500


async def test_what_a_token_grants(server: Server, room: str) -> None:
    async def with_claims(**claims: Any) -> RawSession:
        return await enter(server, "ann", token=HERE.token("ann", **claims))

    bob = await enter(server, "bob", room)
    ann = await with_claims(name="Ann", room=room)
    assert await code_of(ann, "join", room=f"{room}x") == "forbidden"
    assert await code_of(ann, "join", room=room) is None
    assert (await bob.until("peer_joined", peer=ann.peer))["name"] == "Ann"
    await bye(ann)

    ann = await with_claims(room="contract-*")
    assert await code_of(ann, "join", room=room) is None
    assert await code_of(ann, "join", room="other") == "forbidden"
    await bye(ann)

    ann = await with_claims(grants={"join": False})
    assert await code_of(ann, "join", room=room) == "forbidden"
    assert await code_of(ann, "call_invite", to="bob") is None
    await bye(ann)

    ann = await with_claims(grants={"call": False, "turn": False})
    assert "ice_servers" not in ann.greeting
    assert await code_of(ann, "ice_servers") == "forbidden"
    assert await code_of(ann, "call_invite", to="bob") == "forbidden"
    await bye(ann)

    nothing = {"join": False, "call": False, "turn": False, "admin": True}
    refused = await RawSession.open(server.ws_url, HERE.token("ann", grants=nothing))
    assert refused.greeting["code"] == "forbidden"
    assert await refused.closed() == 4501

    ann = await with_claims(grants={"relay_only": True})
    await code_of(ann, "join", room=room)
    await ann.say("offer", to=bob.peer, sdp=sdp(("0", "aaaa")))
    await ann.say("candidate", to=bob.peer, candidate=candidate(1, "aaaa"))
    relayed = candidate(2, "aaaa")
    relayed["candidate"] = relayed["candidate"].replace("typ host", "typ relay")
    await ann.say("candidate", to=bob.peer, candidate=relayed)
    found = await bob.until("candidate")
    assert [each["candidate"].split()[7] for each in found["candidates"]] == ["relay"]
    await bye(ann, bob)


async def test_a_connection_ends_with_its_token(server: Server, room: str) -> None:
    soon = int(time.time()) + 6
    ann = await enter(server, "ann", token=HERE.token("ann", exp=soon))
    bob = await enter(server, "bob", room, token=HERE.token("bob", exp=soon))
    for one in (ann, bob):
        assert 0 < (await one.until("token_expiring"))["expires_in_s"] <= 6
    assert await code_of(ann, "refresh", token=HERE.token("bob")) == "forbidden"
    assert await code_of(ann, "refresh", token=HERE.token("ann")) is None
    assert await bob.closed() == 4005
    assert time.time() >= soon
    late = await bob.resume(server.ws_url)
    assert late.greeting["code"] == "token_expired"
    assert await late.closed() == 4005
    bob.token = HERE.token("bob")
    again = await bob.resume(server.ws_url)
    assert again.greeting["type"] == "resumed"
    assert await is_quiet(ann) == [], "refreshed in time"
    await bye(ann, again)


async def test_another_version_is_refused_in_every_way(server: Server) -> None:
    for name in ("parley.v2.json", "parley.v1.msgpack"):
        token = f"parley.token.{HERE.token('ann')}"
        async with connect(
            server.ws_url, subprotocols=[Subprotocol(token), Subprotocol(name)]
        ) as socket:
            assert socket.subprotocol == name
            assert json.loads(await socket.recv())["code"] == "unsupported_version"
            with pytest.raises(ConnectionClosed):
                await socket.recv()
            assert socket.close_code == 4506
    with pytest.raises(InvalidStatus) as refused:
        await connect(server.ws_url, subprotocols=[Subprotocol("graphql-ws")])
    answer = refused.value.response
    assert (answer.status_code, json.loads(answer.body)["code"]) == (400, "unsupported_version")
    both = [Subprotocol("parley.v2.json"), Subprotocol("parley.v1.json")]
    async with connect(server.ws_url, subprotocols=both) as socket:
        assert socket.subprotocol == "parley.v1.json"
    async with httpx.AsyncClient(base_url=server.url) as http:
        hello = {"type": "hello", "token": HERE.token("ann")}
        reply = await http.post("/v2/sessions", json=hello)
        assert reply.status_code == 404
        assert (reply.json()["type"], reply.json()["code"]) == ("error", "unsupported_version")


# ICE servers, receipts, calls ---------------------------------------------------------------------


async def test_ice_servers_are_pushed_again_in_time(server: Server) -> None:
    ann = await enter(server, "ann")
    wrong = await ann.ask("ice_servers", id="w", ttl=99_999_999)
    assert (wrong["code"], wrong["retryable"]) == ("bad_request", False)
    began = time.time()
    await ann.say("ice_servers", ttl=2)
    first = await ann.until("ice_servers")
    second = await ann.until("ice_servers")
    assert 1.4 < time.time() - began < 10, "at 0.8 of its life"
    assert (first["ttl"], second["ttl"]) == (2, 2)
    for message in (first, second):
        for each in message["ice_servers"]:
            assert each.keys() == {"urls", "username", "credential"}
            assert int(each["username"].partition(":")[0]) == message["expires_at"]
    await bye(ann)


@asynccontextmanager
async def followed(server: Server, room: str) -> AsyncIterator[tuple[RawSession, RawSession]]:
    """Ann is told what becomes of her messages to Bob."""
    ann, bob = await pair(server, room, features=["receipts"])
    yield ann, bob
    await bye(ann)


async def stages(session: RawSession, ref: int, last: str) -> list[tuple[str, str | None]]:
    """What becomes of that message, up to that stage."""
    await session.until("receipt", ref=ref, stage=last)
    receipts = [each for each in session.log if each["type"] == "receipt" and each["ref"] == ref]
    return [(each["stage"], each.get("reason")) for each in receipts]


async def test_receipts_tell_every_stage(server: Server, room: str) -> None:
    async with followed(server, room) as (ann, bob):
        await ann.say("offer", id=1, to=bob.peer, sdp=sdp(("0", "aaaa")))
        offer = await bob.until("offer")
        await bob.say("ack", seq=offer["seq"])
        answer = {"sdp": sdp(("0", "bbbb")), "negotiation": offer["negotiation"]}
        await bob.say("answer", to=ann.peer, **answer)
        steps = await stages(ann, 1, "applied")
        assert steps == [("relayed", None), ("received", None), ("applied", None)]
        await ann.say("candidate", id=2, to=bob.peer, candidate=candidate(1, "cccc"))
        assert await stages(ann, 2, "expired") == [("expired", "early_ttl")]
        await ann.say("message", id=3, to=bob.peer, data=1)
        await bob.until("message")
        await bye(bob)
        assert await stages(ann, 3, "dropped") == [("relayed", None), ("dropped", "peer_left")]
    async with followed(server, room) as (ann, bob):
        bob.kill()
        await ann.until("peer_updated", connected=False)
        await ann.say("message", id=4, to=bob.peer, data=1)
        assert await stages(ann, 4, "expired") == [("relayed", None), ("expired", "resume_window")]
        assert not [each for each in ann.log if each["type"] == "receipt" and each["ref"] != 4]


class Call:
    """Ann calls Bob, who has a phone and a tablet."""

    def __init__(self, server: Server, ann: RawSession, phone: RawSession, tablet: RawSession):
        self.server, self.ann, self.phone, self.tablet = server, ann, phone, tablet
        self.id = ""

    async def answered(self) -> None:
        await self.phone.say("call_accept", call=self.id)
        await self.ann.until("call_accepted", call=self.id)

    async def ends(self, session: RawSession) -> str:
        return str((await session.until("call_ended", call=self.id))["reason"])


async def _hung_up(call: Call, reason: str | None = None) -> str:
    await call.answered()
    assert await call.ends(call.tablet) == "answered_elsewhere"
    fields = {} if reason is None else {"reason": reason}
    await call.phone.say("call_hangup", call=call.id, **fields)
    return await call.ends(call.ann)


async def _rejected(call: Call, reason: str | None) -> str:
    fields = {} if reason is None else {"reason": reason}
    await call.phone.say("call_reject", call=call.id, **fields)
    if reason == "busy":
        await call.tablet.say("call_reject", call=call.id, **fields)
    return await call.ends(call.ann)


async def _canceled(call: Call) -> str:
    await call.ann.say("call_cancel", call=call.id)
    assert await call.ends(call.tablet) == "canceled"
    return await call.ends(call.phone)


async def _lost(call: Call) -> str:
    await call.answered()
    call.phone.kill()
    return await call.ends(call.ann)


async def _kicked(call: Call) -> str:
    await call.answered()
    room = (await call.ann.until("room"))["room"]
    async with httpx.AsyncClient(base_url=call.server.url) as http:
        http.headers["Authorization"] = f"Bearer {ADMIN}"
        reply = await http.delete(f"/v1/rooms/{room}/peers/{call.phone.peer}")
        assert reply.status_code == 204
    return await call.ends(call.ann)


CALL_ENDS = {
    "user_hangup": _hung_up,
    "ice_failed": lambda call: _hung_up(call, "ice_failed"),
    "media_failed": lambda call: _hung_up(call, "media_failed"),
    "declined": lambda call: _rejected(call, None),
    "busy": lambda call: _rejected(call, "busy"),
    "no_answer": lambda call: call.ends(call.ann),
    "canceled": _canceled,
    "unreachable": _lost,
    "kicked": _kicked,
}


@pytest.mark.parametrize("reason", CALL_ENDS)
async def test_a_call_ends_with_a_reason(server: Server, reason: str) -> None:
    ann, bob = f"ann-{reason}", f"bob-{reason}"
    devices = [await enter(server, name) for name in (ann, bob, bob)]
    call = Call(server, *devices)
    lifetime = 0.5 if reason == "no_answer" else 30
    asked = await call.ann.ask("call_invite", id=1, to=bob, lifetime_s=lifetime, data={"n": 1})
    call.id = asked["call"]
    for device in (call.phone, call.tablet):
        assert (await device.until("call_invite", call=call.id))["data"] == {"n": 1}
    assert await CALL_ENDS[reason](call) == reason
    for device in devices:
        device.kill()


async def test_a_call_to_nobody_waits_for_a_device(server: Server) -> None:
    ann = await enter(server, "ann")
    call = (await ann.ask("call_invite", id=1, to="dora", lifetime_s=30))["call"]
    dora = await enter(server, "dora")
    await dora.until("call_invite", call=call)
    await bye(dora)
    await ann.say("call_cancel", call=call)
    short = (await ann.ask("call_invite", id=2, to="nobody", lifetime_s=0.5))["call"]
    assert (await ann.until("call_ended", call=short))["reason"] == "unreachable"
    await bye(ann)


async def test_nothing_is_left(server: Server) -> None:
    levels = ("sessions", "rooms", "candidates_buffered")
    await until(lambda: not any(server.metric(f"signaling_{level}") for level in levels))
