"""A server that plays a script, for what a real one does rarely; and a client that is quick."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from signal_server.client import SignalingClient
from signal_server.client_connect import ClientSettings
from signal_server.wire import messages as wire

Session = Callable[["Wire", int], Awaitable[None]]
QUICK = ClientSettings(
    connect_timeout_s=20.0,
    request_timeout_s=20.0,
    pong_timeout_s=1.0,
    backoff_base_s=0.01,
    backoff_cap_s=0.02,
    reconnect_for_s=20.0,
)


class Wire:
    """The server's end of one connection; numbers what it sends."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        self.seq = 0
        self.acked = 0

    async def take(self) -> dict[str, Any]:
        """Next message of the client; pings are answered, acknowledgements noted on the way."""
        while True:
            message: dict[str, Any] = msgspec.json.decode(await self.socket.recv())
            ack = message.get("seq") if message["type"] == "ack" else message.get("ack")
            self.acked = max(self.acked, ack or 0)
            if message["type"] == "ping":
                await self.say(type="pong", t=message["t"], server_time_ms=0)
            elif message["type"] != "ack":
                return message

    async def say(self, **message: Any) -> None:
        if message["type"] == "error":
            message.setdefault("retryable", False)
        await self.socket.send(msgspec.json.encode(message), text=True)

    async def number(self, **message: Any) -> None:
        self.seq += 1
        await self.say(seq=self.seq, **message)

    async def welcome(self, peer: str = "p1", ping_interval_s: float = 60.0) -> dict[str, Any]:
        hello = await self.take()
        await self.say(
            type="welcome",
            session="s",
            peer=peer,
            identity="me",
            resume={"secret": "x", "window_s": 0},
            node="n",
            region="r",
            ping_interval_s=ping_interval_s,
            limits={},
        )
        return hello

    async def resumed(self, **fields: Any) -> dict[str, Any]:
        """Let the session go on; `replayed` is how many messages follow with old numbers."""
        hello = await self.take()
        self.seq = hello["resume"]["last_seq"]
        await self.say(
            type="resumed",
            session="s",
            peer="p1",
            identity="me",
            resume={"secret": f"after {hello['resume']['secret']}", "window_s": 60},
            node="n",
            region="r",
            ping_interval_s=60.0,
            limits={},
            **{"from_seq": self.seq + 1, "replayed": 0, "rooms": [], "calls": [], **fields},
        )
        return hello

    async def ok(self, request: dict[str, Any], **fields: Any) -> None:
        await self.say(type="ok", id=request["id"], **fields)

    async def room(self, *peers: str, revision: int = 1) -> dict[str, Any]:
        join = await self.take()
        entries = [{"peer": peer, "identity": "other", "polite": False} for peer in peers]
        await self.number(type="room", room=join["room"], epoch=1, revision=revision, peers=entries)
        if "id" in join:
            await self.say(type="ok", id=join["id"])
        return join

    async def gone(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await self.take()


@contextlib.asynccontextmanager
async def scripted(session: Session) -> AsyncIterator[str]:
    """A server that plays `session(wire, number of the connection)`."""
    number = 0
    failures: list[BaseException] = []

    async def serve_one(socket: ServerConnection) -> None:
        nonlocal number
        number += 1
        try:
            await session(Wire(socket), number)
        except ConnectionClosed:
            pass
        except Exception as failure:
            failures.append(failure)

    protocols = [Subprotocol(wire.PROTOCOL)]
    async with serve(serve_one, "127.0.0.1", 0, subprotocols=protocols) as server:
        port = server.sockets[0].getsockname()[1]
        yield f"ws://127.0.0.1:{port}/v1/signal"
    assert not failures, failures


async def next_of(client: SignalingClient, kind: type[Any]) -> Any:
    async with asyncio.timeout(20):
        async for message in client:
            if isinstance(message, kind):
                return message
    raise AssertionError(f"no {kind.__name__}")
