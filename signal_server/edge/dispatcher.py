"""The node's connections: lets them in on a valid hello, and passes on what they say.

The endpoint of `/v1/signal`. What a message means is decided by the account's switchboard, behind
the backplane. It does not know HTTP, JWT or TURN: who may enter and which ICE servers there are, it
asks two callables.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from itertools import count
from typing import NamedTuple, Protocol

from signal_server import clock
from signal_server.backplane.contract import Backplane, GrantServers
from signal_server.core import inputs
from signal_server.core.inputs import Permit
from signal_server.core.out import TAGS
from signal_server.core.tally import Counts
from signal_server.wire import messages as m
from signal_server.wire.codec import Refusal, decode, encode
from signal_server.wire.codes import CloseCode, ErrorCode
from signal_server.wire.limits import Limits
from turn_broker.addresses import address_key
from turn_broker.guesses import Guesses

MALFORMED_LIMIT = 100
"""Undecodable messages of one connection before it is closed."""
_ID_BYTES = 12
_ID_CHARS = 16
"""Of base64, without padding."""
_SECRET_BYTES = 24
_CLOSE_FOR = {
    ErrorCode.UNAUTHENTICATED: CloseCode.UNAUTHENTICATED,
    ErrorCode.TOKEN_EXPIRED: CloseCode.TOKEN_EXPIRED,
    ErrorCode.FORBIDDEN: CloseCode.FORBIDDEN,
    ErrorCode.DRAINING: CloseCode.GO_AWAY,
    ErrorCode.RATE_LIMITED: CloseCode.RATE_LIMITED,
    ErrorCode.UNSUPPORTED_VERSION: CloseCode.UNSUPPORTED_VERSION,
}
ANSWER_TIMEOUT_S = 10.0
"""Of an operator's question."""
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


class Bearer(NamedTuple):
    """A verified access token."""

    permit: Permit
    life_s: float
    """Until it expires."""


class Authenticate(Protocol):
    def __call__(self, token: str) -> Bearer | Refusal: ...


class Place(NamedTuple):
    """Where the node is."""

    node: str
    region: str


class Dispatcher:
    """One per node; a `SocketEndpoint`, and the HTTP fallback's way in."""

    def __init__(
        self,
        backplane: Backplane,
        authenticate: Authenticate,
        grant: GrantServers,
        guesses: Guesses,
        limits: Limits,
        place: Place,
    ) -> None:
        self.is_draining = False
        self.connections: dict[int, Connection] = {}
        self.received_by_type = Counts()
        """Client messages by type."""
        self.refused: Counter[str] = Counter()
        """Errors answered here, by code."""
        self._backplane = backplane
        self._limits = limits
        self._authenticate = authenticate
        self._grant = grant
        self._guesses = guesses
        self._place = place
        self._waiting: dict[int, asyncio.TimerHandle] = {}
        """Connections that have no session yet, with their deadline."""
        self._accounts: dict[int, str] = {}
        """Of the connections whose hello was passed on."""
        self._malformed: dict[int, int] = {}
        self._asked: dict[int, asyncio.Future[bytes | None]] = {}
        self._tickets = count(1)

    # SocketEndpoint -------------------------------------------------------------------------

    def opened(self, connection: Connection) -> None:
        self.connections[connection.id] = connection
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
        self.received_by_type[TAGS[type(message)]] += 1
        account = self._accounts.get(connection.id)
        if account is not None:
            if isinstance(message, m.Refresh):
                self._refresh(connection, account, message)
            else:
                self._backplane.relay(account, connection.id, message, text)
        elif isinstance(message, m.Hello):
            self._hello(connection, message)
        else:
            refusal = Refusal(ErrorCode.UNAUTHENTICATED, "say hello first", message.id)
            self._turn_away(connection, refusal)

    def closed(self, connection: Connection, code: int) -> None:
        self.connections.pop(connection.id, None)
        self._malformed.pop(connection.id, None)
        waiting = self._waiting.pop(connection.id, None)
        if waiting is not None:
            waiting.cancel()
        account = self._accounts.pop(connection.id, None)
        if account is not None:
            # A browser closes with 1001 when its page goes, also when the page is only reloaded.
            reason = "left" if code == CloseCode.NORMAL else "connection_lost"
            self._backplane.submit(account, inputs.Closed(connection.id, reason))

    def unread(self, connection: int, after: int) -> list[bytes] | None:
        """The numbered messages behind `after`; None for a gap."""
        return self._backplane.unread(connection, after)

    async def settled(self, connection: Connection) -> None:
        """Return when everything the connection has said so far was answered."""
        account = self._accounts.get(connection.id)
        if account is not None:
            await self._backplane.settled(account)

    # Speaker --------------------------------------------------------------------------------

    def attached(self, connection: int) -> None:
        """It has a session."""
        waiting = self._waiting.pop(connection, None)
        if waiting is not None:
            waiting.cancel()
        attached = self.connections.get(connection)
        if attached is not None:
            attached.token = None

    def unattached(self, connection: int) -> None:
        """It may say hello again."""
        self._accounts.pop(connection, None)

    def answered(self, ticket: int, answer: bytes | None) -> None:
        """To `ask`."""
        asked = self._asked.pop(ticket, None)
        if asked is not None and not asked.done():
            asked.set_result(answer)

    # Operators ------------------------------------------------------------------------------

    async def ask(self, account: str, question: inputs.Question) -> bytes | None:
        """JSON, or None for what is not there; TimeoutError when nobody answers."""
        ticket = next(self._tickets)
        asked: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self._asked[ticket] = asked
        try:
            wish = inputs.Asked(ticket=ticket, account=account, question=question)
            self._backplane.submit(account, wish)
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await asked
        finally:
            self._asked.pop(ticket, None)

    # Going away -----------------------------------------------------------------------------

    def drain(self, reason: str, grace_s: float) -> None:
        """Refuse new sessions and ask the present ones to go elsewhere, one after another."""
        self.is_draining = True
        grace_ms = int(grace_s * 1000)
        self._backplane.drain(reason, int(grace_ms * SPREAD), grace_ms)

    def stop(self) -> None:
        """No timer may fire after this."""
        for waiting in self._waiting.values():
            waiting.cancel()

    # Letting in -----------------------------------------------------------------------------

    def _hello(self, connection: Connection, hello: m.Hello) -> None:
        bearer = self._admit(connection, hello)
        if isinstance(bearer, Refusal):
            self._turn_away_later(connection, bearer)
            return
        # Asking the kernel once is cheaper than three times; every part is whole characters.
        drawn = secrets.token_urlsafe(_SECRET_BYTES + 2 * _ID_BYTES)
        admission = inputs.Admission(
            permit=bearer.permit,
            token_life_s=bearer.life_s,
            resume_secret=drawn[2 * _ID_CHARS :],
            address=address_key(connection.remote),
            remote=connection.remote,
            node=self._place.node,
            region=self._place.region,
        )
        account = bearer.permit.account
        self._accounts[connection.id] = account
        if hello.resume is not None:
            resumed = inputs.Resumed(
                connection=connection.id,
                admission=admission,
                resume=hello.resume,
                request=hello.id,
            )
            self._backplane.submit(account, resumed)
        else:
            opened = self._opened(connection, hello, admission, drawn[: 2 * _ID_CHARS])
            self._backplane.submit(account, opened)

    def _opened(
        self, connection: Connection, hello: m.Hello, admission: inputs.Admission, names: str
    ) -> inputs.Opened:
        permit, ice = admission.permit, None
        if permit.may_turn:
            who = (permit.account, permit.identity)
            granted = self._grant(*who, None, None, admission.remote)
            ice = granted if isinstance(granted, inputs.IceGrant) else None
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
        shut_out = self._guesses.refused(address_key(connection.remote), clock.monotonic())
        if shut_out is not None:
            retry = int(shut_out * 1000)
            return Refusal(ErrorCode.RATE_LIMITED, "too many wrong tokens", hello.id, retry)
        return self._bearer(token, hello.id)

    def _bearer(self, token: str, request: str | int | None) -> Bearer | Refusal:
        bearer = self._authenticate(token)
        if isinstance(bearer, Refusal):
            return Refusal(bearer.code, bearer.message, request)
        if bearer.life_s <= 0:
            # Good for those who forgive clocks; here the connection would end as it begins.
            return Refusal(ErrorCode.TOKEN_EXPIRED, "the access token has expired", request)
        return bearer

    def _refresh(self, connection: Connection, account: str, message: m.Refresh) -> None:
        bearer = self._bearer(message.token, message.id)
        if isinstance(bearer, Refusal):
            self._send_error(connection, bearer)
            return
        refreshed = inputs.Refreshed(
            connection=connection.id,
            permit=bearer.permit,
            token_life_s=bearer.life_s,
            request=message.id,
        )
        self._backplane.submit(account, refreshed)

    def _turn_away_later(self, connection: Connection, refusal: Refusal) -> None:
        """A wrong token is answered the later, the more of them came from that address."""
        if refusal.code is not ErrorCode.UNAUTHENTICATED:
            self._turn_away(connection, refusal)
            return
        delay = self._guesses.failed(address_key(connection.remote), clock.monotonic())
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
        self.refused[refusal.code.value] += 1
        error = m.Error(
            code=refusal.code.value,
            message=refusal.message,
            retryable=refusal.code.retryable,
            id=refusal.id,
            retry_after_ms=refusal.retry_after_ms,
        )
        connection.send(encode(error))
