"""Sessions outlive their connections: nothing is lost or doubled, or the client is told so."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Iterator
from functools import partial

import pytest
from history import History
from raw_session import RawSession
from rtc import until
from servers import Parley, start_parley
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from signal_server.client import SignalingClient
from signal_server.client_connect import ClientSettings
from signal_server.client_session import SessionLost
from signal_server.client_wire import DismissedError, ResumeRefusedError, SignalingError
from signal_server.wire import messages as wire
from signal_server.wire.receipts import Receipt, Stage

WINDOW_S = 2.0
QUICK = ClientSettings(backoff_base_s=0.02, backoff_cap_s=0.1)
_names = itertools.count()


@pytest.fixture(scope="module")
def parley() -> Iterator[Parley]:
    with start_parley("--no-rate-limits", "--resume-window", str(WINDOW_S)) as parley:
        yield parley


@pytest.fixture
def room() -> str:
    return f"resume{next(_names)}"


@pytest.fixture(autouse=True)
async def nothing_is_left(parley: Parley) -> AsyncIterator[None]:
    yield
    levels = ("sessions", "rooms", "calls", "candidates_buffered")
    await until(lambda: not any(parley.metric(f"signaling_{level}") for level in levels))


async def pair(parley: Parley, room: str) -> tuple[RawSession, RawSession]:
    """Two in the room, who know of each other."""
    one = await RawSession.open(parley.ws_url, parley.token("one"), room=room)
    await one.until("room")
    other = await RawSession.open(parley.ws_url, parley.token("other"), room=room)
    await other.until("room")
    await one.until("peer_joined")
    return one, other


async def bye(*sessions: RawSession) -> None:
    for session in sessions:
        await session.say("bye")
        await session.closed()


async def test_session_resumes_with_what_it_missed(parley: Parley, room: str) -> None:
    one, other = await pair(parley, room)
    for number in range(3):
        await one.say("message", to=other.peer, data=number)
    await other.until("message", data=1)
    other.kill()
    await one.until("peer_updated", peer=other.peer, connected=False)
    for number in range(3, 6):
        assert (await one.ask("message", id=number, to=other.peer, data=number))["type"] == "ok"
    last = other.last_seq
    again = await other.resume(parley.ws_url)
    greeting = again.greeting
    assert greeting["type"] == "resumed"
    assert (greeting["session"], greeting["peer"]) == (other.greeting["session"], other.peer)
    assert (greeting["from_seq"], greeting["replayed"]) == (last + 1, 4)
    assert [entry["peer"] for entry in greeting["rooms"][0]["peers"]] == [one.peer]
    await again.until("message", data=5)
    assert other.data() + again.data() == list(range(6))
    shown = await one.until("peer_updated", peer=other.peer)
    assert shown["connected"] is True
    await bye(one, again)


@pytest.mark.parametrize("code", [1001, 3000, 4001])
async def test_session_waits_for_a_client_that_only_closes(
    parley: Parley, room: str, code: int
) -> None:
    """1001 is what browsers say for a page that goes, also when it is reloaded."""
    one, other = await pair(parley, room)
    await other.socket.close(code)
    await one.until("peer_updated", peer=other.peer, connected=False)
    again = await other.resume(parley.ws_url)
    assert again.greeting["type"] == "resumed"
    await one.until("peer_updated", peer=other.peer, connected=True)
    await again.socket.close(1000)
    assert (await one.until("peer_left", peer=other.peer))["reason"] == "left"
    await bye(one)


async def test_session_expires_with_its_window(parley: Parley, room: str) -> None:
    one, other = await pair(parley, room)
    other.kill()
    await one.until("peer_updated", peer=other.peer, connected=False)
    left = await one.until("peer_left", peer=other.peer)
    assert left["reason"] == "connection_lost"
    assert (await one.ask("message", id=1, to=other.peer, data=1))["code"] == "not_found"
    again = await other.resume(parley.ws_url)
    assert (again.greeting["type"], again.greeting["code"]) == ("error", "resume_expired")
    await again.say("hello", token=again.token)
    welcome = await again.take()
    assert welcome["type"] == "welcome", "the connection is good for a new session"
    assert welcome["session"] != other.greeting["session"]
    await bye(one, again)


async def test_session_that_said_bye_cannot_be_resumed(parley: Parley, room: str) -> None:
    one, other = await pair(parley, room)
    await bye(other)
    await one.until("peer_left", peer=other.peer)
    again = await other.resume(parley.ws_url)
    assert again.greeting["code"] == "resume_expired"
    await bye(one)
    again.kill()


async def test_session_of_another_version_is_refused_for_good(parley: Parley) -> None:
    """In a way that a browser can read: it does not show the answer to a failed handshake."""
    other = Subprotocol("parley.v2.json")
    async with connect(parley.ws_url, subprotocols=[other]) as socket:
        assert socket.subprotocol == other
        refusal = json.loads(await socket.recv())
        assert (refusal["code"], refusal["retryable"]) == ("unsupported_version", False)
        await socket.wait_closed()
        assert socket.close_code == 4506


async def test_session_is_told_what_became_of_its_messages(parley: Parley, room: str) -> None:
    """Every stage of a receipt, with the Python client at both ends."""
    told: dict[str | int, list[Stage]] = {}

    async def listen(client: SignalingClient) -> None:
        async for event in client:
            if isinstance(event, Receipt):
                told.setdefault(event.ref, []).append(event.stage)

    client = partial(SignalingClient, parley.ws_url, room=room)
    async with (
        client(parley.token("one"), features=["receipts"]) as one,
        client(parley.token("stays")) as stays,
    ):
        listener = asyncio.create_task(listen(one))
        leaves, vanishes = [
            await RawSession.open(parley.ws_url, parley.token("raw"), room=room) for _ in range(2)
        ]
        await until(lambda: len(one.roster.peers) == 3)
        offered = await one.request(wire.Offer(to=stays.peer, sdp="v=0"))
        await stays.answer(one.peer, "v=0", negotiation=offered.negotiation or 0)
        received, dropped, expired = [
            await one.send(other.peer, "hi") for other in (stays, leaves, vanishes)
        ]
        for number in range(stays.settings.ack_after_messages):
            await one.send(stays.peer, number)
        await bye(leaves)
        vanishes.kill()
        ends = {
            offered.id: [Stage.RELAYED, Stage.RECEIVED, Stage.APPLIED],
            received: [Stage.RELAYED, Stage.RECEIVED],
            dropped: [Stage.RELAYED, Stage.DROPPED],
            expired: [Stage.RELAYED, Stage.EXPIRED],
        }
        await until(lambda: all(told[ref][-1] is end[-1] for ref, end in ends.items()))
        assert {ref: told[ref] for ref in ends} == ends
        listener.cancel()


async def test_session_has_one_connection(parley: Parley, room: str) -> None:
    one, other = await pair(parley, room)
    again = await other.resume(parley.ws_url)
    assert again.greeting["type"] == "resumed"
    assert await other.closed() == 4502
    await one.say("message", to=again.peer, data="to the new one")
    await again.until("message")
    assert not any(message["type"] == "peer_updated" for message in one.log), "never was away"
    await bye(one, again)


async def test_session_secret_rotates(parley: Parley, room: str) -> None:
    one, other = await pair(parley, room)
    other.kill()
    first = await other.resume(parley.ws_url)
    assert first.secret != other.secret
    assert (await first.ask("update", id=1, data=1))["type"] == "ok"
    thief = await other.resume(parley.ws_url, last_seq=first.last_seq)
    assert thief.greeting["code"] == "resume_expired", "the old secret is worth nothing"
    assert (await first.ask("update", id=2, data=2))["type"] == "ok", "nor does it disturb"
    second = await first.resume(parley.ws_url)
    assert second.greeting["type"] == "resumed"
    thief.kill()
    await bye(one, second)


async def test_session_outlives_a_lost_answer_to_resume(parley: Parley, room: str) -> None:
    """Whoever never got the new secret still has only the old one."""
    one, other = await pair(parley, room)
    other.kill()
    unheard = await other.resume(parley.ws_url)
    unheard.kill()
    again = await other.resume(parley.ws_url)
    assert again.greeting["type"] == "resumed"
    await bye(one, again)


async def test_session_wants_its_own_token_and_secret(parley: Parley, room: str) -> None:
    one, other = await pair(parley, room)
    other.token = parley.token("somebody else")
    thief = await other.resume(parley.ws_url)
    assert thief.greeting["code"] == "resume_expired"
    other.token = parley.token("other")
    guess = await other.resume(parley.ws_url, secret="x" * len(other.secret))
    assert guess.greeting["code"] == "resume_expired"
    thief.kill()
    guess.kill()
    await bye(one, other)


async def test_session_numbers_it_never_had_are_a_gap(parley: Parley, room: str) -> None:
    one, other = await pair(parley, room)
    other.kill()
    again = await other.resume(parley.ws_url, last_seq=other.last_seq + 100)
    assert again.greeting["code"] == "resume_gap"
    await one.until("peer_left", peer=other.peer)
    await bye(one)
    again.kill()


async def test_session_overflow_is_a_gap(parley: Parley, room: str) -> None:
    one, other = await pair(parley, room)
    other.kill()
    await one.until("peer_updated", peer=other.peer, connected=False)
    big = "x" * 30_000
    for number in range(20):
        assert (await one.ask("message", id=number, to=other.peer, data=big))["type"] == "ok"
    again = await other.resume(parley.ws_url)
    assert (again.greeting["type"], again.greeting["code"]) == ("error", "resume_gap")
    await again.say("hello", token=again.token)
    assert (await again.take())["type"] == "welcome"
    await bye(one, again)


async def test_session_repeated_ids_are_executed_once(parley: Parley, room: str) -> None:
    one, other = await pair(parley, room)
    first = await one.ask("offer", id="o", to=other.peer, sdp="v=0")
    sent = await one.ask("message", id="m", to=other.peer, data="once")
    one.kill()
    again = await one.resume(parley.ws_url)
    assert await again.ask("offer", id="o", to=other.peer, sdp="v=0") == first
    assert await again.ask("message", id="m", to=other.peer, data="once") == sent
    assert (await again.ask("message", id="n", to=other.peer, data="end"))["type"] == "ok"
    await other.until("message", data="end")
    assert other.data() == ["once", "end"]
    assert [m["type"] for m in other.log if m["type"] == "offer"] == ["offer"]
    await bye(again, other)


async def test_session_acknowledged_messages_are_not_kept(parley: Parley, room: str) -> None:
    one, other = await pair(parley, room)
    before = other.last_seq
    await one.say("message", to=other.peer, data=1)
    await other.until("message")
    await other.say("ack", seq=other.last_seq)
    assert (await other.ask("update", id=1, data=1))["type"] == "ok"
    other.kill()
    again = await other.resume(parley.ws_url, last_seq=before)
    assert again.greeting["code"] == "resume_gap"
    again.kill()
    await bye(one)


# The client ---------------------------------------------------------------------------------------


async def read(client: SignalingClient, history: History, into: list[object]) -> None:
    async for event in client:
        into.append(event)
        history.numbers(client.welcome.session, getattr(event, "seq", 0))
        if isinstance(event, wire.RelayedMessage):
            history.arrives(client.peer, event.sender, bytes(event.data).decode().strip('"'))


async def talk(client: SignalingClient, to: str, history: History, count: int) -> None:
    """Several messages are always under way."""

    async def send(mark: str) -> None:
        item = history.asks(client.peer, to, "message", mark)
        await client.send(to, mark)
        item.promised()

    name = client.peer
    for start in range(0, count, 5):
        await asyncio.gather(*(send(f"{name}-{number}") for number in range(start, start + 5)))


async def test_session_conversation_over_a_dying_line(parley: Parley, room: str) -> None:
    """Both talk all the time while their sockets are killed again and again."""
    history = History()
    events: tuple[list[object], list[object]] = ([], [])
    async with (
        SignalingClient(parley.ws_url, parley.token("one"), room=room, settings=QUICK) as one,
        SignalingClient(parley.ws_url, parley.token("other"), room=room, settings=QUICK) as other,
        asyncio.TaskGroup() as tasks,
    ):
        both = (one, other)
        await until(lambda: all(len(each.roster.peers) == 1 for each in both))
        readers = [
            tasks.create_task(read(each, history, into))
            for each, into in zip(both, events, strict=True)
        ]
        talks = [
            asyncio.create_task(talk(one, other.peer, history, 500)),
            asyncio.create_task(talk(other, one.peer, history, 500)),
        ]
        kills = 0
        while not all(each.done() for each in talks):
            victim = both[kills % 2]
            kills += 1
            victim._line.socket.transport.abort()
            await asyncio.wait(talks, timeout=0.01)
        await asyncio.gather(*talks)
        await until(lambda: not history.missing(one.peer, other.peer))
        await until(lambda: not history.missing(other.peer, one.peer))
        for reader in readers:
            reader.cancel()
    verdict = history.verdict()
    assert verdict.is_good, verdict
    assert (verdict.arrived, verdict.excused) == (1000, 0)
    assert kills >= 3
    for each in events:
        assert not any(isinstance(event, SessionLost) for event in each)
        assert any(isinstance(event, wire.Resumed) for event in each)


async def test_session_client_sees_who_is_away(parley: Parley, room: str) -> None:
    slow = ClientSettings(backoff_base_s=100.0, backoff_cap_s=100.0)
    async with SignalingClient(parley.ws_url, parley.token("one"), room=room) as one:
        away = SignalingClient(parley.ws_url, parley.token("other"), room=room, settings=slow)
        async with away:
            peer = away.peer
            await until(lambda: peer in one.roster.peers)
            away._line.socket.transport.abort()
            await until(lambda: not one.roster.peers[peer].connected)
            await until(lambda: not one.roster.peers)


async def test_session_client_is_told_of_a_lost_session(parley: Parley, room: str) -> None:
    async with SignalingClient(
        parley.ws_url, parley.token("one"), room=room, data=1, settings=QUICK
    ) as one:
        former = one.peer
        one._line.session._secret = "forgotten"
        request = one._line.post(wire.Update(data=b"2"))  # type: ignore[arg-type]
        one._line.socket.transport.abort()
        with pytest.raises(ResumeRefusedError):
            await request
        async with asyncio.timeout(10):
            kinds = [type(event) async for event in _up_to(one, wire.Welcome)]
        assert kinds[-2:] == [SessionLost, wire.Welcome]
        await until(lambda: one.roster.room == room)
        assert former != one.peer


async def test_session_client_is_superseded(parley: Parley, room: str) -> None:
    async with SignalingClient(parley.ws_url, parley.token("one"), room=room) as one:
        resume = one._line.session.resume()
        thief = await RawSession.open(
            parley.ws_url,
            parley.token("one"),
            resume={"session": resume.session, "secret": resume.secret, "last_seq": 0},
        )
        assert thief.greeting["type"] == "resumed"
        with pytest.raises(DismissedError) as final:
            await asyncio.wait_for(_drain(one), 10)
        assert final.value.code == "superseded"
        with pytest.raises(SignalingError, match="superseded"):
            await one.leave()
        await bye(thief)


async def _drain(client: SignalingClient) -> None:
    async for _ in client:
        pass


async def _up_to(client: SignalingClient, kind: type) -> AsyncIterator[object]:
    async for event in client:
        yield event
        if isinstance(event, kind):
            return
