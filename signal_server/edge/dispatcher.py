"""Feeds the switchboard and executes its effects, synchronously.

The endpoint of `/v1/signal`: decodes frames, lets a connection in on a valid hello, and is the only
caller of `Switchboard`. It does not know HTTP, JWT or TURN: who may enter and which ICE servers
there are, it asks two callables.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
from collections.abc import Callable
from typing import NamedTuple, Protocol

from msgspec import Raw

from signal_server.core import inputs
from signal_server.core.effects import Announce, Close, Effect, GrantIce, Send
from signal_server.core.inputs import IceGrant, Permit
from signal_server.core.out import TAGS
from signal_server.core.rate_limit import RateKeys
from signal_server.core.switchboard import Switchboard
from signal_server.wire import messages as m
from signal_server.wire.call_messages import CallInvite
from signal_server.wire.codec import Refusal, decode, encode
from signal_server.wire.codes import CloseCode, ErrorCode
from turn_broker.addresses import address_key
from turn_broker.guesses import Guesses

log = logging.getLogger("parley.signal")

MALFORMED_LIMIT = 100
"""Undecodable messages of one connection before it is closed."""
_ID_BYTES = 12
_ID_CHARS = 16
"""Of base64, without padding."""
_SECRET_BYTES = 24
_CLOSE_FOR = {
    ErrorCode.UNAUTHENTICATED: CloseCode.UNAUTHENTICATED,
    ErrorCode.TOKEN_EXPIRED: CloseCode.TOKEN_EXPIRED,
    ErrorCode.DRAINING: CloseCode.GO_AWAY,
    ErrorCode.RATE_LIMITED: CloseCode.RATE_LIMITED,
    ErrorCode.UNSUPPORTED_VERSION: CloseCode.UNSUPPORTED_VERSION,
}
SPREAD = 0.8
"""Part of the grace time over which a draining node's clients are asked to reconnect."""


class Connection(Protocol):
    """A client's way in, over whatever transport; WebSocket ids are positive, HTTP's negative."""

    id: int
    token: str | None
    remote: str
    subprotocol: str | None
    """What it speaks; None where that goes without saying."""

    def send(self, payload: bytes, seq: int = 0) -> None:
        """One message; `seq` is its number in the session's log, 0 for one outside it."""

    def close(self, code: int, reason: str) -> None:
        """Send what is queued, then close."""


class Clocks(NamedTuple):
    """The two clocks, in seconds."""

    monotonic: Callable[[], float]
    unix: Callable[[], float]


class Bearer(NamedTuple):
    """A verified access token."""

    permit: Permit
    life_s: float
    """Until it expires."""


class Authenticate(Protocol):
    def __call__(self, token: str) -> Bearer | Refusal: ...


class GrantServers(Protocol):
    def __call__(
        self, account: str, identity: str, ttl: int | None, region: str | None
    ) -> IceGrant | None: ...


class Dispatcher:
    """One per node; a `SocketEndpoint`, and the HTTP fallback's way in."""

    def __init__(
        self,
        switchboard: Switchboard,
        authenticate: Authenticate,
        grant: GrantServers,
        clocks: Clocks,
        announce: Callable[[Announce], None],
        guesses: Guesses,
    ) -> None:
        self.switchboard = switchboard
        self.is_draining = False
        self.internal_errors = 0
        self._limits = switchboard.limits
        self._authenticate = authenticate
        self._grant = grant
        self._clocks = clocks
        self._announce = announce
        self._guesses = guesses
        self._connections: dict[int, Connection] = {}
        self._waiting: dict[int, asyncio.TimerHandle] = {}
        """Connections that have not said hello, with their deadline."""
        self._malformed: dict[int, int] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._wakes_at = math.inf
        """What `_timer` waits for, on the monotonic clock."""

    # SocketEndpoint -------------------------------------------------------------------------

    def opened(self, connection: Connection) -> None:
        self._connections[connection.id] = connection
        loop = asyncio.get_running_loop()
        timeout = loop.call_later(self._limits.hello_timeout_s, self._no_hello, connection)
        self._waiting[connection.id] = timeout
        if connection.subprotocol not in (None, m.PROTOCOL):
            why = f"this server speaks {m.PROTOCOL}"
            self._turn_away(connection, Refusal(ErrorCode.UNSUPPORTED_VERSION, why))

    def received(self, connection: Connection, text: str) -> None:
        message = decode(text, self._limits.json_depth)
        if isinstance(message, Refusal):
            self._refuse_malformed(connection, message)
            return
        kind = type(message)
        self.switchboard.tally.received[TAGS[kind]] += 1
        if connection.id not in self._waiting:
            if isinstance(message, m.Refresh):
                self._refresh(connection, message)
                return
            fresh = secrets.token_urlsafe(_ID_BYTES) if kind is CallInvite else ""
            self._feed(inputs.Received(connection.id, message, fresh))
        elif isinstance(message, m.Hello):
            self._hello(connection, message)
        else:
            refusal = Refusal(ErrorCode.UNAUTHENTICATED, "say hello first", message.id)
            self._turn_away(connection, refusal)

    def closed(self, connection: Connection, code: int) -> None:
        self._connections.pop(connection.id, None)
        self._malformed.pop(connection.id, None)
        waiting = self._waiting.pop(connection.id, None)
        if waiting is not None:
            waiting.cancel()
            return
        # A browser closes with 1001 when its page goes, also when the page is only reloaded.
        reason = "left" if code == CloseCode.NORMAL else "connection_lost"
        self._feed(inputs.Closed(connection.id, reason))

    def unread(self, connection: int, after: int) -> list[bytes] | None:
        """The numbered messages behind `after`; None for a gap."""
        return self.switchboard.unread(connection, after)

    def remove(self, account: str, room: str, peer: str | None, ban_s: float) -> None:
        """An operator takes a peer out, or closes the room."""
        self._feed(inputs.Removed(account=account, room=room, peer=peer, ban_s=ban_s))

    def say(self, account: str, room: str, data: Raw) -> None:
        """A message from the operator to everybody in the room."""
        self._feed(inputs.Said(account=account, room=room, data=data))

    # Going away -----------------------------------------------------------------------------

    def drain(self, reason: str, grace_s: float) -> None:
        """Refuse new sessions and ask the present ones to go elsewhere, one after another."""
        self.is_draining = True
        grace_ms = int(grace_s * 1000)
        self._feed(
            inputs.Draining(reason=reason, spread_ms=int(grace_ms * SPREAD), deadline_ms=grace_ms)
        )

    def stop(self) -> None:
        """No timer may fire after this."""
        if self._timer is not None:
            self._timer.cancel()
        for waiting in self._waiting.values():
            waiting.cancel()

    # Letting in -----------------------------------------------------------------------------

    def _hello(self, connection: Connection, hello: m.Hello) -> None:
        bearer = self._admit(connection, hello)
        if isinstance(bearer, Refusal):
            self._turn_away_later(connection, bearer)
            return
        address = address_key(connection.remote)
        wait = self.switchboard.rates.admit(
            "hello", 1, RateKeys(address=address), self._clocks.monotonic()
        )
        if wait is not None:
            retry = max(1, int(wait * 1000))
            slow = Refusal(ErrorCode.RATE_LIMITED, "too many connections", hello.id, retry)
            self._turn_away(connection, slow)
            return
        # Asking the kernel once is cheaper than three times; every part is whole characters.
        drawn = secrets.token_urlsafe(_SECRET_BYTES + 2 * _ID_BYTES)
        admission = inputs.Admission(
            permit=bearer.permit,
            token_life_s=bearer.life_s,
            resume_secret=drawn[2 * _ID_CHARS :],
            address=address,
        )
        if hello.resume is not None:
            resumed = inputs.Resumed(
                connection=connection.id,
                admission=admission,
                resume=hello.resume,
                request=hello.id,
            )
            self._feed(resumed)
        else:
            self._feed(self._opened(connection, hello, admission, drawn[: 2 * _ID_CHARS]))
        if connection.id in self.switchboard.sessions.by_connection:
            connection.token = None
            waiting = self._waiting.pop(connection.id, None)
            if waiting is not None:
                waiting.cancel()

    def _opened(
        self, connection: Connection, hello: m.Hello, admission: inputs.Admission, names: str
    ) -> inputs.Opened:
        permit, ice = admission.permit, None
        if permit.may_turn:
            ice = self._grant(permit.account, permit.identity, None, None)
        return inputs.Opened(
            connection=connection.id,
            admission=admission,
            session=f"s_{names[:_ID_CHARS]}",
            peer=f"p_{names[_ID_CHARS:]}",
            hello=hello,
            ice=ice,
        )

    def _admit(self, connection: Connection, hello: m.Hello) -> Bearer | Refusal:
        if self.is_draining:
            return Refusal(ErrorCode.DRAINING, "this node is going away", hello.id)
        token = hello.token or connection.token
        if not token:
            return Refusal(ErrorCode.UNAUTHENTICATED, "hello needs a token", hello.id)
        shut_out = self._guesses.refused(address_key(connection.remote), self._clocks.monotonic())
        if shut_out is not None:
            retry = int(shut_out * 1000)
            return Refusal(ErrorCode.RATE_LIMITED, "too many wrong tokens", hello.id, retry)
        bearer = self._authenticate(token)
        if isinstance(bearer, Refusal):
            return Refusal(bearer.code, bearer.message, hello.id)
        return bearer

    def _refresh(self, connection: Connection, message: m.Refresh) -> None:
        bearer = self._authenticate(message.token)
        if isinstance(bearer, Refusal):
            self._send_error(connection, Refusal(bearer.code, bearer.message, message.id))
            return
        refreshed = inputs.Refreshed(
            connection=connection.id,
            permit=bearer.permit,
            token_life_s=bearer.life_s,
            request=message.id,
        )
        self._feed(refreshed)

    def _turn_away_later(self, connection: Connection, refusal: Refusal) -> None:
        """A wrong token is answered the later, the more of them came from that address."""
        if refusal.code is not ErrorCode.UNAUTHENTICATED:
            self._turn_away(connection, refusal)
            return
        delay = self._guesses.failed(address_key(connection.remote), self._clocks.monotonic())
        loop = asyncio.get_running_loop()
        self._waiting[connection.id].cancel()
        self._waiting[connection.id] = loop.call_later(delay, self._turn_away, connection, refusal)

    def _no_hello(self, connection: Connection) -> None:
        self._turn_away(connection, Refusal(ErrorCode.UNAUTHENTICATED, "no hello in time"))

    def _turn_away(self, connection: Connection, refusal: Refusal) -> None:
        self._send_error(connection, refusal)
        connection.close(_CLOSE_FOR.get(refusal.code, CloseCode.PROTOCOL_ERROR), refusal.code.value)

    def _refuse_malformed(self, connection: Connection, refusal: Refusal) -> None:
        self._send_error(connection, refusal)
        count = self._malformed[connection.id] = self._malformed.get(connection.id, 0) + 1
        if count >= MALFORMED_LIMIT:
            connection.close(CloseCode.PROTOCOL_ERROR, "too many malformed messages")

    def _send_error(self, connection: Connection, refusal: Refusal) -> None:
        self.switchboard.tally.refused[refusal.code.value] += 1
        error = m.Error(
            code=refusal.code.value,
            message=refusal.message,
            retryable=refusal.code.retryable,
            id=refusal.id,
            retry_after_ms=refusal.retry_after_ms,
        )
        connection.send(encode(error))

    # Inputs and effects ---------------------------------------------------------------------

    def _feed(self, event: inputs.Input) -> None:
        now = self._clocks.monotonic()
        self._execute(self.switchboard.handle(event, now, int(self._clocks.unix() * 1000)))
        if self.switchboard.has_new_deadline:
            self._wake(now)

    def _execute(self, effects: list[Effect]) -> None:
        connections = self._connections
        for effect in effects:
            if type(effect) is Send:
                connection = connections.get(effect.connection)
                if connection is not None:
                    connection.send(effect.payload, effect.seq)
                continue
            match effect:
                case Close():
                    connection = connections.get(effect.connection)
                    if connection is not None:
                        connection.close(effect.code, effect.reason)
                case GrantIce():
                    self._grant_ice(effect)
                case Announce():
                    self._announce(effect)

    def _grant_ice(self, effect: GrantIce) -> None:
        grant = self._grant(effect.account, effect.identity, effect.ttl, effect.region)
        granted = inputs.IceGranted(session=effect.session, request=effect.request, grant=grant)
        self._feed(granted)

    def _wake(self, now: float) -> None:
        """Be there for the switchboard's next deadline."""
        deadline = self.switchboard.next_deadline()
        if deadline is None or deadline >= self._wakes_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._wakes_at = deadline
        delay = max(0.0, deadline - now)
        self._timer = asyncio.get_running_loop().call_later(delay, self._due)

    def _due(self) -> None:
        self._timer = None
        self._wakes_at = math.inf
        now = self._clocks.monotonic()
        try:
            unix_ms = int(self._clocks.unix() * 1000)
            self._execute(self.switchboard.handle_timeout(now, unix_ms))
        except Exception:
            self.internal_errors += 1
            log.exception("a deadline failed")
        self._wake(now)
