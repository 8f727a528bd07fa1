"""Requests passed on to the worker that holds the session; the workers say as they are told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from coturn import free_port
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from signal_server.edge.siblings import PASSED_ON, Siblings

NOT_HERE = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
HERE = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncache-control: no-store\r\n"
    b"x-secret: no\r\ncontent-length: 2\r\n\r\n{}"
)


class Worker:
    """A sibling; `asked` are the heads of the requests, `left` is set when its client has gone."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.asked: list[str] = []
        self.left = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                self.asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
                length = self.asked[-1].lower().partition("content-length: ")[2].split("\r\n")[0]
                await reader.readexactly(int(length or 0))
                writer.write(self.answer)
        self.left.set()
        writer.transport.abort()


@asynccontextmanager
async def siblings(folder: Path, *workers: Worker) -> AsyncIterator[Siblings]:
    async with contextlib.AsyncExitStack() as stack:
        for number, worker in enumerate(workers, 2):
            server = await asyncio.start_server(worker.serve, "127.0.0.1", 0)
            stack.callback(server.close)
            port = server.sockets[0].getsockname()[1]
            Siblings(folder, number).listens(port)
        mine = Siblings(folder, 1)
        mine.listens(free_port())
        stack.push_async_callback(mine.close)
        yield mine


def request(method: str = "GET", *, leaves: bool = False, **headers: str) -> Request:
    scope: dict[str, Any] = {
        "type": "http",
        "method": method,
        "path": "/v1/sessions/s1/messages",
        "query_string": b"after=3",
        "headers": [
            (name.replace("_", "-").encode(), text.encode()) for name, text in headers.items()
        ],
        "server": ("parley.test", 443),
        "scheme": "https",
    }

    async def receive() -> dict[str, Any]:
        if not leaves:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    return Request(scope, receive)


async def text(answer: Response | None) -> bytes:
    assert isinstance(answer, StreamingResponse)
    return b"".join([bytes(piece) async for piece in answer.body_iterator])  # type: ignore[arg-type]


async def test_the_one_that_holds_the_session_answers_and_is_remembered(tmp_path: Path) -> None:
    others, holder = [Worker(NOT_HERE), Worker(NOT_HERE)], Worker(HERE)
    async with siblings(tmp_path, *others, holder) as mine:
        Siblings(tmp_path, 9).listens(free_port())
        asked = request("POST", authorization="Bearer s", cookie="x=1", last_event_id="3")
        answer = await mine.ask(asked, "s1", b"[]")
        assert await text(answer) == b"{}"
        assert answer is not None
        assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
        assert "x-secret" not in answer.headers
        head = holder.asked[0].lower()
        assert head.startswith("post /v1/sessions/s1/messages?after=3 http/1.1\r\n")
        assert "\r\nauthorization: bearer s\r\n" in head
        assert "\r\nlast-event-id: 3\r\n" in head
        assert f"\r\n{PASSED_ON}: 1\r\n" in head
        assert "cookie" not in head
        before = [len(other.asked) for other in others]
        await text(await mine.ask(request(), "s1", b""))
        assert [len(other.asked) for other in others] == before, "straight to the holder"
        holder.answer = NOT_HERE
        assert await mine.ask(request(), "s1", b"") is None, "it has moved away since"
        assert [len(other.asked) for other in others] == [count + 1 for count in before]


async def test_what_was_passed_on_is_not_passed_on_again(tmp_path: Path) -> None:
    worker = Worker(HERE)
    async with siblings(tmp_path, worker) as mine:
        assert await mine.ask(request(parley_passed_on="1"), "s1", b"") is None
    assert worker.asked == []


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"])
async def test_a_client_that_leaves_takes_its_request_with_it(
    tmp_path: Path, answer: bytes
) -> None:
    """Before the answer has begun, and in the middle of it."""
    worker = Worker(answer)
    async with siblings(tmp_path, worker) as mine:
        given = await mine.ask(request(leaves=not answer), "s1", b"")
        assert given is not None
        if isinstance(given, StreamingResponse):
            pieces = aiter(given.body_iterator)
            assert await anext(pieces) == b"half"
            await pieces.aclose()  # type: ignore[attr-defined]
        else:
            assert given.status_code == 400
        async with asyncio.timeout(20):
            await worker.left.wait()
