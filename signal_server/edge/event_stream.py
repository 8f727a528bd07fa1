"""Server-sent events (WHATWG HTML section 9.2) out of a session's numbered log.

One event per message, `id:` is its number, so that `Last-Event-ID` says what has arrived. Writing a
message acknowledges nothing. It does not know who may read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from signal_server.edge.http_connection import Endpoint, HttpConnection
from signal_server.wire.codes import CloseCode

LIFE_S = 120.0
"""A stream that old ends, and the client asks for the next: behind a proxy a client that has
vanished would otherwise be taken for present as long as the proxy's buffers last."""
_RETRY = b"retry: 1000\n\n"
_COMMENT = b":\n\n"
_HEADERS = {
    "Cache-Control": "no-store",
    # nginx then passes on at once what it reads, whatever its configuration says.
    "X-Accel-Buffering": "no",
}


class EventStream(Response):
    """Runs until the client goes, a later GET takes its place, the connection is closed, or its
    life ends."""

    media_type = "text/event-stream"

    def __init__(
        self,
        connection: HttpConnection,
        endpoint: Endpoint,
        after: int,
        comment_s: float,
        farewell: Callable[[int], bytes],
    ) -> None:
        """`farewell` gives the data of the last event for a close code."""
        super().__init__(headers=_HEADERS)
        del self.headers["content-length"]
        self._connection = connection
        self._endpoint = endpoint
        self._sent = after
        self._comment_s = comment_s
        self._farewell = farewell
        self._is_over = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + LIFE_S
        head = {"status": self.status_code, "headers": self.raw_headers}
        with self._connection.read() as reader:
            await send({"type": "http.response.start", **head})
            text, otherwise = _RETRY, b""
            while loop.time() < ends_at and not reader.is_superseded and not self._is_over:
                text = (text + self._news()) or otherwise
                if text:
                    await send({"type": "http.response.body", "body": text, "more_body": True})
                    # More may have come while that was written.
                    text = otherwise = b""
                elif await reader.sleep(self._comment_s, receive):
                    otherwise = _COMMENT
                else:
                    break
            await send({"type": "http.response.body", "body": b""})

    def _news(self) -> bytes:
        """Events that have not been written yet."""
        if self._connection.close_code:
            return self._last(self._connection.close_code)
        events = [b"data: %b\n\n" % _line(reply) for reply in self._connection.take_replies()]
        messages = self._endpoint.unread(self._connection.id, self._sent)
        if messages is None:
            return b"".join(events) + self._last(CloseCode.RESUME_GAP)
        for payload in messages:
            self._sent += 1
            events.append(b"id: %d\ndata: %b\n\n" % (self._sent, _line(payload)))
        return b"".join(events)

    def _last(self, code: int) -> bytes:
        self._is_over = True
        return b"event: close\ndata: %b\n\n" % self._farewell(code)


def _line(payload: bytes) -> bytes:
    """Relayed JSON is as the peer wrote it: line ends between its tokens would end the event."""
    return payload.replace(b"\n", b" ").replace(b"\r", b" ")
