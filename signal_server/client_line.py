"""The line to the server: one session over as many connections as it takes.

Keeps the connection alive, resumes the session when it is lost, sends unanswered requests again and
acknowledges what arrives. What the messages mean for rooms and calls it does not know: it hands
them over in order, each once.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass

import msgspec
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from signal_server.client_addresses import Addresses
from signal_server.client_connect import ClientSettings, open_session
from signal_server.client_session import Arrival, ClientSession, SessionLost
from signal_server.client_wire import (
    NoAnswerError,
    RateLimitedError,
    ServerMessage,
    SignalingError,
    Unknown,
    error_of,
    lost_connection,
    read,
    refused,
)
from signal_server.wire import call_messages as call_wire
from signal_server.wire import messages as wire
from signal_server.wire.base import Request
from signal_server.wire.codes import CloseCode, ErrorCode

Token = str | Callable[[], Awaitable[str]]

_GO_AWAY_JITTER = 0.25
"""How much later than asked a client reconnects at most, in parts of the wait."""
_MAY_BE_REPEATED = (
    *(wire.Join, wire.Leave, wire.Update, wire.State, wire.Applied),
    *(wire.IceServersRequest, wire.Refresh, call_wire.CallRinging, call_wire.CallAccept),
    *(call_wire.CallReject, call_wire.CallCancel, call_wire.CallHangup),
)
"""Requests that do no harm when they are executed later than others."""
_encode = msgspec.json.Encoder().encode
_log = logging.getLogger("parley.client")


@dataclass(slots=True, eq=False)
class _Asked:
    """A request that waits for its answer."""

    session: ClientSession
    request: Request
    answer: asyncio.Future[wire.Ok]
    connection: int = 0
    """On which it was sent last."""
    timer: asyncio.TimerHandle | None = None


class Line:
    """`take` gets what is for the application, and raises when that has no room for it."""

    def __init__(
        self,
        addresses: Addresses,
        token: Token,
        features: Sequence[str],
        settings: ClientSettings,
        take: Callable[[ServerMessage | SessionLost], None],
    ) -> None:
        self.socket: ClientConnection
        self.welcome: wire.Welcome
        self.session: ClientSession
        self.ended: SignalingError | None = None
        """Why the server, or the network, wants no connection any more."""
        self._is_closed = False
        self._addresses = addresses
        self._token = token
        self._features = list(features)
        self._settings = settings
        self._take = take
        self._asked: dict[str, _Asked] = {}
        self._slots = asyncio.Semaphore(settings.requests_in_flight)
        self._pongs: dict[int, asyncio.Future[None]] = {}
        self._pings = itertools.count(1)
        self._connections = 0
        self._is_up = False
        """The connection has caught up: requests may go out as they come."""
        self._acks_wanted = asyncio.Event()
        self._chores: set[asyncio.Task[None]] = set()
        """Tasks of the present connection."""
        self._not_before = 0.0

    # Asking ----------------------------------------------------------------------------------

    async def request(self, request: Request) -> wire.Ok:
        """Ask until answered, over lost connections; raises SignalingError."""
        async with self._slots:
            for tries_left in range(self._settings.rate_limit_tries - 1, -1, -1):
                try:
                    return await self._ask(request)
                except RateLimitedError as no:
                    wait = no.retry_after_s
                    patient = wait is not None and wait <= self._settings.rate_limit_wait_s
                    if not (tries_left and patient and isinstance(request, _MAY_BE_REPEATED)):
                        raise
                    await asyncio.sleep(wait or 0.0)
        raise AssertionError("unreachable")

    def post(self, request: Request) -> asyncio.Future[wire.Ok]:
        """Ask with the next connection or, when it is lost, a later one."""
        if self.ended or self._is_closed:
            raise self._final()
        number = self.session.ask(request)
        answer: asyncio.Future[wire.Ok] = asyncio.get_running_loop().create_future()
        self._asked[number] = asked = _Asked(self.session, request, answer)
        answer.add_done_callback(lambda _: self._forget(asked))
        return answer

    async def ping(self) -> float:
        """Round trip to the server in seconds."""
        loop = asyncio.get_running_loop()
        number, began = next(self._pings), loop.time()
        self._pongs[number] = loop.create_future()
        try:
            async with asyncio.timeout(self._settings.pong_timeout_s):
                await self._send(self.socket, wire.Ping(t=number))
                await self._pongs[number]
        except TimeoutError as late:
            raise NoAnswerError(ErrorCode.UNAVAILABLE, "no answer to ping", True) from late
        except ConnectionClosed as lost:
            raise lost_connection(lost) from lost
        finally:
            del self._pongs[number]
        return loop.time() - began

    async def _ask(self, request: Request) -> wire.Ok:
        answer = self.post(request)
        if self._is_up:
            with contextlib.suppress(ConnectionClosed, TimeoutError):
                async with asyncio.timeout(self._settings.request_timeout_s):
                    await self._send_asked(self.socket, self._asked[str(request.id)])
        try:
            return await answer
        finally:
            answer.cancel()

    async def _send_asked(self, socket: ClientConnection, asked: _Asked) -> None:
        asked.connection = self._connections
        wait = self._settings.request_timeout_s
        asked.timer = asyncio.get_running_loop().call_later(wait, _expire, asked)
        await self._send(socket, asked.request)

    async def _send(self, socket: ClientConnection, message: Request) -> None:
        message.ack = self.session.ack()
        await socket.send(_encode(message), text=True)

    def _forget(self, asked: _Asked) -> None:
        number = str(asked.request.id)
        if asked.timer is not None:
            asked.timer.cancel()
        asked.session.answered(number)
        if self._asked.get(number) is asked:
            del self._asked[number]

    def _abandon(self, reason: SignalingError) -> None:
        """What was asked will not be answered."""
        unanswered, self._asked = self._asked, {}
        for asked in unanswered.values():
            _fail(asked, reason)

    # Connections -----------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect and begin a session, or take up the present one, at the first address that does
        it."""
        while True:
            url = await self._addresses.nearest()
            try:
                return await self._open(url)
            except SignalingError as no:
                if not no.retryable or not self._addresses.failed():
                    raise

    async def _open(self, url: str) -> None:
        former = self.session if self._connections else None
        resume = former.resume() if former is not None else None
        hello = wire.Hello(token=await self._fresh_token(), features=self._features, resume=resume)
        opened = await open_session(url, hello, self._settings)
        self.socket = opened.socket
        self._connections += 1
        greeting = opened.greeting
        if former is None and isinstance(greeting, wire.Welcome):
            self.welcome, self.session = greeting, ClientSession(greeting)
        elif former is not None and isinstance(greeting, wire.Resumed):
            former.resumed(greeting)
            self._take(greeting)
        elif former is not None and isinstance(greeting, wire.Welcome):
            reason = opened.refused.code if opened.refused else ErrorCode.RESUME_EXPIRED.value
            self._abandon(error_of(reason, "the session could not be resumed", True))
            self.welcome, self.session = greeting, ClientSession(greeting)
            self._take(former.lost(reason))
            self._take(greeting)

    async def run(self) -> None:
        """Serve connection after connection until one ends for good."""
        try:
            while True:
                lost = await self._serve()
                if not lost.retryable:
                    raise lost
                _log.info("connection lost, code %s", lost.code)
                self._addresses.lost()
                await self._reconnect()
        except SignalingError as final:
            self.ended = final
            await self.socket.close()

    def over(self) -> None:
        """Nothing comes any more: tell who waits."""
        self._is_closed = True
        self._abandon(self._final())

    def _final(self) -> SignalingError:
        return self.ended or SignalingError(ErrorCode.UNAVAILABLE, "the client is closed")

    async def say_bye(self) -> None:
        with contextlib.suppress(ConnectionClosed, TimeoutError):
            async with asyncio.timeout(self._settings.close_timeout_s):
                await self._send(self.socket, wire.Bye())

    async def _serve(self) -> SignalingError:
        """Take messages in until the connection is lost; returns why."""
        socket = self.socket
        for chore in (self._catch_up, self._keep_alive, self._acknowledge):
            self._start(chore(socket))
        try:
            while True:
                self._received(socket, await socket.recv())
        except ConnectionClosed as lost:
            return lost_connection(lost)
        except SignalingError as failure:
            if failure.retryable:
                socket.transport.abort()
            else:
                await socket.close(CloseCode.NORMAL)
            return failure
        finally:
            self._pause()
            chores = list(self._chores)
            for task in chores:
                task.cancel()
            await asyncio.gather(*chores, return_exceptions=True)

    async def _reconnect(self) -> None:
        """Resume after a random wait (full jitter), for as long as the settings allow."""
        loop = asyncio.get_running_loop()
        give_up_at = max(loop.time(), self._not_before) + self._settings.reconnect_for_s
        for attempt in itertools.count():
            at_least = max(0.0, self._not_before - loop.time())
            await asyncio.sleep(at_least + self._settings.backoff_s(attempt))
            try:
                await self.open()
                break
            except SignalingError as no:
                if not no.retryable or loop.time() > give_up_at:
                    raise
                self._not_before = loop.time() + (no.retry_after_s or 0.0)
        self._not_before = 0.0

    def _pause(self) -> None:
        """No request runs out of time while there is no connection."""
        self._is_up = False
        for asked in self._asked.values():
            if asked.timer is not None:
                asked.timer.cancel()

    async def _fresh_token(self) -> str:
        if isinstance(self._token, str):
            return self._token
        try:
            return await self._token()
        except SignalingError:
            raise
        except Exception as failure:
            reason = f"no access token: {type(failure).__name__}"
            raise SignalingError(ErrorCode.UNAVAILABLE, reason, True) from failure

    # Chores of a connection ------------------------------------------------------------------

    def _start(self, chore: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(chore, name="parley-client-chore")
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

    async def _catch_up(self, socket: ClientConnection) -> None:
        """Send what has no answer yet, in the order in which it was asked."""
        with contextlib.suppress(ConnectionClosed):
            while unsent := [
                asked for asked in self._asked.values() if asked.connection != self._connections
            ]:
                for asked in unsent:
                    asked.connection = self._connections
                    if not asked.answer.done():
                        await self._send_asked(socket, asked)
            self._is_up = True

    async def _keep_alive(self, socket: ClientConnection) -> None:
        """Find out that the other end is gone although TCP has not noticed."""
        try:
            while True:
                await asyncio.sleep(self.welcome.ping_interval_s)
                await self.ping()
        except SignalingError:
            socket.transport.abort()

    async def _acknowledge(self, socket: ClientConnection) -> None:
        """For when nothing goes out that an acknowledgement could ride on."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._settings.ack_after_s):
                        await self._acks_wanted.wait()
                self._acks_wanted.clear()
                seq = self.session.ack()
                if seq is not None:
                    await socket.send(_encode(wire.Ack(seq=seq)), text=True)

    async def _go_elsewhere(self, socket: ClientConnection, order: wire.GoAway) -> None:
        """Reconnect when told to, before the deadline and not at the same time as everybody."""
        soonest = order.reconnect_after_ms / 1000
        spread = random.uniform(0, soonest * _GO_AWAY_JITTER)  # noqa: S311
        wait = min(soonest + spread, max(soonest, order.deadline_ms / 1000))
        self._not_before = asyncio.get_running_loop().time() + wait
        await asyncio.sleep(wait)
        self._addresses.sent_away(order.url)
        await socket.close(CloseCode.GO_AWAY)

    async def _refresh(self) -> None:
        """The connection ends with the token unless there is a fresh one."""
        try:
            await self.request(wire.Refresh(token=await self._fresh_token()))
        except SignalingError as no:
            _log.warning("no fresh token, code %s", no.code)

    # Messages --------------------------------------------------------------------------------

    def _received(self, socket: ClientConnection, frame: str | bytes) -> None:
        message = read(frame)
        arrival = self.session.arrived(message)
        if arrival is Arrival.AFTER_GAP:
            raise error_of(ErrorCode.RESUME_GAP, "a message of the server is missing", True)
        if arrival is Arrival.REPEATED or isinstance(message, Unknown):
            return
        if self.session.unacked >= self._settings.ack_after_messages:
            self._acks_wanted.set()
        if isinstance(message, wire.Pong):
            waiting = self._pongs.get(message.t) if isinstance(message.t, int) else None
            if waiting and not waiting.done():
                waiting.set_result(None)
        elif isinstance(message, wire.NewSecret):
            self.session.rekeyed(message)
        elif isinstance(message, wire.Ok) or (isinstance(message, wire.Error) and message.id):
            self._settle(message)
        else:
            if isinstance(message, wire.GoAway):
                self._start(self._go_elsewhere(socket, message))
            elif isinstance(message, wire.TokenExpiring) and not isinstance(self._token, str):
                self._start(self._refresh())
            self._take(message)

    def _settle(self, reply: wire.Ok | wire.Error) -> None:
        asked = self._asked.get(str(reply.id))
        if asked is None or asked.answer.done():
            if isinstance(reply, wire.Error) and reply.code == ErrorCode.GLARE:
                # An offer that was answered ok has lost against the other side's.
                self._take(reply)
            return
        if isinstance(reply, wire.Error):
            _fail(asked, refused(reply))
        else:
            asked.answer.set_result(reply)


def _fail(asked: _Asked, reason: SignalingError) -> None:
    if not asked.answer.done():
        asked.answer.set_exception(reason)


def _expire(asked: _Asked) -> None:
    kind = asked.request.__struct_config__.tag
    _fail(asked, NoAnswerError(ErrorCode.UNAVAILABLE, f"no answer to {kind}", True))
