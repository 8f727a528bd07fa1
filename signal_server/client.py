"""Signaling client for Python: one WebSocket to Parley, kept alive, with typed messages both ways.

Connects, says hello, joins again after a lost connection, keeps the room's roster true and
hands every other message to the application in order. It does not know WebRTC: descriptions and
candidates are the caller's (`signal_server.aiortc_peer` drives aiortc with it).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import msgspec
from msgspec import UNSET, Raw, Struct
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from signal_server.client_connect import ClientSettings, open_session
from signal_server.client_wire import (
    ServerMessage,
    SignalingError,
    Unknown,
    lost_connection,
    read,
    refused,
)
from signal_server.roster import Roster
from signal_server.wire import messages as wire
from signal_server.wire.candidate import CandidateInit
from signal_server.wire.codes import CloseCode, ErrorCode

Token = str | Callable[[], Awaitable[str]]
_Answer = TypeVar("_Answer", bound=Struct)

_encode = msgspec.json.Encoder().encode
_log = logging.getLogger("parley.client")


class SignalingClient:
    """`async with SignalingClient(url, token, room="blue") as client`, then iterate over it.

    Replies to requests, pongs and pushed state are consumed here; everything else is iterated,
    each message once and in order. A `Welcome` in the iteration says that a lost connection was
    replaced: the session, and with it every peer id, is new.
    """

    def __init__(
        self,
        url: str,
        token: Token,
        *,
        room: str | None = None,
        data: Any = UNSET,
        features: Sequence[str] = ("gated",),
        settings: ClientSettings | None = None,
    ) -> None:
        self.settings = settings or ClientSettings()
        self.roster = Roster()
        self.welcome: wire.Welcome
        self._url = url
        self._token = token
        self._room = room
        self._data = data
        self._features = list(features)
        self._socket: ClientConnection
        self._task: asyncio.Task[None] | None = None
        self._ended: SignalingError | None = None
        self._ids = itertools.count(1)
        self._waiting: dict[str, tuple[type[Struct], asyncio.Future[Struct]]] = {}
        self._pongs: dict[int, asyncio.Future[None]] = {}
        self._incoming: asyncio.Queue[ServerMessage | None] = asyncio.Queue()
        self._seq = 0
        self._retry_after_s = 0.0

    @property
    def peer(self) -> str:
        """Own peer id in the present session."""
        return self.welcome.peer

    async def __aenter__(self) -> Self:
        await self._open()
        self._task = asyncio.create_task(self._run(), name="parley-client")
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
            with contextlib.suppress(ConnectionClosed, TimeoutError):
                async with asyncio.timeout(self.settings.close_timeout_s):
                    await self._socket.send(_encode(wire.Bye()), text=True)
            task.cancel()
            await asyncio.wait([task])
            await self._socket.close()
        finally:
            task.cancel()
            self._socket.transport.abort()

    def __aiter__(self) -> AsyncIterator[ServerMessage]:
        return self

    async def __anext__(self) -> ServerMessage:
        """Next message; raises SignalingError when the connection ended for good."""
        message = await self._incoming.get()
        if message is not None:
            return message
        self._incoming.put_nowait(None)
        if self._ended:
            raise self._ended
        raise StopAsyncIteration

    async def join(self, room: str, data: Any = UNSET) -> Roster:
        """Enter the room, leaving the one before; returns with the roster filled."""
        await self._request(wire.Join(room=room, data=_raw(data)), wire.RoomSnapshot)
        self._room, self._data = room, data
        return self.roster

    async def leave(self) -> None:
        await self._request(wire.Leave(), wire.Ok)
        self._room = None
        self.roster.clear()

    async def offer(self, to: str, sdp: str, *, pc: str = wire.DEFAULT_PC) -> int:
        """Send an offer; returns the negotiation number the server gave it."""
        return (await self._request(wire.Offer(to=to, sdp=sdp, pc=pc), wire.Ok)).negotiation or 0

    async def answer(
        self, to: str, sdp: str, *, negotiation: int, pc: str = wire.DEFAULT_PC
    ) -> None:
        await self._request(wire.Answer(to=to, sdp=sdp, negotiation=negotiation, pc=pc), wire.Ok)

    async def pranswer(
        self, to: str, sdp: str, *, negotiation: int, pc: str = wire.DEFAULT_PC
    ) -> None:
        await self._request(wire.Pranswer(to=to, sdp=sdp, negotiation=negotiation, pc=pc), wire.Ok)

    async def rollback(self, to: str, *, negotiation: int, pc: str = wire.DEFAULT_PC) -> None:
        await self._request(wire.Rollback(to=to, negotiation=negotiation, pc=pc), wire.Ok)

    async def candidates(
        self,
        to: str,
        candidates: Sequence[CandidateInit | None],
        *,
        negotiation: int | None = None,
        pc: str = wire.DEFAULT_PC,
    ) -> None:
        """Send candidates; None is end-of-candidates."""
        await self._request(
            wire.Candidate(to=to, candidates=list(candidates), negotiation=negotiation, pc=pc),
            wire.Ok,
        )

    async def applied(self, to: str, *, negotiation: int, pc: str = wire.DEFAULT_PC) -> None:
        """Say that the remote description is set: held candidates may come."""
        await self._request(wire.Applied(to=to, negotiation=negotiation, pc=pc), wire.Ok)

    async def renegotiate(
        self,
        to: str,
        reason: Literal["needed", "ice_restart"] = "needed",
        *,
        pc: str = wire.DEFAULT_PC,
    ) -> None:
        await self._request(wire.Renegotiate(to=to, reason=reason, pc=pc), wire.Ok)

    async def state(
        self,
        to: str,
        state: wire.PeerConnectionState,
        candidate_type: wire.CandidateType | None = None,
        *,
        pc: str = wire.DEFAULT_PC,
    ) -> None:
        await self._request(
            wire.State(to=to, state=state, candidate_type=candidate_type, pc=pc), wire.Ok
        )

    async def send(self, to: str, data: Any) -> None:
        await self._request(wire.Message(to=to, data=Raw(_encode(data))), wire.Ok)

    async def broadcast(self, data: Any) -> None:
        """To everybody else in the room."""
        await self._request(wire.Message(data=Raw(_encode(data))), wire.Ok)

    async def update(self, data: Any) -> None:
        """Replace own presence data."""
        await self._request(wire.Update(data=Raw(_encode(data))), wire.Ok)
        self._data = data

    async def ice_servers(
        self, *, ttl: int | None = None, region: str | None = None
    ) -> wire.IceServers:
        return await self._request(wire.IceServersRequest(ttl=ttl, region=region), wire.IceServers)

    async def ping(self) -> float:
        """Round trip to the server in seconds."""
        loop = asyncio.get_running_loop()
        number, began = next(self._ids), loop.time()
        self._pongs[number] = loop.create_future()
        try:
            async with asyncio.timeout(self.settings.pong_timeout_s):
                await self._socket.send(_encode(wire.Ping(t=number)), text=True)
                await self._pongs[number]
        except TimeoutError as late:
            raise SignalingError(ErrorCode.UNAVAILABLE, "no answer to ping", True) from late
        except ConnectionClosed as lost:
            raise lost_connection(lost) from lost
        finally:
            del self._pongs[number]
        return loop.time() - began

    async def _request(
        self,
        request: wire.Request,
        answered_by: type[_Answer],
    ) -> _Answer:
        if self._ended:
            raise self._ended
        request.id = str(next(self._ids))
        answer: asyncio.Future[Struct] = asyncio.get_running_loop().create_future()
        self._waiting[request.id] = (answered_by, answer)
        try:
            async with asyncio.timeout(self.settings.request_timeout_s):
                await self._socket.send(_encode(request), text=True)
                return await answer  # type: ignore[return-value]
        except TimeoutError as late:
            kind = request.__struct_config__.tag
            raise SignalingError(ErrorCode.UNAVAILABLE, f"no answer to {kind}", True) from late
        except ConnectionClosed as lost:
            raise lost_connection(lost) from lost
        finally:
            del self._waiting[request.id]

    async def _open(self) -> None:
        token = self._token if isinstance(self._token, str) else await self._token()
        hello = wire.Hello(token=token, features=self._features)
        self._socket, self.welcome = await open_session(self._url, hello, self.settings)
        self._seq = 0

    async def _run(self) -> None:
        """Serve connection after connection until one ends for good."""
        try:
            while True:
                lost = await self._serve()
                self._abandon(lost)
                if not lost.retryable:
                    raise lost
                _log.info("connection lost, code %s", lost.code)
                await self._reconnect()
        except SignalingError as final:
            self._ended = final
            await self._socket.close()

    def _over(self, _: asyncio.Task[None]) -> None:
        """Nothing comes any more: tell who waits."""
        closed = SignalingError(ErrorCode.UNAVAILABLE, "the client is closed")
        self._abandon(self._ended or closed)
        self._incoming.put_nowait(None)

    async def _serve(self) -> SignalingError:
        """Take messages in until the connection is lost; returns why."""
        alive = asyncio.create_task(self._keep_alive(self._socket), name="parley-client-ping")
        try:
            while True:
                self._received(await self._socket.recv())
        except ConnectionClosed as lost:
            return lost_connection(lost)
        except SignalingError as failure:
            await self._socket.close(CloseCode.PROTOCOL)
            return failure
        finally:
            alive.cancel()
            await asyncio.gather(alive, return_exceptions=True)

    async def _keep_alive(self, socket: ClientConnection) -> None:
        """Find out that the other end is gone although TCP has not noticed."""
        try:
            while True:
                await asyncio.sleep(self.welcome.ping_interval_s)
                await self.ping()
        except SignalingError:
            socket.transport.abort()

    async def _reconnect(self) -> None:
        """Open a new session after a random wait (full jitter) and enter the room again."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self.settings.reconnect_for_s
        for attempt in itertools.count():
            await asyncio.sleep(self._retry_after_s + self.settings.backoff_s(attempt))
            self._retry_after_s = 0.0
            try:
                await self._open()
                break
            except SignalingError as no:
                if not no.retryable or loop.time() > give_up_at:
                    raise
                self._retry_after_s = no.retry_after_s or 0.0
        self.roster.clear()
        self._deliver(self.welcome)
        if self._room is not None:
            rejoin = wire.Join(room=self._room, data=_raw(self._data))
            with contextlib.suppress(ConnectionClosed):
                await self._socket.send(_encode(rejoin), text=True)

    def _received(self, frame: str | bytes) -> None:
        message = read(frame)
        self._numbered(getattr(message, "seq", 0))
        if isinstance(message, wire.Pong):
            waiting = self._pongs.get(message.t) if isinstance(message.t, int) else None
            if waiting and not waiting.done():
                waiting.set_result(None)
        elif isinstance(message, wire.Ok) or (isinstance(message, wire.Error) and message.id):
            self._settle(message)
        elif not isinstance(message, Unknown):
            if isinstance(message, wire.GoAway):
                self._retry_after_s = message.reconnect_after_ms / 1000
            self.roster.apply(message)
            for kind, answer in self._waiting.values():
                if isinstance(message, kind) and not answer.done():
                    answer.set_result(message)
            self._deliver(message)

    def _numbered(self, seq: int) -> None:
        if seq == 0:
            return
        if seq != self._seq + 1:
            raise SignalingError(ErrorCode.RESUME_GAP, "a message of the server is missing", True)
        self._seq = seq

    def _settle(self, reply: wire.Ok | wire.Error) -> None:
        kind, answer = self._waiting.get(str(reply.id), (None, None))
        if answer is None or answer.done():
            return
        if isinstance(reply, wire.Error):
            answer.set_exception(refused(reply))
        elif kind is wire.Ok:
            answer.set_result(reply)

    def _deliver(self, message: ServerMessage) -> None:
        if self._incoming.qsize() >= self.settings.incoming_messages:
            raise SignalingError(
                ErrorCode.BUFFER_FULL,
                f"{self.settings.incoming_messages} messages wait for the application",
            )
        self._incoming.put_nowait(message)

    def _abandon(self, reason: SignalingError) -> None:
        for _, answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(reason)


def _raw(data: Any) -> Any:
    return data if data is UNSET else Raw(_encode(data))
