"""The ways into a session, as small drivers: WebSocket, long poll, server-sent events.

A `Talker` is a client of the protocol on any of them; it insists on every number exactly once and
in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import Callable
from typing import Any, TypeVar

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

Json = dict[str, Any]
T = TypeVar("T")
DEADLINE_S = 20.0
WAIT_S = 2.0
"""Of a long poll."""


class Link:
    """One connection of a talker; `ended` tells why it is over."""

    def __init__(self, talker: Talker) -> None:
        self.talker = talker
        self.is_muted = False
        """The talker listens to its successor."""
        self.ended = ""
        self.reads = 0
        """How often reading began."""
        self._task: asyncio.Task[None] | None = None

    async def open(self, hello: Json) -> Json:
        """Say hello; returns the answer."""
        raise NotImplementedError

    async def send(self, *messages: Json) -> None:
        raise NotImplementedError

    async def cut(self) -> None:
        """Be gone without a word."""
        raise NotImplementedError

    def heard(self, message: Json) -> None:
        if not self.is_muted:
            self.talker.take(message)

    def over(self, code: str) -> None:
        self.ended = code
        self.talker.news.set()

    async def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task


class WebSocketLink(Link):
    _socket: ClientConnection

    async def open(self, hello: Json) -> Json:
        self._socket = await connect(
            self.talker.url.replace("http", "ws") + "/v1/signal", compression=None
        )
        await self._socket.send(json.dumps(hello))
        answer: Json = json.loads(await self._socket.recv())
        self._task = asyncio.create_task(self._read())
        return answer

    async def send(self, *messages: Json) -> None:
        with contextlib.suppress(ConnectionClosed):
            for message in messages:
                await self._socket.send(json.dumps(message))

    async def cut(self) -> None:
        self._socket.transport.abort()
        await self._stop()

    async def _read(self) -> None:
        self.reads += 1
        with contextlib.suppress(ConnectionClosed):
            while True:
                self.heard(json.loads(await self._socket.recv()))
        self.over("superseded" if self._socket.close_code == 4502 else str(self._socket.close_code))


class HttpLink(Link):
    _http: httpx.AsyncClient
    _path: str

    async def open(self, hello: Json) -> Json:
        self._http = httpx.AsyncClient(base_url=self.talker.url, timeout=DEADLINE_S)
        reply = await self._http.post("/v1/sessions", json=hello)
        if reply.status_code != 201:
            await self._http.aclose()
            refusal: Json = reply.json()
            return refusal
        welcome: Json = reply.json()
        rest = welcome.pop("results")
        self._path = f"/v1/sessions/{welcome['session']}"
        assert reply.headers["location"] == self._path
        self._http.headers["Authorization"] = f"Bearer {welcome['resume']['secret']}"
        self._task = asyncio.create_task(self._run(self.talker.seq))
        for message in rest:
            self.heard(message)
        return welcome

    async def send(self, *messages: Json) -> None:
        reply = await self._http.post(f"{self._path}/messages", json=messages)
        if reply.status_code == 200:
            for result in reply.json()["results"]:
                self.heard(result)
        else:
            assert reply.json()["code"] == "superseded", reply.text

    async def cut(self) -> None:
        await self._stop()
        await self._http.aclose()

    async def leave(self) -> int:
        reply = await self._http.delete(self._path)
        return reply.status_code

    async def _run(self, after: int) -> None:
        while not self.ended:
            self.reads += 1
            after = await self._read(after)

    async def _read(self, after: int) -> int:
        raise NotImplementedError


class PollLink(HttpLink):
    async def _read(self, after: int) -> int:
        query: Json = {"after": after, "wait": WAIT_S}
        reply = await self._http.get(f"{self._path}/messages", params=query)
        assert reply.headers["cache-control"] == "no-store"
        if reply.status_code != 200:
            self.over(reply.json()["code"])
            return after
        batch = reply.json()
        for message in batch["messages"]:
            self.heard(message)
        # What nobody listens to is not acknowledged.
        return after if self.is_muted else int(batch["next"])


class StreamLink(HttpLink):
    async def _read(self, after: int) -> int:
        async with self._http.stream(
            "GET", f"{self._path}/events", headers={"Last-Event-ID": str(after)}
        ) as reply:
            if reply.status_code != 200:
                await reply.aread()
                self.over(reply.json()["code"])
                return after
            assert reply.headers["content-type"].startswith("text/event-stream")
            assert reply.headers["cache-control"] == "no-store"
            event: dict[str, str] = {}
            async for line in reply.aiter_lines():
                if line:
                    name, _, value = line.partition(":")
                    event[name] = value.removeprefix(" ")
                    continue
                if event.get("event") == "close":
                    self.over(json.loads(event["data"])["code"])
                elif "data" in event:
                    message = json.loads(event["data"])
                    assert event.get("id", "0") == str(message.get("seq", 0))
                    after = int(event.get("id", after))
                    self.heard(message)
                event = {}
        return after


LINKS: dict[str, type[Link]] = {
    "websocket": WebSocketLink,
    "long-poll": PollLink,
    "sse": StreamLink,
}


class Talker:
    """One client and its session, over whatever link it has now."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url
        self.token = token
        self.link: Link
        self.peer = ""
        self.session = ""
        self.secret = ""
        self.seq = 0
        self.messages: list[Json] = []
        """Numbered ones, in order."""
        self.answers: dict[str, Json] = {}
        self.news = asyncio.Event()
        self._pending: dict[str, Json] = {}
        self._ids = itertools.count(1)

    async def hello(self, way: str, **more: Any) -> Json:
        """Connect in that way."""
        link = LINKS[way](self)
        answer = await link.open({"type": "hello", "token": self.token, **more})
        if answer["type"] in ("welcome", "resumed"):
            self.link = link
            self.peer, self.session = answer["peer"], answer["session"]
            self.secret = answer["resume"]["secret"]
        return answer

    async def resume(self, way: str) -> Json:
        """Take the session up again, and say again what has no answer."""
        last_seq = self.seq
        resume = {"session": self.session, "secret": self.secret, "last_seq": last_seq}
        answer = await self.hello(way, resume=resume)
        if answer["type"] == "resumed":
            assert answer["from_seq"] == last_seq + 1
            unanswered = [{**message, "ack": self.seq} for message in self._pending.values()]
            if unanswered:
                await self.link.send(*unanswered)
        return answer

    async def move(self, way: str) -> None:
        """To another link, in mid conversation; the former one is told."""
        former = self.link
        former.is_muted = True
        answer = await self.resume(way)
        assert answer["type"] == "resumed", answer
        assert await self.until(lambda: former.ended) == "superseded"
        await former.cut()

    async def request(self, kind: str, **fields: Any) -> Json:
        """Say it until it is answered; returns `ok` or `error`."""
        number = str(next(self._ids))
        message = {"type": kind, "id": number, **fields}
        self._pending[number] = message
        await self.link.send({**message, "ack": self.seq})
        return await self.until(lambda: self.answers.get(number))

    async def ask(self, kind: str, **fields: Any) -> Json:
        """A request that must succeed."""
        answer = await self.request(kind, **fields)
        assert answer["type"] == "ok", answer
        return answer

    def take(self, message: Json) -> None:
        if "seq" in message:
            assert message["seq"] == self.seq + 1, message
            self.seq += 1
            self.messages.append(message)
        elif message["type"] in ("ok", "error"):
            self._pending.pop(message["id"])
            self.answers[message["id"]] = message
        self.news.set()

    def of_type(self, kind: str) -> list[Json]:
        return [message for message in self.messages if message["type"] == kind]

    async def sees(self, kind: str, count: int = 1) -> Json:
        """Wait for the count-th message of that type."""
        return (await self.until(lambda: self.of_type(kind)[count - 1 :]))[0]

    async def until(self, condition: Callable[[], T | None]) -> T:
        """Wait until that is something."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            self.news.clear()
            found = condition()
            if found:
                return found
            async with asyncio.timeout(deadline - time.monotonic()):
                await self.news.wait()
