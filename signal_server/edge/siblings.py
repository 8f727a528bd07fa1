"""Requests for a session that another worker of this machine holds, handed to that worker.

The kernel spreads a client's HTTP connections over all workers, but a session's connection lives in
one of them. Each worker listens on a loopback port of its own as well, and leaves its number in the
workers' folder. It does not know sessions.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

if TYPE_CHECKING:
    import httpx

PASSED_ON = "parley-passed-on"
"""Header of a request that another worker has passed on: it is not passed on again."""
SILENCE_S = 90.0
"""Longer than any long poll, and than a stream is silent."""
CONNECT_S = 2.0
KNOWN = 20_000
"""Sessions whose worker is remembered."""
_ASKED = ("accept", "authorization", "content-type", "last-event-id")
_ANSWERED = ("cache-control", "content-type", "retry-after", "www-authenticate")


class Siblings:
    """The other workers, as one of them sees them."""

    def __init__(self, folder: Path, worker: int) -> None:
        self._folder = folder
        self._worker = worker
        self._known: OrderedDict[str, int] = OrderedDict()
        """Port by session."""
        self._client: httpx.AsyncClient | None = None

    def listens(self, port: int) -> None:
        """This worker can be reached at that loopback port."""
        (self._folder / f"{self._worker}.port").write_text(str(port))

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    async def ask(self, request: Request, session: str, body: bytes) -> Response | None:
        """The answer of the worker that holds the session; None when none does."""
        if PASSED_ON in request.headers:
            return None
        known = self._known.pop(session, 0)
        for port in dict.fromkeys([*([known] if known else []), *self._ports()]):
            answer = await self._pass_on(request, body, port)
            if answer is not None:
                self._known[session] = port
                if len(self._known) > KNOWN:
                    self._known.popitem(last=False)
                return answer
        return None

    def _ports(self) -> list[int]:
        files = self._folder.glob("*.port")
        texts = [path.read_text() for path in files if path.stem != str(self._worker)]
        return [int(text) for text in texts if text]

    async def _pass_on(self, request: Request, body: bytes, port: int) -> Response | None:
        import httpx

        headers = {name: request.headers[name] for name in _ASKED if name in request.headers}
        url = request.url.replace(scheme="http", hostname="127.0.0.1", port=port)
        passed = self._http.build_request(
            request.method, str(url), headers={**headers, PASSED_ON: "1"}, content=body
        )
        sending = asyncio.ensure_future(self._http.send(passed, stream=True))
        leaving = asyncio.ensure_future(_left(request))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                return Response(status_code=400)
            answer = sending.result()
        except httpx.HTTPError:
            return None
        finally:
            sending.cancel()
            leaving.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)
        if answer.status_code == 404:
            await answer.aclose()
            return None
        shown = {name: answer.headers[name] for name in _ANSWERED if name in answer.headers}
        return StreamingResponse(_relayed(answer), answer.status_code, shown)

    @property
    def _http(self) -> httpx.AsyncClient:
        if self._client is None:
            import httpx

            # Every GET that waits holds a connection.
            limits = httpx.Limits(max_connections=KNOWN, max_keepalive_connections=64)
            timeout = httpx.Timeout(SILENCE_S, connect=CONNECT_S)
            self._client = httpx.AsyncClient(trust_env=False, limits=limits, timeout=timeout)
        return self._client


async def _left(request: Request) -> None:
    """The body has been read: all that can come is the end."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _relayed(answer: httpx.Response) -> AsyncIterator[bytes]:
    import httpx

    try:
        async for piece in answer.aiter_raw():
            yield piece
    except httpx.HTTPError:
        # The worker is gone: the client sees an end, and asks again.
        return
    finally:
        await answer.aclose()
