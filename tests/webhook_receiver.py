"""A receiver of webhooks that fails, is slow or redirects, as its test wants, and notes it all."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from standardwebhooks import Webhook

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
DEADLINE_S = 20.0


@dataclass
class Arrived:
    """One request as the server saw it."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def event(self) -> dict[str, Any]:
        return dict(Webhook(SECRET).verify(self.body, self.headers))

    @property
    def place(self) -> tuple[str | None, int]:
        event = self.event
        return event["room"], event["sequence"]


Answer = Callable[[Arrived, asyncio.StreamWriter], Awaitable[None]]


def status(code: int, *headers: str) -> Answer:
    async def answer(_: Arrived, writer: asyncio.StreamWriter) -> None:
        extra = "".join(f"{header}\r\n" for header in headers)
        writer.write(f"HTTP/1.1 {code} x\r\ncontent-length: 0\r\n{extra}\r\n".encode())
        await writer.drain()

    return answer


@dataclass
class Receiver:
    """A receiver of webhooks; `script` are its first answers, then it says 204."""

    script: list[Answer] = field(default_factory=list)
    arrived: list[Arrived] = field(default_factory=list)
    connections: int = 0
    port: int = 0
    server: asyncio.Server | None = None
    choose: Callable[[Arrived], Answer | None] | None = None
    writers: dict[asyncio.StreamWriter, asyncio.Task[None]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hooks?key=1"

    async def start(self) -> None:
        self.server = await asyncio.start_server(self._accepted, "127.0.0.1", self.port)
        self.port = self.server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self.server is not None
        self.server.close()
        for writer in self.writers:
            writer.transport.abort()
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.gather(*self.writers.values())

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._connection(reader, writer))
        self.writers[writer] = task
        task.add_done_callback(lambda _: self.writers.pop(writer, None))

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = dict(line.split(": ", 1) for line in head[1:] if line)
                headers = {name.lower(): value for name, value in headers.items()}
                body = await reader.readexactly(int(headers["content-length"]))
                at = asyncio.get_running_loop().time()
                request = Arrived(head[0].split(" ")[1], headers, body, at)
                answer = self.choose(request) if self.choose else None
                if answer is None:
                    answer = self.script.pop(0) if self.script else status(204)
                self.arrived.append(request)
                await answer(request, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.transport.abort()
