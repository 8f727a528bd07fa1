"""Scenes of calls between devices over a network that breaks, all of it written into a history.

A group is a caller, and a callee with two devices; each scene is one call from its invitation to
its end. It does not know what breaks the network.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import pytest
from history import History
from rtc import until

from signal_server.client import SignalingClient
from signal_server.client_calls import Call, CallOverError
from signal_server.client_connect import ClientSettings
from signal_server.client_session import SessionLost
from signal_server.client_wire import ServerMessage, SignalingError, WrongStateError
from signal_server.wire import messages as wire
from signal_server.wire.call_messages import CallAccepted, CallMedia, EndReason, RejectReason
from signal_server.wire.candidate import CandidateInit

SCENE_TIMEOUT_S = 60.0
SETTINGS = ClientSettings(
    backoff_base_s=0.02, backoff_cap_s=0.2, close_timeout_s=0.5, connect_timeout_s=4.0
)
MEDIA = CallMedia(audio=True, video=True)

_marks = itertools.count(1)


class Place(Protocol):
    """Where clients connect."""

    @property
    def ws_url(self) -> str: ...

    def token(self, identity: str) -> str:
        """An access token for that identity."""


class Device:
    """A client whose every message goes into the history."""

    def __init__(self, place: Place, history: History, identity: str) -> None:
        self.identity = identity
        self.rung: dict[str, Call] = {}
        self.offers: list[wire.RelayedOffer] = []
        self.answers: list[wire.RelayedAnswer] = []
        self.resumes = 0
        self.sessions_lost = 0
        self._place = place
        self._history = history
        self.client: SignalingClient
        self._reader: asyncio.Task[None]

    async def open(self) -> None:
        token = await asyncio.to_thread(self._place.token, self.identity)
        self.client = client = SignalingClient(self._place.ws_url, token, settings=SETTINGS)
        consumer = client._line._take

        def witness(message: ServerMessage | SessionLost) -> None:
            self._note(message)
            consumer(message)

        client._line._take = witness
        await _entered(client)
        self._reader = asyncio.create_task(self._read(client))

    async def close(self) -> None:
        await self.client.close()
        await self._reader

    async def die(self) -> None:
        """The process is gone: no bye, no resume."""
        self._history.gap(self.peer)
        task = self.client._task
        assert task is not None
        task.cancel()
        self.client._line.socket.transport.abort()
        await asyncio.wait([task, self._reader])

    def break_line(self) -> None:
        with contextlib.suppress(AttributeError):
            self.client._line.socket.transport.abort()

    @property
    def peer(self) -> str:
        return self.client.peer

    # What it says ----------------------------------------------------------------------------

    async def offer(self, to: str) -> None:
        mark, sdp, ufrag = _description()
        await self._say(to, "description", mark, lambda: self.client.offer(to, sdp))
        await self._trickle(to, ufrag, mark)

    async def answer(self, offer: wire.RelayedOffer) -> None:
        to, number = offer.sender, offer.negotiation
        mark, sdp, ufrag = _description()
        await self.client.applied(to, negotiation=number)
        await self._say(
            to, "description", mark, lambda: self.client.answer(to, sdp, negotiation=number)
        )
        await self._trickle(to, ufrag, mark)

    async def chat(self, to: str, count: int) -> None:
        def say(mark: str) -> Awaitable[object]:
            return self._say(to, "message", mark, lambda: self.client.send(to, mark))

        await asyncio.gather(*(say(f"m{next(_marks)}") for _ in range(count)))

    async def _trickle(self, to: str, ufrag: str, needs: str) -> None:
        def say(mark: str) -> Awaitable[object]:
            line = f"candidate:{mark} 1 udp 2130706431 192.0.2.1 9 typ host ufrag {ufrag}"
            init = CandidateInit(line, "0", 0, ufrag)
            return self._say(
                to, "candidate", mark, lambda: self.client.candidates(to, [init]), needs
            )

        await asyncio.gather(*(say(f"c{next(_marks)}") for _ in range(3)))

    async def _say(
        self,
        to: str,
        lane: str,
        mark: str,
        send: Callable[[], Awaitable[object]],
        needs: str | None = None,
    ) -> None:
        item = self._history.asks(self.peer, to, lane, mark, needs)
        try:
            await send()
        except SignalingError:
            item.refused()
            raise
        item.promised()

    # What it hears ---------------------------------------------------------------------------

    async def ring(self, number: str) -> Call:
        """The call as it rings here."""
        await until(lambda: number in self.rung)
        return self.rung[number]

    async def next_offer(self, sender: str) -> wire.RelayedOffer:
        await until(lambda: any(each.sender == sender for each in self.offers))
        offer = next(each for each in self.offers if each.sender == sender)
        self.offers.remove(offer)
        return offer

    async def next_answer(self, sender: str) -> wire.RelayedAnswer:
        await until(lambda: any(each.sender == sender for each in self.answers))
        answer = next(each for each in self.answers if each.sender == sender)
        self.answers.remove(answer)
        return answer

    async def _read(self, client: SignalingClient) -> None:
        async for event in client:
            if isinstance(event, Call):
                self.rung[event.id] = event

    def _note(self, message: ServerMessage | SessionLost) -> None:
        history, peer = self._history, self.peer
        history.numbers(self.client._line.session.id, getattr(message, "seq", 0))
        match message:
            case wire.RelayedOffer() | wire.RelayedAnswer():
                history.arrives(peer, message.sender, _mark_of(message.sdp))
                (self.offers if isinstance(message, wire.RelayedOffer) else self.answers).append(
                    message  # type: ignore[arg-type]
                )
            case wire.RelayedCandidates():
                for candidate in message.candidates:
                    mark = str(candidate.candidate).split()[0].removeprefix("candidate:")
                    history.arrives(peer, message.sender, mark)
            case wire.RelayedMessage():
                history.arrives(peer, message.sender, bytes(message.data).decode().strip('"'))
            case CallAccepted():
                history.answers(message.call, message.device)
            case wire.Resumed():
                self.resumes += 1
            case SessionLost():
                self.sessions_lost += 1
                history.gap(message.peer)


async def _entered(client: SignalingClient) -> None:
    """The first connection is the application's to repeat."""
    async with asyncio.timeout(SCENE_TIMEOUT_S):
        while True:
            try:
                await client.__aenter__()
                return
            except SignalingError as refusal:
                if not refusal.retryable:
                    raise
            await asyncio.sleep(0.1)


def _description() -> tuple[str, str, str]:
    """Its mark, the SDP and the ufrag."""
    number = next(_marks)
    mark, ufrag = f"d{number}", f"u{number}"
    lines = ["v=0", "o=- 1 1 IN IP4 127.0.0.1", f"s={mark}", "t=0 0"]
    lines += ["m=audio 9 UDP/TLS/RTP/SAVPF 111", "a=mid:0", f"a=ice-ufrag:{ufrag}"]
    lines += ["a=ice-pwd:0123456789012345678901", f"a=x-padding:{'x' * 1500}", ""]
    return mark, "\r\n".join(lines), ufrag


def _mark_of(sdp: str) -> str:
    return sdp.split("\r\ns=", 1)[1].split("\r\n", 1)[0]


class Group:
    """A caller, and a callee with two devices, who never lose interest in each other."""

    def __init__(
        self, place: Place, history: History, number: int, seed: int, *, may_vanish: bool = True
    ) -> None:
        self.history = history
        self._may_vanish = may_vanish
        self.random = random.Random(f"{seed}/{number}")
        self.caller = Device(place, history, f"caller{number}")
        self.callees = [Device(place, history, f"callee{number}") for _ in range(2)]
        self.devices = [self.caller, *self.callees]
        self.played: Counter[str] = Counter()

    async def play(self) -> None:
        """One call."""
        scenes = [self.answered, self.canceled, self.declined, self.busy, self.both_call]
        (scene,) = self.random.choices(scenes, weights=[6, 3, 1, 1, 2])
        vanishes = self.random.random() < 0.03 or not self.played["vanished"]
        if vanishes and self._may_vanish:
            scene = self.vanished
        name = scene.__name__
        try:
            async with asyncio.timeout(SCENE_TIMEOUT_S):
                await scene()
                await self._leave(self.devices)
        except Exception as failure:
            failure.add_note(f"in the scene '{name}' of {self.caller.identity}")
            raise
        self.played[name] += 1
        for device in self.devices:
            device.rung.clear()
            assert not device.client.calls

    # Scenes ----------------------------------------------------------------------------------

    async def answered(self) -> None:
        call, callee, other = await self._answer()
        await self._talk(self.caller, callee, other)
        one, two = self.random.sample([call, other], 2)
        await one.hangup()
        assert (await two.ended()).reason is EndReason.USER_HANGUP

    async def canceled(self) -> None:
        """At any moment, also as somebody answers."""
        call = await self._invite()
        first = await self.callees[0].ring(call.id)
        second = await self.callees[1].ring(call.id)
        async with asyncio.TaskGroup() as tasks:
            if self.random.random() < 0.5:
                tasks.create_task(_accept_perhaps(first))
            await asyncio.sleep(self.random.random() * 0.01)
            tasks.create_task(call.cancel())
        self.history.gap(call.id)
        ends = {(await each.ended()).reason for each in (call, first, second)}
        assert ends <= {EndReason.CANCELED, EndReason.ANSWERED_ELSEWHERE}

    async def declined(self) -> None:
        call = await self._invite()
        first, second = [await each.ring(call.id) for each in self.callees]
        await first.ring()
        await call.ringing()
        await first.reject()
        assert (await call.ended()).reason is EndReason.DECLINED
        assert (await second.ended()).reason is EndReason.DECLINED
        self.history.gap(call.id)

    async def busy(self) -> None:
        call = await self._invite()
        rung = [await each.ring(call.id) for each in self.callees]
        await asyncio.gather(*(each.reject(RejectReason.BUSY) for each in rung))
        with pytest.raises(CallOverError) as over:
            await call.accepted()
        assert over.value.ended.reason is EndReason.BUSY
        self.history.gap(call.id)

    async def both_call(self) -> None:
        """At the same time: they meet in one call, and the third device learns of it."""
        caller, callee = self.caller, self.callees[0]
        mine, theirs = await asyncio.gather(
            caller.client.invite(callee.identity, MEDIA),
            callee.client.invite(caller.identity, MEDIA),
        )
        kept, lost = sorted((mine.id, theirs.id))
        await until(lambda: kept in caller.client.calls and kept in callee.client.calls)
        ended = await (theirs if lost == theirs.id else mine).ended()
        assert (ended.reason, ended.replaced_by) == (EndReason.ANSWERED_ELSEWHERE, kept)
        call, other = caller.client.calls[kept], callee.client.calls[kept]
        await asyncio.gather(call.accepted(), other.accepted())
        await asyncio.gather(caller.chat(callee.peer, 3), callee.chat(caller.peer, 3))
        await self._all_arrived(caller, callee)
        await call.hangup()
        assert (await other.ended()).reason is EndReason.USER_HANGUP
        await until(lambda: not self.callees[1].client.calls)

    async def vanished(self) -> None:
        """A device dies in the call: the other side learns it when the window is over."""
        call, callee, _ = await self._answer()
        await callee.die()
        assert (await call.ended()).reason is EndReason.UNREACHABLE
        await callee.open()

    # Parts of scenes -------------------------------------------------------------------------

    async def _invite(self) -> Call:
        """With an offer and candidates for whoever will answer."""
        call = await self.caller.client.invite(self.callees[0].identity, MEDIA)
        await self.caller.offer(call.id)
        return call

    async def _answer(self) -> tuple[Call, Device, Call]:
        """The caller's call, the device that answered, and its call."""
        call = await self._invite()
        answers, other = self.random.sample(self.callees, 2)
        rung = await answers.ring(call.id)
        await rung.ring()
        await call.ringing()
        await rung.accept()
        assert (await call.accepted()).device == answers.peer
        ended = await (await other.ring(call.id)).ended()
        assert (ended.reason, ended.device) == (EndReason.ANSWERED_ELSEWHERE, answers.peer)
        return call, answers, rung

    async def _talk(self, caller: Device, callee: Device, call: Call) -> None:
        assert call.peer == caller.peer
        await callee.answer(await callee.next_offer(caller.peer))
        answer = await caller.next_answer(callee.peer)
        await caller.client.applied(callee.peer, negotiation=answer.negotiation)
        await asyncio.gather(caller.chat(callee.peer, 5), callee.chat(caller.peer, 5))
        if self.random.random() < 0.5:
            await callee.offer(caller.peer)
            await caller.answer(await caller.next_offer(callee.peer))
            answer = await callee.next_answer(caller.peer)
            await callee.client.applied(caller.peer, negotiation=answer.negotiation)
        await self._all_arrived(caller, callee)

    async def _all_arrived(self, one: Device, other: Device) -> None:
        await until(lambda: not self.history.missing(one.peer, other.peer))
        await until(lambda: not self.history.missing(other.peer, one.peer))

    async def _leave(self, devices: Sequence[Device]) -> None:
        for device in devices:
            with contextlib.suppress(WrongStateError):
                await device.client.leave()
            device.offers.clear()
            device.answers.clear()


async def _accept_perhaps(call: Call) -> None:
    with contextlib.suppress(CallOverError, WrongStateError):
        await call.accept()
