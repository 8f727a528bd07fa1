"""A session by hand: raw JSON over a WebSocket, so that a test decides each secret, ack and seq."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

Json = dict[str, Any]
_WAIT_S = 20.0


class RawSession:
    """One connection; numbered messages are kept in `log`, and must not have holes."""

    def __init__(self, socket: ClientConnection, token: str) -> None:
        self.socket = socket
        self.token = token
        self.greeting: Json = {}
        self.log: list[Json] = []
        self.last_seq = 0

    @classmethod
    async def open(cls, url: str, token: str, **hello: Any) -> Self:
        """Say hello; `greeting` is the welcome, resumed or error that answers it."""
        socket = await connect(
            url, subprotocols=[Subprotocol("parley.v1.json")], compression=None, ping_interval=None
        )
        raw = cls(socket, token)
        resume = hello.get("resume")
        raw.last_seq = resume["last_seq"] if resume else 0
        await raw.say("hello", token=token, **hello)
        raw.greeting = await raw.take()
        return raw

    async def resume(self, url: str, **changed: Any) -> RawSession:
        """Take this session up on another connection."""
        greeting = self.greeting
        resume = {
            "session": greeting["session"],
            "secret": greeting["resume"]["secret"],
            "last_seq": self.last_seq,
            **changed,
        }
        return await RawSession.open(url, self.token, resume=resume)

    @property
    def peer(self) -> str:
        return str(self.greeting["peer"])

    @property
    def secret(self) -> str:
        return str(self.greeting["resume"]["secret"])

    async def say(self, kind: str, **fields: Any) -> None:
        await self.socket.send(json.dumps({"type": kind, **fields}), text=True)

    async def take(self) -> Json:
        """The next message."""
        async with asyncio.timeout(_WAIT_S):
            message: Json = json.loads(await self.socket.recv())
        if "seq" in message:
            assert message["seq"] == self.last_seq + 1, (message, self.last_seq)
            self.last_seq += 1
            self.log.append(message)
        return message

    async def until(self, kind: str, **fields: Any) -> Json:
        """Take messages up to one of that type with those fields."""
        while True:
            message = await self.take()
            if message["type"] == kind and fields.items() <= message.items():
                return message

    async def ask(self, kind: str, **fields: Any) -> Json:
        """A request; returns its ok or error."""
        await self.say(kind, **fields)
        while True:
            message = await self.take()
            if message["type"] in ("ok", "error") and message.get("id") == fields["id"]:
                return message

    async def closed(self) -> int:
        """Take until the server closes; returns the code."""
        try:
            while True:
                await self.take()
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd else 1006

    def kill(self) -> None:
        """As a cut cable, seen from here: nothing more is sent, nothing more is read."""
        self.socket.transport.abort()

    def data(self) -> list[Any]:
        """What the `message` messages in the log carry."""
        return [message["data"] for message in self.log if message["type"] == "message"]
