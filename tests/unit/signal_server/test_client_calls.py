"""Call objects told by hand, in every order in which a server may tell them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

import pytest

from signal_server.client_calls import Call, CallOverError, Calls
from signal_server.client_wire import SignalingError, WrongStateError
from signal_server.roster import Roster
from signal_server.wire import call_messages as c
from signal_server.wire import messages as wire
from signal_server.wire.base import Request

MEDIA = c.CallMedia(audio=True)
ENDED = c.CallEnded(call="c1", reason=c.EndReason.NO_ANSWER)


class Server:
    """Answers ok, unless told otherwise; `meanwhile` happens before the answer."""

    def __init__(self) -> None:
        self.asked: list[Request] = []
        self.refusal: SignalingError | None = None
        self.meanwhile: Callable[[], object] = list

    async def __call__(self, request: Request) -> wire.Ok:
        self.asked.append(request)
        self.meanwhile()
        await asyncio.sleep(0)
        if self.refusal:
            raise self.refusal
        return wire.Ok(id=1, call="c1" if isinstance(request, c.CallInvite) else None)


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def calls(server: Server) -> Calls:
    return Calls(server, lambda: "me")


def accepted(call: str = "c1", sender: str = "me", device: str = "d1") -> c.CallAccepted:
    return c.CallAccepted(
        call=call, sender=sender, device=device, identity="other", room=call, media=MEDIA
    )


def invited(call: str = "c1") -> c.CallInvited:
    return c.CallInvited(
        call=call, sender="them", identity="other", room=call, media=MEDIA, lifetime_s=30
    )


def in_room(room: str, *peers: str) -> Roster:
    roster = Roster()
    entries = [wire.RosterEntry(peer=peer, identity=peer, polite=True) for peer in peers]
    roster.restore(wire.RoomState(room, 1, 1, entries))
    return roster


def ring(calls: Calls) -> Call:
    call = calls.take(invited())
    assert call is not None
    return call


async def test_client_calls_outgoing(calls: Calls) -> None:
    call = await calls.invite(c.CallInvite(to="other", media=MEDIA))
    assert (call.id, call.is_caller, call.state) == ("c1", True, "invited")
    calls.take(c.CallRings(call="c1", device="d1", identity="other"))
    await call.ringing()
    assert call.state == "ringing"
    waiting = asyncio.create_task(call.accepted())
    calls.take(accepted())
    calls.look(in_room("c1"))
    await asyncio.sleep(0)
    assert not waiting.done(), "nobody could be offered to yet"
    calls.look(in_room("c1", "d1"))
    assert (await waiting).device == call.peer == "d1"
    calls.take(c.CallEnded(call="c1", reason=c.EndReason.USER_HANGUP))
    assert (await call.ended()).reason == "user_hangup"
    kinds = [type(event) async for event in call]
    assert kinds == [c.CallRings, c.CallAccepted, c.CallEnded]
    await asyncio.sleep(0)
    assert calls.live == {}


async def test_client_calls_that_end_early(calls: Calls) -> None:
    call = await calls.invite(c.CallInvite(to="other"))
    waits = [asyncio.create_task(each()) for each in (call.ringing, call.accepted)]
    await asyncio.sleep(0)
    calls.take(ENDED)
    calls.take(accepted())
    for wait in waits:
        with pytest.raises(CallOverError) as over:
            await wait
        assert over.value.ended is ENDED
    assert call.state == "ended", "nothing comes after the end"


async def test_client_calls_events_before_the_id(calls: Calls, server: Server) -> None:
    """The ok was lost with a connection: what followed is replayed before it is said again."""
    server.meanwhile = lambda: [calls.take(each) for each in (accepted(), ENDED)]
    call = await calls.invite(c.CallInvite(to="other"))
    assert (call.state, call.peer) == ("ended", "d1")
    assert calls._strays == []
    assert calls.take(c.CallEnded(call="c9", reason=c.EndReason.BUSY)) is None
    assert calls._strays == [], "nobody waits for an id"


async def test_client_calls_incoming(calls: Calls, server: Server) -> None:
    call = ring(calls)
    assert calls.take(invited()) is None
    assert (call.is_caller, call.identity, call.peer) == (False, "other", "them")
    await call.ring()
    answer = asyncio.create_task(call.accept())
    await asyncio.sleep(0)
    calls.take(accepted(sender="them", device="me"))
    calls.look(in_room("c1", "them"))
    assert (await answer).sender == "them"
    await call.hangup()
    await call.hangup()
    assert [type(each) for each in server.asked] == [c.CallRinging, c.CallAccept, c.CallHangup]
    assert (await call.ended()).reason == "user_hangup"


async def test_client_calls_answered_elsewhere(calls: Calls, server: Server) -> None:
    call = ring(calls)
    server.meanwhile = lambda: calls.take(ENDED)
    server.refusal = WrongStateError("wrong_state", "the call has ended")
    with pytest.raises(CallOverError):
        await call.accept()


async def test_client_calls_crossing_ends(calls: Calls, server: Server) -> None:
    call = ring(calls)
    server.refusal = WrongStateError("wrong_state", "the call has ended")
    with pytest.raises(WrongStateError):
        await call.reject()
    server.meanwhile = lambda: calls.take(ENDED)
    await call.reject()
    assert await call.ended() is ENDED


async def test_client_calls_both_called(calls: Calls) -> None:
    """They met in a call that never rang here: the application learns of it."""
    mine = await calls.invite(c.CallInvite(to="other"))
    calls.take(c.CallEnded(call="c1", reason=c.EndReason.ANSWERED_ELSEWHERE, replaced_by="c0"))
    kept = calls.take(accepted("c0", sender="them", device="me"))
    assert kept is not None
    assert (kept.state, kept.peer, kept.is_caller) == ("active", "them", False)
    assert (await mine.ended()).replaced_by == kept.id


async def test_client_calls_end_with_the_session(calls: Calls) -> None:
    call = ring(calls)
    calls.lost()
    assert (await call.ended()).reason == "unreachable"


def shown(call: str, state: str, role: Literal["caller", "callee"]) -> c.CallSnapshot:
    peers = [c.CallPeer(peer="them", identity="other", state="ringing")]
    return c.CallSnapshot(call=call, state=state, role=role, peers=peers, room=call, media=MEDIA)


async def test_client_calls_are_what_a_resumed_session_shows(calls: Calls, server: Server) -> None:
    calls.take(invited("c2"))
    known = calls.live["c2"]
    snapshots = [shown("c2", "invited", "callee"), shown("c3", "active", "callee")]
    snapshots += [shown("c4", "active", "caller"), shown("c5", "invited", "callee")]
    active, mine, rings = calls.reconcile(snapshots)
    assert calls.live["c2"] is known
    calls.look(in_room("c3", "them"))
    assert ((await active.accepted()).device, active.state, active.peer) == ("me", "active", "them")
    calls.look(in_room("c4", "them"))
    assert ((await mine.accepted()).device, mine.is_caller) == ("them", True)
    assert (rings.state, rings.peer, rings.identity) == ("invited", "them", "other")

    assert calls.reconcile(snapshots[1:]) == []
    assert (await known.ended()).reason is c.EndReason.UNREACHABLE


async def test_client_calls_that_this_side_ends_keep_their_reason(
    calls: Calls, server: Server
) -> None:
    """The answer to the hangup was lost with the connection, and is on its way again."""
    calls.take(invited())
    call = calls.live["c1"]
    server.meanwhile = lambda: calls.reconcile([])
    await call.reject()
    assert (await call.ended()).reason is c.EndReason.DECLINED


async def test_client_calls_whose_invite_is_under_way_are_not_opened_twice(
    calls: Calls, server: Server
) -> None:
    server.meanwhile = lambda: calls.reconcile([shown("c1", "invited", "caller")])
    call = await calls.invite(c.CallInvite(to="other", media=MEDIA))
    assert calls.live == {"c1": call}
