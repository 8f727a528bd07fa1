"""Opening one connection: the WebSocket handshake, hello and its answer; and how often to try.

It resumes a session when asked to, and begins a new one on the same connection when the server
says that it is over. It does not know what a session is used for.
"""

from __future__ import annotations

import asyncio
import random
from typing import NamedTuple

import msgspec
from msgspec import Struct
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from signal_server.client_wire import (
    NoAnswerError,
    ResumeRefusedError,
    SignalingError,
    error_of,
    lost_connection,
    read,
    refused,
)
from signal_server.wire.codes import ErrorCode
from signal_server.wire.limits import Limits
from signal_server.wire.messages import PROTOCOL, Error, Hello, Resumed, Welcome

_HTTP_CODES = {401: ErrorCode.UNAUTHENTICATED, 403: ErrorCode.FORBIDDEN, 404: ErrorCode.NOT_FOUND}


class ClientSettings(Struct, frozen=True, kw_only=True):
    """Bounds of one client; times in seconds."""

    connect_timeout_s: float = 10.0
    request_timeout_s: float = 10.0
    """Does not run while the connection is lost: the request goes out again after a resume."""
    requests_in_flight: int = 128
    """Fewer than a server remembers per session, so that a repeated id is always recognized."""
    rate_limit_tries: int = 3
    """How often a request that may be repeated waits for `retry_after_ms` and is sent anew."""
    rate_limit_wait_s: float = 10.0
    """A longer wait is left to the application."""
    close_timeout_s: float = 2.0
    pong_timeout_s: float = 5.0
    """Silence after a ping that proves the connection dead."""
    ack_after_s: float = 5.0
    ack_after_messages: int = 20
    incoming_messages: int = 1024
    """Messages that may wait for the application."""
    message_bytes: int = 2 * Limits().outbound_bytes
    """One server message; a full room's roster is larger than any client message."""
    backoff_base_s: float = 0.5
    backoff_cap_s: float = 15.0
    reconnect_for_s: float = 120.0
    """How long a lost connection is tried again before the client gives up."""

    def backoff_s(self, attempt: int) -> float:
        """A random wait before the next attempt, so that a restart is not met by all at once."""
        ceiling = min(self.backoff_cap_s, self.backoff_base_s * 2 ** min(attempt, 16))
        return random.uniform(0, ceiling)  # noqa: S311


class Opened(NamedTuple):
    """A connection on which a session is, or goes on."""

    socket: ClientConnection
    greeting: Welcome | Resumed
    refused: ResumeRefusedError | None
    """Why it is a new session although another was to be resumed."""


async def open_session(url: str, hello: Hello, settings: ClientSettings) -> Opened:
    """A connection with a session on it; raises SignalingError."""
    try:
        socket = await connect(
            url,
            subprotocols=[Subprotocol(PROTOCOL)],
            compression=None,
            max_size=settings.message_bytes,
            open_timeout=settings.connect_timeout_s,
            close_timeout=settings.close_timeout_s,
            ping_interval=None,
        )
    except InvalidStatus as answer:
        status = answer.response.status_code
        code = _HTTP_CODES.get(status, ErrorCode.UNAVAILABLE)
        retryable = status >= 500 or status == 429
        raise error_of(code, f"the server answered HTTP {status}", retryable) from answer
    except (InvalidHandshake, OSError, TimeoutError) as failure:
        reason = str(failure) or "no answer in time"
        raise NoAnswerError(ErrorCode.UNAVAILABLE, reason, True) from failure
    try:
        return await _greet(socket, hello, settings)
    except BaseException:
        socket.transport.abort()
        raise


async def _greet(socket: ClientConnection, hello: Hello, settings: ClientSettings) -> Opened:
    no: ResumeRefusedError | None = None
    try:
        async with asyncio.timeout(settings.connect_timeout_s):
            if hello.resume is not None:
                try:
                    return Opened(socket, await _say(socket, hello), None)
                except ResumeRefusedError as over:
                    no = over
                    hello = msgspec.structs.replace(hello, resume=None)
            return Opened(socket, await _say(socket, hello), no)
    except TimeoutError as late:
        raise NoAnswerError(ErrorCode.UNAVAILABLE, "no welcome in time", True) from late
    except ConnectionClosed as closed:
        raise lost_connection(closed) from closed


async def _say(socket: ClientConnection, hello: Hello) -> Welcome | Resumed:
    await socket.send(msgspec.json.encode(hello), text=True)
    reply = read(await socket.recv())
    if isinstance(reply, Error):
        raise refused(reply)
    if isinstance(reply, Welcome) or (hello.resume is not None and isinstance(reply, Resumed)):
        return reply
    raise SignalingError(ErrorCode.INTERNAL, "the server did not say welcome")
