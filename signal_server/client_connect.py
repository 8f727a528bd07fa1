"""Opening one signaling session: the WebSocket handshake, hello, welcome; and how often to try.

It does not know what the session is used for, nor the sessions before it.
"""

from __future__ import annotations

import asyncio
import random

import msgspec
from msgspec import Struct
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from signal_server.client_wire import SignalingError, lost_connection, read, refused
from signal_server.wire.codes import ErrorCode
from signal_server.wire.limits import Limits
from signal_server.wire.messages import PROTOCOL, Error, Hello, Welcome

_HTTP_CODES = {401: ErrorCode.UNAUTHENTICATED, 403: ErrorCode.FORBIDDEN, 404: ErrorCode.NOT_FOUND}


class ClientSettings(Struct, frozen=True, kw_only=True):
    """Bounds of one client; times in seconds."""

    connect_timeout_s: float = 10.0
    request_timeout_s: float = 10.0
    close_timeout_s: float = 2.0
    pong_timeout_s: float = 5.0
    """Silence after a ping that proves the connection dead."""
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


async def open_session(
    url: str, hello: Hello, settings: ClientSettings
) -> tuple[ClientConnection, Welcome]:
    """A connection that has been welcomed; raises SignalingError."""
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
        raise SignalingError(code, f"the server answered HTTP {status}", retryable) from answer
    except (InvalidHandshake, OSError, TimeoutError) as failure:
        reason = str(failure) or "no answer in time"
        raise SignalingError(ErrorCode.UNAVAILABLE, reason, True) from failure
    try:
        return socket, await _greet(socket, hello, settings)
    except BaseException:
        socket.transport.abort()
        raise


async def _greet(socket: ClientConnection, hello: Hello, settings: ClientSettings) -> Welcome:
    try:
        async with asyncio.timeout(settings.connect_timeout_s):
            await socket.send(msgspec.json.encode(hello), text=True)
            reply = read(await socket.recv())
    except TimeoutError as late:
        raise SignalingError(ErrorCode.UNAVAILABLE, "no welcome in time", True) from late
    except ConnectionClosed as closed:
        raise lost_connection(closed) from closed
    if isinstance(reply, Error):
        raise refused(reply)
    if not isinstance(reply, Welcome):
        raise SignalingError(ErrorCode.INTERNAL, "the server did not say welcome")
    return reply
