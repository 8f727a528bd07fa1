"""A session's connection over plain HTTP: no socket of its own, but requests that come and go.

To the dispatcher it looks like a WebSocket. It keeps no numbered message: a number only wakes the
GET that waits for it, which reads the session's log. It does not know HTTP's requests and answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import itertools
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any, Protocol

from signal_server.wire.codes import CloseCode
from signal_server.wire.limits import Limits

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
LOST = 1006
"""What WebSocket calls a connection that ended without a close frame."""
REPLIES = 256
"""Un-numbered messages that wait for a request to take them; the oldest give way."""


class Endpoint(Protocol):
    """The dispatcher, as seen from here."""

    def opened(self, connection: HttpConnection) -> None: ...

    def received(self, connection: HttpConnection, text: str) -> None: ...

    def closed(self, connection: HttpConnection, code: int) -> None: ...

    def unread(self, connection: int, after: int) -> list[bytes] | None:
        """The numbered messages behind `after`, without acknowledging; None for a gap."""

    async def settled(self, connection: HttpConnection) -> None:
        """Return when everything received from the connection was answered."""


class Reader:
    """One GET under way: sleeps until there is something for it."""

    __slots__ = ("_sleep", "is_superseded")

    def __init__(self) -> None:
        self.is_superseded = False
        """A later GET has taken its place."""
        self._sleep: asyncio.Timeout | None = None

    async def sleep(self, seconds: float, receive: Receive) -> bool:
        """Until it is woken or the time is up; False when the client has gone."""
        try:
            async with asyncio.timeout(seconds) as self._sleep:
                while (await receive())["type"] != "http.disconnect":
                    pass
                return False
        except TimeoutError:
            return True
        finally:
            self._sleep = None

    def wake(self) -> None:
        """Let the time be up now."""
        if self._sleep is not None and not self._sleep.expired():
            self._sleep.reschedule(0.0)
            self._sleep = None


class HttpConnection:
    """What the dispatcher opens, sends on and closes."""

    def __init__(
        self,
        connections: HttpConnections,
        number: int,
        token: str | None,
        remote: str,
    ) -> None:
        self.id = number
        self.token = token
        self.remote = remote
        self.subprotocol: str | None = None
        self.session = ""
        self.digest = b""
        self.close_code = 0
        """Other than 0 once it is over."""
        self.replies: deque[bytes] = deque(maxlen=REPLIES)
        self.reader: Reader | None = None
        self._connections = connections
        self._requests = 0
        self._executing = 0
        """POSTs under way, to which the next replies belong."""
        self._heard_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    # -- for the dispatcher --------------------------------------------------------------------

    def send(self, payload: bytes, seq: int = 0) -> None:
        """Wake the GET under way; what has no number is kept until a request takes it."""
        if not seq:
            self.replies.append(payload)
        if self.reader is not None:
            self.reader.wake()

    def close(self, code: int, reason: str) -> None:
        """The GET under way and every later request are refused."""
        if not self.close_code:
            self._over(code)
            asyncio.get_running_loop().call_soon(self._connections.endpoint.closed, self, code)

    # -- for the requests ----------------------------------------------------------------------

    def end(self, code: int) -> None:
        """The client's doing, or its silence."""
        if not self.close_code:
            self._over(code)
            self._connections.endpoint.closed(self, code)

    def attach(self, session: str, secret: str) -> None:
        """The hello was good: from now on the secret opens this connection."""
        self.session = session
        self.digest = _digest(session, secret)
        self._connections.by_session[session] = self
        self._heard_at = asyncio.get_running_loop().time()
        self._watch(self._connections.patience_s)

    async def execute(self, texts: list[str]) -> list[bytes]:
        """Messages of one POST, in order; returns what has no number."""
        self._executing += 1
        try:
            for text in texts:
                self._receive(text)
                if self.close_code:
                    break
            await self._connections.endpoint.settled(self)
        finally:
            self._executing -= 1
        return self.take_replies()

    def acknowledge(self, seq: int) -> bytes | None:
        """A GET says what has arrived, which counts as a message; returns the refusal."""
        latest = self.replies[-1] if self.replies else None
        self._receive(f'{{"type":"ack","seq":{seq}}}')
        is_refused = bool(self.replies) and self.replies[-1] is not latest
        return self.replies.pop() if is_refused else None

    def _receive(self, text: str) -> None:
        try:
            self._connections.endpoint.received(self, text)
        except Exception:
            self.close(CloseCode.INTERNAL, "internal")
            raise

    def take_replies(self) -> list[bytes]:
        """Each of them once; a GET leaves them to the POST under way."""
        if self._executing:
            return []
        replies = list(self.replies)
        self.replies.clear()
        return replies

    @contextlib.contextmanager
    def request(self) -> Iterator[None]:
        """As long as a request is under way, the client is there."""
        self._requests += 1
        self._connections.requests += 1
        try:
            yield
        finally:
            self._requests -= 1
            self._heard_at = asyncio.get_running_loop().time()
            self._connections.request_done()

    @contextlib.contextmanager
    def read(self) -> Iterator[Reader]:
        """The GET that reads; the one before it returns at once."""
        former, reader = self.reader, Reader()
        self.reader = reader
        if former is not None:
            former.is_superseded = True
            former.wake()
        try:
            with self.request():
                yield reader
        finally:
            if self.reader is reader:
                self.reader = None

    # -- ending --------------------------------------------------------------------------------

    def _watch(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._due)

    def _due(self) -> None:
        patience = self._connections.patience_s
        if self._requests:
            self._watch(patience)
            return
        left = self._heard_at + patience - asyncio.get_running_loop().time()
        if left > 0:
            self._watch(left)
        else:
            self.end(LOST)

    def _over(self, code: int) -> None:
        self.close_code = code
        if self._timer is not None:
            self._timer.cancel()
        self._connections.forget(self)
        if self.reader is not None:
            self.reader.wake()


class HttpConnections:
    """All of one node: by session, and for a while by what they were closed with."""

    def __init__(self, endpoint: Endpoint, limits: Limits, most: int) -> None:
        self.endpoint = endpoint
        self.by_session: dict[str, HttpConnection] = {}
        self.patience_s = limits.ping_interval_s + limits.ping_timeout_s
        """So long may a client make no request."""
        self.requests = 0
        """Under way, of all connections."""
        self._most = most
        self._all: set[HttpConnection] = set()
        self._former: OrderedDict[bytes, int] = OrderedDict()
        """Close codes by digest, of connections that the server has closed."""
        self._numbers = itertools.count(-1, -1)
        self._empty = asyncio.Event()

    def open(self, token: str | None, remote: str) -> HttpConnection | None:
        """A connection that will say hello; None when there are too many."""
        if len(self._all) >= self._most:
            return None
        connection = HttpConnection(self, next(self._numbers), token, remote)
        self._all.add(connection)
        return connection

    def find(self, session: str, secret: str) -> HttpConnection | int | None:
        """The session's connection when the secret is right, or the code it was closed with; 0
        for a wrong secret, None for a session that has no connection over HTTP."""
        digest = _digest(session, secret)
        connection = self.by_session.get(session)
        if connection is not None and hmac.compare_digest(connection.digest, digest):
            return connection
        return self._former.get(digest, None if connection is None else 0)

    def forget(self, connection: HttpConnection) -> None:
        """It is over."""
        self._all.discard(connection)
        if self.by_session.get(connection.session) is connection:
            del self.by_session[connection.session]
            self._former[connection.digest] = connection.close_code
            if len(self._former) > self._most:
                self._former.popitem(last=False)
        self._tell_if_empty()

    def request_done(self) -> None:
        """One request fewer is under way."""
        self.requests -= 1
        self._tell_if_empty()

    def close_all(self, code: int, reason: str = "") -> None:
        """End every session's connection, and with it every GET that waits."""
        for connection in list(self._all):
            connection.close(code, reason)

    async def wait_empty(self) -> None:
        """Return once no connection is left, and no request under way."""
        while self._all or self.requests:
            self._empty.clear()
            await self._empty.wait()

    def _tell_if_empty(self) -> None:
        if not self._all and not self.requests:
            self._empty.set()

    def __len__(self) -> int:
        return len(self._all)


def _digest(session: str, secret: str) -> bytes:
    return hashlib.sha256(f"{session}\0{secret}".encode("utf-8", "surrogatepass")).digest()
