"""Signaling client for Python: a session that survives, typed messages, rooms and calls.

Joins again when the session had to be replaced, keeps the room's roster and the calls true and
hands everything else to the application in order. It does not know WebRTC: descriptions and
candidates are the caller's (`signal_server.aiortc_peer` drives aiortc with it).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Any, Literal, Self

import msgspec
from msgspec import UNSET, Raw

from signal_server.client_addresses import Addresses
from signal_server.client_calls import Call, Calls
from signal_server.client_connect import ClientSettings
from signal_server.client_line import Line, Token
from signal_server.client_session import SessionLost
from signal_server.client_wire import ResumeRefusedError, ServerMessage, SignalingError
from signal_server.roster import Roster
from signal_server.wire import call_messages as call_wire
from signal_server.wire import messages as wire
from signal_server.wire.base import Request
from signal_server.wire.candidate import CandidateInit
from signal_server.wire.codes import ErrorCode

ClientEvent = ServerMessage | SessionLost | Call
"""What a client iterates: messages, the loss of the session, and incoming calls."""

_encode = msgspec.json.Encoder().encode


class SignalingClient:
    """`async with SignalingClient(url, token, room="blue") as client`, then iterate over it.

    Replies to requests, pongs and the events of known calls are consumed here; everything else is
    iterated, each once and in order, whatever happens to connections. A `Call` is one that rings
    here. `Resumed` says that a lost connection was replaced and nothing is missing; `SessionLost`,
    followed by a `Welcome`, that the session is another: peer ids and calls are void, the room is
    entered again (an `Error` then says that it could not be).

    Of several URLs of one deployment the nearest is used, by `/v1/probes/ping`, and the next one
    while it fails.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        token: Token,
        *,
        room: str | None = None,
        data: Any = UNSET,
        features: Sequence[str] = ("gated",),
        settings: ClientSettings | None = None,
    ) -> None:
        self.settings = settings or ClientSettings()
        self.roster = Roster()
        addresses = Addresses(url)
        self._line = Line(addresses, token, features, self.settings, self._take)
        self._calls = Calls(self._line.request, lambda: self.peer)
        self._room = room
        self._data = data
        self._ice: wire.IceServers | None = None
        self._shown_calls: list[call_wire.CallSnapshot] | None = None
        """Of the last `resumed`, until everything that it repeats has arrived."""
        self._task: asyncio.Task[None] | None = None
        self._incoming: asyncio.Queue[ClientEvent | None] = asyncio.Queue()

    @property
    def welcome(self) -> wire.Welcome:
        """Of the present session."""
        return self._line.welcome

    @property
    def peer(self) -> str:
        """Own peer id in the present session."""
        return self.welcome.peer

    @property
    def granted_ice_servers(self) -> list[dict[str, Any]]:
        """The freshest ICE servers: the server's welcome brings them, and it pushes others (an
        `IceServers` in the iteration) before their credential expires. Empty: none were granted."""
        if self._ice is not None:
            return self._ice.ice_servers
        return self.welcome.ice_servers or []

    @property
    def calls(self) -> dict[str, Call]:
        """Those that are not over, by id."""
        return self._calls.live

    async def __aenter__(self) -> Self:
        await self._line.open()
        self._task = asyncio.create_task(self._line.run(), name="parley-client")
        self._task.add_done_callback(self._over)
        try:
            if self._room is not None:
                await self.join(self._room, self._data)
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Leave and disconnect; the iteration ends. May be called again."""
        if self._task is None:
            return
        task, self._task = self._task, None
        try:
            await self._line.say_bye()
            task.cancel()
            await asyncio.wait([task])
            await self._line.socket.close()
        finally:
            task.cancel()
            self._line.socket.transport.abort()

    def __aiter__(self) -> AsyncIterator[ClientEvent]:
        return self

    async def __anext__(self) -> ClientEvent:
        """Next event; raises SignalingError when the session ended for good."""
        event = await self._incoming.get()
        if event is not None:
            return event
        self._incoming.put_nowait(None)
        if self._line.ended:
            raise self._line.ended
        raise StopAsyncIteration

    async def join(self, room: str, data: Any = UNSET) -> Roster:
        """Enter the room, leaving the one before; returns with the roster filled."""
        await self._line.request(wire.Join(room=room, data=_raw(data)))
        self._room, self._data = room, data
        return self.roster

    async def leave(self) -> None:
        """Leave the room; the session stays."""
        await self._line.request(wire.Leave())
        self._room = None
        self.roster.clear()

    async def offer(self, to: str, sdp: str, *, pc: str = wire.DEFAULT_PC) -> int:
        """Send an offer; returns the negotiation number the server gave it.

        Raises GlareError when the server arbitrates and the other side's offer has won. One that
        loses later comes as an `Error` `glare` with `negotiation` in the iteration.
        """
        ok = await self._line.request(wire.Offer(to=to, sdp=sdp, pc=pc))
        return ok.negotiation or 0

    async def answer(
        self, to: str, sdp: str, *, negotiation: int, pc: str = wire.DEFAULT_PC
    ) -> None:
        """Answer the offer with that number."""
        await self._line.request(wire.Answer(to=to, sdp=sdp, negotiation=negotiation, pc=pc))

    async def pranswer(
        self, to: str, sdp: str, *, negotiation: int, pc: str = wire.DEFAULT_PC
    ) -> None:
        """Answer provisionally."""
        await self._line.request(wire.Pranswer(to=to, sdp=sdp, negotiation=negotiation, pc=pc))

    async def rollback(self, to: str, *, negotiation: int, pc: str = wire.DEFAULT_PC) -> None:
        """Withdraw the own outstanding offer, or refuse the other side's."""
        await self._line.request(wire.Rollback(to=to, negotiation=negotiation, pc=pc))

    async def candidates(
        self,
        to: str,
        candidates: Sequence[CandidateInit | None],
        *,
        negotiation: int | None = None,
        pc: str = wire.DEFAULT_PC,
    ) -> None:
        """Send candidates; None is end-of-candidates."""
        await self._line.request(
            wire.Candidate(to=to, candidates=list(candidates), negotiation=negotiation, pc=pc)
        )

    async def applied(self, to: str, *, negotiation: int, pc: str = wire.DEFAULT_PC) -> None:
        """Say that the remote description is set: held candidates may come."""
        await self._line.request(wire.Applied(to=to, negotiation=negotiation, pc=pc))

    async def renegotiate(
        self,
        to: str,
        reason: Literal["needed", "ice_restart"] = "needed",
        *,
        pc: str = wire.DEFAULT_PC,
    ) -> None:
        """Ask the other side to offer."""
        await self._line.request(wire.Renegotiate(to=to, reason=reason, pc=pc))

    async def state(
        self,
        to: str,
        state: wire.PeerConnectionState,
        candidate_type: wire.CandidateType | None = None,
        *,
        pc: str = wire.DEFAULT_PC,
    ) -> None:
        """Tell the other side the own RTCPeerConnectionState."""
        await self._line.request(
            wire.State(to=to, state=state, candidate_type=candidate_type, pc=pc)
        )

    async def send(self, to: str, data: Any) -> str | int:
        """Send to one peer of the room; returns the `ref` that receipts will name."""
        return (await self.request(wire.Message(to=to, data=Raw(_encode(data))))).id

    async def broadcast(self, data: Any) -> str | int:
        """To everybody else in the room; returns the `ref` that receipts will name."""
        return (await self.request(wire.Message(data=Raw(_encode(data))))).id

    async def request(self, message: Request) -> wire.Ok:
        """Ask in the words of the protocol (`signal_server.wire.messages`); raises SignalingError.

        With the feature `receipts`, the `id` of the answer is the `ref` of the `Receipt` events.
        """
        return await self._line.request(message)

    async def update(self, data: Any) -> None:
        """Replace own presence data."""
        await self._line.request(wire.Update(data=Raw(_encode(data))))
        self._data = data

    async def ice_servers(
        self, *, ttl: int | None = None, region: str | None = None
    ) -> wire.IceServers:
        """Ask for fresh ICE servers; `ttl` in seconds."""
        await self._line.request(wire.IceServersRequest(ttl=ttl, region=region))
        if self._ice is None:
            raise SignalingError(ErrorCode.INTERNAL, "the server said ok and sent no ICE servers")
        return self._ice

    async def refresh(self, token: str) -> None:
        """Go on with this access token; a client with a token callback does it by itself."""
        await self._line.request(wire.Refresh(token=token))

    async def invite(
        self,
        to: str | Sequence[str],
        media: call_wire.CallMedia = call_wire.CallMedia(audio=True),  # noqa: B008 - immutable
        *,
        lifetime_s: float | None = None,
        data: Any = UNSET,
        room: str | None = None,
    ) -> Call:
        """Ring all devices of the identities; the first to accept is in the call."""
        invite = call_wire.CallInvite(
            to=to if isinstance(to, str) else list(to),
            media=media,
            lifetime_s=lifetime_s,
            data=_raw(data),
            room=room,
        )
        call = await self._calls.invite(invite)
        # Its answer may have come before its id: an `ok` that a connection took with it.
        call.look(self.roster)
        return call

    async def ping(self) -> float:
        """Round trip to the server in seconds."""
        return await self._line.ping()

    def _over(self, _: asyncio.Task[None]) -> None:
        """Nothing comes any more."""
        self._line.over()
        self._calls.lost()
        self._incoming.put_nowait(None)

    def _take(self, message: ServerMessage | SessionLost) -> None:
        """What the line hands over, in order."""
        self._apply(message)
        shown = self._shown_calls
        if shown is not None and self._line.session.has_caught_up:
            self._shown_calls = None
            for call in self._calls.reconcile(shown):
                self._calls.look(self.roster)
                self._deliver(call)

    def _apply(self, message: ServerMessage | SessionLost) -> None:
        if isinstance(message, call_wire.CallServerMessage):
            call = self._calls.take(message)
            self._calls.look(self.roster)
            if call is not None:
                self._deliver(call)
            return
        if isinstance(message, SessionLost):
            self._shown_calls, self._ice = None, None
            self._calls.lost()
            self.roster.clear()
        elif isinstance(message, wire.Resumed):
            self.roster.restore(message.rooms[0] if message.rooms else None)
            self._shown_calls = message.calls
            self._calls.look(self.roster)
        elif isinstance(message, wire.Welcome):
            self._enter_again()
        elif isinstance(message, wire.IceServers):
            self._ice = message
        elif not self._line.session.is_in_snapshot(message):
            self.roster.apply(message)
            self._calls.look(self.roster)
        self._deliver(message)

    def _deliver(self, event: ClientEvent) -> None:
        if self._incoming.qsize() >= self.settings.incoming_messages:
            raise SignalingError(
                ErrorCode.BUFFER_FULL,
                f"{self.settings.incoming_messages} messages wait for the application",
            )
        self._incoming.put_nowait(event)

    def _enter_again(self) -> None:
        """The first request of the new session, before any of the application's."""
        if self._room is not None:
            rejoin = self._line.post(wire.Join(room=self._room, data=_raw(self._data)))
            rejoin.add_done_callback(self._entered_again)

    def _entered_again(self, answer: asyncio.Future[wire.Ok]) -> None:
        no = None if answer.cancelled() else answer.exception()
        if isinstance(no, SignalingError) and not isinstance(no, ResumeRefusedError):
            error = wire.Error(code=no.code, message=no.message, retryable=no.retryable)
            self._incoming.put_nowait(error)


def _raw(data: Any) -> Any:
    return data if data is UNSET else Raw(_encode(data))
