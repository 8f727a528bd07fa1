"""Feeds the switchboard and executes its effects, synchronously.

The endpoint of `/v1/signal`: decodes frames, lets a connection in on a valid hello, and is the only
caller of `Switchboard`. It does not know HTTP, JWT or TURN: who may enter and which ICE servers
there are, it asks two callables.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from typing import Protocol

from signal_server.core import inputs
from signal_server.core.effects import Close, Effect, GrantIce, Send
from signal_server.core.inputs import IceGrant, Permit
from signal_server.core.switchboard import Switchboard
from signal_server.edge.socket import Socket
from signal_server.wire import messages as m
from signal_server.wire.codec import Refusal, decode, encode
from signal_server.wire.codes import CloseCode, ErrorCode

log = logging.getLogger("parley.signal")

MALFORMED_LIMIT = 100
"""Undecodable messages of one connection before it is closed."""
_ID_BYTES = 12
_SECRET_BYTES = 24
_CLOSE_FOR = {
    ErrorCode.UNAUTHENTICATED: CloseCode.UNAUTHENTICATED,
    ErrorCode.TOKEN_EXPIRED: CloseCode.TOKEN_EXPIRED,
    ErrorCode.DRAINING: CloseCode.GO_AWAY,
}


class Authenticate(Protocol):
    def __call__(self, token: str) -> Permit | Refusal: ...


class GrantServers(Protocol):
    def __call__(
        self, account: str, identity: str, ttl: int | None, region: str | None
    ) -> IceGrant | None: ...


class Dispatcher:
    """One per node; a `SocketEndpoint`."""

    def __init__(
        self,
        switchboard: Switchboard,
        authenticate: Authenticate,
        grant: GrantServers,
        monotonic: Callable[[], float],
    ) -> None:
        self.switchboard = switchboard
        self.is_draining = False
        self.internal_errors = 0
        self._limits = switchboard.limits
        self._authenticate = authenticate
        self._grant = grant
        self._monotonic = monotonic
        self._sockets: dict[int, Socket] = {}
        self._waiting: dict[int, asyncio.TimerHandle] = {}
        """Connections that have not said hello, with their deadline."""
        self._malformed: dict[int, int] = {}
        self._timer: asyncio.TimerHandle | None = None

    # SocketEndpoint -------------------------------------------------------------------------

    def opened(self, socket: Socket) -> None:
        self._sockets[socket.id] = socket
        loop = asyncio.get_running_loop()
        timeout = loop.call_later(self._limits.hello_timeout_s, self._no_hello, socket)
        self._waiting[socket.id] = timeout

    def received(self, socket: Socket, text: str) -> None:
        message = decode(text, self._limits.json_depth)
        if isinstance(message, Refusal):
            self._refuse_malformed(socket, message)
            return
        self.switchboard.tally.received[_tag(message)] += 1
        if socket.id not in self._waiting:
            self._feed(inputs.Received(socket.id, message))
        elif isinstance(message, m.Hello):
            self._hello(socket, message)
        else:
            refusal = Refusal(ErrorCode.UNAUTHENTICATED, "say hello first", message.id)
            self._turn_away(socket, refusal)

    def closed(self, socket: Socket, code: int) -> None:
        self._sockets.pop(socket.id, None)
        self._malformed.pop(socket.id, None)
        waiting = self._waiting.pop(socket.id, None)
        if waiting is not None:
            waiting.cancel()
            return
        clean = code in (CloseCode.NORMAL, CloseCode.GOING_AWAY)
        self._feed(inputs.Closed(socket.id, "left" if clean else "connection_lost"))

    # Going away -----------------------------------------------------------------------------

    def drain(self, reason: str, grace_s: float) -> None:
        """Refuse new sessions and ask the present ones to go elsewhere."""
        self.is_draining = True
        grace_ms = int(grace_s * 1000)
        self._feed(
            inputs.Draining(reason=reason, reconnect_after_ms=grace_ms // 2, deadline_ms=grace_ms)
        )

    def stop(self) -> None:
        """No timer may fire after this."""
        if self._timer is not None:
            self._timer.cancel()
        for waiting in self._waiting.values():
            waiting.cancel()

    # Letting in -----------------------------------------------------------------------------

    def _hello(self, socket: Socket, hello: m.Hello) -> None:
        permit = self._admit(socket, hello)
        if isinstance(permit, Refusal):
            if permit.code is ErrorCode.RESUME_EXPIRED:
                self._send_error(socket, permit)
            else:
                self._turn_away(socket, permit)
            return
        self._waiting.pop(socket.id).cancel()
        socket.token = None
        ice = None
        if permit.may_turn:
            ice = self._grant(permit.account, permit.identity, None, None)
        opened = inputs.Opened(
            connection=socket.id,
            permit=permit,
            session=f"s_{secrets.token_urlsafe(_ID_BYTES)}",
            peer=f"p_{secrets.token_urlsafe(_ID_BYTES)}",
            resume_secret=secrets.token_urlsafe(_SECRET_BYTES),
            hello=hello,
            ice=ice,
        )
        self._feed(opened)

    def _admit(self, socket: Socket, hello: m.Hello) -> Permit | Refusal:
        if self.is_draining:
            return Refusal(ErrorCode.DRAINING, "this node is going away", hello.id)
        token = hello.token or socket.token
        if not token:
            return Refusal(ErrorCode.UNAUTHENTICATED, "hello needs a token", hello.id)
        permit = self._authenticate(token)
        if isinstance(permit, Refusal):
            return Refusal(permit.code, permit.message, hello.id)
        if hello.resume is not None:
            message = "that session is over; say hello without resume"
            return Refusal(ErrorCode.RESUME_EXPIRED, message, hello.id)
        return permit

    def _no_hello(self, socket: Socket) -> None:
        self._turn_away(socket, Refusal(ErrorCode.UNAUTHENTICATED, "no hello in time"))

    def _turn_away(self, socket: Socket, refusal: Refusal) -> None:
        self._send_error(socket, refusal)
        socket.close(_CLOSE_FOR.get(refusal.code, CloseCode.PROTOCOL_ERROR), refusal.code.value)

    def _refuse_malformed(self, socket: Socket, refusal: Refusal) -> None:
        self._send_error(socket, refusal)
        count = self._malformed[socket.id] = self._malformed.get(socket.id, 0) + 1
        if count >= MALFORMED_LIMIT:
            socket.close(CloseCode.PROTOCOL_ERROR, "too many malformed messages")

    def _send_error(self, socket: Socket, refusal: Refusal) -> None:
        self.switchboard.tally.refused[refusal.code.value] += 1
        error = m.Error(
            code=refusal.code.value,
            message=refusal.message,
            retryable=refusal.code.retryable,
            id=refusal.id,
        )
        socket.send(encode(error))

    # Inputs and effects ---------------------------------------------------------------------

    def _feed(self, event: inputs.Input) -> None:
        now = self._monotonic()
        self._execute(self.switchboard.handle(event, now))
        self._arm(now)

    def _execute(self, effects: list[Effect]) -> None:
        sockets = self._sockets
        for effect in effects:
            socket = sockets.get(effect.connection)
            if socket is None:
                continue
            match effect:
                case Send():
                    socket.send(effect.payload)
                case Close():
                    socket.close(effect.code, effect.reason)
                case GrantIce():
                    self._grant_ice(effect)

    def _grant_ice(self, effect: GrantIce) -> None:
        grant = self._grant(effect.account, effect.identity, effect.ttl, effect.region)
        granted = inputs.IceGranted(
            connection=effect.connection, request=effect.request, grant=grant
        )
        self._feed(granted)

    def _arm(self, now: float) -> None:
        deadline = self.switchboard.next_deadline()
        timer = self._timer
        if deadline is None:
            return
        loop = asyncio.get_running_loop()
        at = loop.time() + max(0.0, deadline - now)
        if timer is not None:
            if timer.when() <= at + 0.001:
                return
            timer.cancel()
        self._timer = loop.call_at(at, self._due)

    def _due(self) -> None:
        self._timer = None
        now = self._monotonic()
        try:
            self._execute(self.switchboard.handle_timeout(now))
        except Exception:
            self.internal_errors += 1
            log.exception("a deadline failed")
        self._arm(now)


def _tag(message: m.ClientMessage) -> str:
    tag = type(message).__struct_config__.tag
    return tag if isinstance(tag, str) else ""
