"""Calls as one device sees them: invite, ring, answer, end; as objects instead of messages.

A `Call` is kept true by the server's messages; its methods ask, its futures and its iteration tell.
It does not know connections, descriptions or media.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Literal

from msgspec import UNSET, Raw, UnsetType

from signal_server.client_wire import SignalingError
from signal_server.roster import Roster
from signal_server.wire import messages as wire
from signal_server.wire.base import Request
from signal_server.wire.call_messages import (
    CallAccept,
    CallAccepted,
    CallCancel,
    CallEnded,
    CallHangup,
    CallInvite,
    CallInvited,
    CallMedia,
    CallReject,
    CallRinging,
    CallRings,
    CallServerMessage,
    CallSnapshot,
    EndReason,
    HangupReason,
    RejectReason,
)

CallEvent = CallRings | CallAccepted | CallEnded
Ask = Callable[[Request], Awaitable[wire.Ok]]

_EVENTS = 1024
"""Bound of unread events of one call, and of events of calls whose id is not known yet."""


class CallOverError(Exception):
    """The call ended before what was waited for; `ended` says why."""

    def __init__(self, ended: CallEnded) -> None:
        super().__init__(f"the call ended: {ended.reason}")
        self.ended = ended


class Call:
    """`await call.accepted()`, or `async for event in call` until it has ended.

    `media` is what was offered, after the answer what both want. `identity` and `peer` are the
    other party: the caller, or the device that has answered.
    """

    def __init__(self, ask: Ask, call: str, *, is_caller: bool, room: str, media: CallMedia):
        loop = asyncio.get_running_loop()
        self.id = call
        self.is_caller = is_caller
        self.room = room
        self.media = media
        self.identity: str | None = None
        self.peer: str | None = None
        self.waiting = False
        """The own identity is in another call."""
        self.data: Raw | UnsetType = UNSET
        """What came with the invite."""
        self.state: Literal["invited", "ringing", "active", "ended"] = "invited"
        self._ask = ask
        self._is_ending = False
        """This side has asked for the end and knows its reason."""
        self._then: Callable[[], object] = bool
        self._answer: CallAccepted | None = None
        self._rings: asyncio.Future[None] = loop.create_future()
        self._accepted: asyncio.Future[CallAccepted | None] = loop.create_future()
        self._ended: asyncio.Future[CallEnded] = loop.create_future()
        self._events: asyncio.Queue[CallEvent] = asyncio.Queue(_EVENTS)

    # Asking ----------------------------------------------------------------------------------

    async def ring(self) -> None:
        """Tell the caller that this device shows the invite."""
        await self._ask(CallRinging(call=self.id))
        if self.state == "invited":
            self.state = "ringing"

    async def accept(self, media: CallMedia | None = None) -> CallAccepted:
        """Answer on this device; returns when both parties are in the call's room."""
        try:
            await self._ask(CallAccept(call=self.id, media=media))
        except SignalingError:
            self._raise_if_over()
            raise
        return await self.accepted()

    async def reject(self, reason: RejectReason = RejectReason.DECLINED) -> None:
        """`declined` speaks for the identity, `busy` for this device."""
        await self._end(CallReject(call=self.id, reason=reason), EndReason(reason.value))

    async def cancel(self) -> None:
        """Give up one's own call before it is answered, or as it is."""
        await self._end(CallCancel(call=self.id), EndReason.CANCELED)

    async def hangup(self, reason: HangupReason = HangupReason.USER_HANGUP) -> None:
        await self._end(CallHangup(call=self.id, reason=reason), EndReason(reason.value))

    async def _end(self, request: Request, reason: EndReason) -> None:
        """Who ends a call is not told so by the server. One that is over needs no ending."""
        if self._ended.done():
            return
        self._is_ending = True
        try:
            await self._ask(request)
        except SignalingError:
            if self._ended.done():
                return
            raise
        finally:
            self._is_ending = False
        self.tell(CallEnded(call=self.id, reason=reason))

    # Waiting ---------------------------------------------------------------------------------

    async def ringing(self) -> None:
        """Wait until it rings on some device, or is answered; raises CallOverError."""
        await asyncio.shield(self._rings)
        if self._answer is None and self.state == "ended":
            self._raise_if_over()

    async def accepted(self) -> CallAccepted:
        """Wait until it is answered and both are in its room, so that the caller can offer to
        `device`; raises CallOverError. `ended.replaced_by` names the call in which two met who had
        called each other: it is in `client.calls`, and comes in the client's iteration."""
        answer = await asyncio.shield(self._accepted)
        if answer is None:
            raise CallOverError(await self.ended())
        return answer

    async def ended(self) -> CallEnded:
        return await asyncio.shield(self._ended)

    async def __aiter__(self) -> AsyncIterator[CallEvent]:
        """What happens to it, each event once; stops after the end."""
        while True:
            event = await self._events.get()
            yield event
            if isinstance(event, CallEnded):
                return

    def _raise_if_over(self) -> None:
        if self._ended.done():
            raise CallOverError(self._ended.result())

    # Told by `Calls` -------------------------------------------------------------------------

    def tell(self, event: CallEvent) -> None:
        """An event of this call; after the end there are none."""
        if self._ended.done():
            return
        if isinstance(event, CallEnded):
            self.state = "ended"
            if self._events.full():
                self._events.get_nowait()
            self._ended.set_result(event)
            self._then()
            _finish(self._rings)
            _finish(self._accepted)
        elif isinstance(event, CallAccepted):
            self.state = "active"
            self._answer = event
            self.identity, self.room, self.media = event.identity, event.room, event.media
            self.peer = event.device if self.is_caller else event.sender
            _finish(self._rings)
        else:
            self.state = "ringing"
            _finish(self._rings)
        if not self._events.full():
            self._events.put_nowait(event)

    def look(self, roster: Roster) -> None:
        """Once the answered call has its parties together, whoever waits for that is told."""
        if self._answer is None or self._accepted.done():
            return
        if roster.room == self.room and self.peer in roster.peers:
            self._accepted.set_result(self._answer)

    def is_gone(self) -> None:
        """The server knows it no more."""
        if not self._is_ending:
            self.tell(CallEnded(call=self.id, reason=EndReason.UNREACHABLE))

    def when_over(self, then: Callable[[], object]) -> None:
        """Done as soon as the end is known, before anybody who waits for it goes on."""
        self._then = then


class Calls:
    """The calls of one client that are not over."""

    def __init__(self, ask: Ask, own_peer: Callable[[], str]) -> None:
        self.live: dict[str, Call] = {}
        self._ask = ask
        self._own_peer = own_peer
        self._inviting = 0
        self._strays: list[CallEvent] = []
        """Events that came before the id of the call: its `ok` was lost with a connection."""

    async def invite(self, request: CallInvite) -> Call:
        """Returns as soon as the server has the invite; it may be over by then."""
        self._inviting += 1
        try:
            ok = await self._ask(request)
            number = ok.call or ""
            room = request.room or number
            call = self._open(number, is_caller=True, room=room, media=request.media)
            for event in self._strays:
                if event.call == number:
                    call.tell(event)
            return call
        finally:
            self._inviting -= 1
            if not self._inviting:
                self._strays.clear()

    def take(self, message: CallServerMessage) -> Call | None:
        """Take over what the server tells; returns a call that the application must learn of."""
        call = self.live.get(message.call)
        if isinstance(message, CallInvited):
            return self._rung(message) if call is None else None
        if call is not None:
            call.tell(message)
        elif isinstance(message, CallAccepted) and message.sender != self._own_peer():
            # Both had called each other, and met in the other side's call.
            room, media = message.room, message.media
            call = self._open(message.call, is_caller=False, room=room, media=media)
            call.tell(message)
            return call
        elif self._inviting and len(self._strays) < _EVENTS:
            self._strays.append(message)
        return None

    def look(self, roster: Roster) -> None:
        """The room has changed, or a call."""
        for call in self.live.values():
            call.look(roster)

    def reconcile(self, shown: Sequence[CallSnapshot]) -> list[Call]:
        """Take over the calls of a resumed session; returns those that the application must learn
        of. What was replayed has been told before, so mostly there is nothing to do."""
        known = {snapshot.call for snapshot in shown}
        for call in list(self.live.values()):
            if call.id not in known:
                call.is_gone()
        return [
            self._open_shown(snapshot)
            for snapshot in shown
            if snapshot.call not in self.live and not (self._inviting and _is_mine(snapshot))
        ]

    def lost(self) -> None:
        """The session is over, and with it its calls."""
        self._strays.clear()
        for call in list(self.live.values()):
            call.tell(CallEnded(call=call.id, reason=EndReason.UNREACHABLE))

    def _rung(self, invite: CallInvited) -> Call:
        call = self._open(invite.call, is_caller=False, room=invite.room, media=invite.media)
        call.identity, call.peer = invite.identity, invite.sender
        call.waiting, call.data = invite.waiting, invite.data
        return call

    def _open_shown(self, snapshot: CallSnapshot) -> Call:
        number, is_caller = snapshot.call, _is_mine(snapshot)
        call = self._open(number, is_caller=is_caller, room=snapshot.room, media=snapshot.media)
        call.data = snapshot.data
        other = snapshot.peers[0] if snapshot.peers else None
        if snapshot.state == "active" and other is not None:
            own = self._own_peer()
            caller, device = (own, other.peer) if is_caller else (other.peer, own)
            accepted = CallAccepted(
                call=number,
                sender=caller,
                device=device,
                identity=other.identity,
                room=snapshot.room,
                media=snapshot.media,
            )
            call.tell(accepted)
        elif not is_caller and other is not None:
            call.peer, call.identity = other.peer, other.identity
        return call

    def _open(self, number: str, *, is_caller: bool, room: str, media: CallMedia) -> Call:
        call = Call(self._ask, number, is_caller=is_caller, room=room, media=media)
        self.live[number] = call
        call.when_over(lambda: self.live.pop(number, None))
        return call


def _is_mine(snapshot: CallSnapshot) -> bool:
    return snapshot.role == "caller"


def _finish(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_result(None)
