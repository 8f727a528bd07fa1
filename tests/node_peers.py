"""Clients of several nodes, by hand: everything one hears is kept."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from nodes import Node, token
from rtc import until
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

Json = dict[str, Any]


class Peer:
    """A client by hand: everything it hears is kept."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.heard: list[Json] = []
        self.closed_with: int | None = None
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for text in self.socket:
                self.heard.append(json.loads(text))
        self.closed_with = self.socket.close_code

    async def say(self, kind: str, **fields: Any) -> None:
        await self.socket.send(json.dumps({"type": kind, **fields}))

    async def hear(self, kind: str, within_s: float = 15.0, **fields: Any) -> Json:
        """The first message of this type with these fields, since ever."""

        def found() -> Json | None:
            wanted = {"type": kind, **fields}
            return next((m for m in self.heard if wanted.items() <= m.items()), None)

        await until(lambda: found() is not None, within_s)
        message = found()
        assert message is not None
        return message

    async def ask(self, kind: str, number: int, **fields: Any) -> Json:
        """Say it with an id; the answer, good or bad."""
        await self.say(kind, id=number, **fields)
        await until(lambda: any(self._answers(m, number) for m in self.heard), 15.0)
        return next(m for m in self.heard if self._answers(m, number))

    @staticmethod
    def _answers(message: Json, number: int) -> bool:
        return message["type"] in ("ok", "error") and message.get("id") == number

    @property
    def welcome(self) -> Json:
        return next(m for m in self.heard if m["type"] in ("welcome", "resumed"))

    @property
    def seq(self) -> int:
        return max((m.get("seq", 0) for m in self.heard), default=0)

    def numbers(self) -> list[int]:
        return [m["data"] for m in self.heard if m["type"] == "message"]

    async def end(self) -> None:
        await self.socket.close()
        await self._reading


@asynccontextmanager
async def peer(
    node: Node, identity: str, room: str | None = "r", **hello: Any
) -> AsyncIterator[Peer]:
    async with connect(node.ws_url, open_timeout=20) as socket:
        one = Peer(socket)
        await one.say("hello", token=token(identity), **({"room": room} if room else {}), **hello)
        kind = "resumed" if "resume" in hello else "welcome"
        await one.hear(kind)
        try:
            yield one
        finally:
            socket.transport.abort()
            await one._reading


def ticket(one: Peer) -> Json:
    """What resumes its session."""
    welcome = one.welcome
    secret = welcome["resume"]["secret"]
    return {"session": welcome["session"], "secret": secret, "last_seq": one.seq}
