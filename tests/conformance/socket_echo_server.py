"""A server for the socket tests: an echo endpoint and a small HTTP application on one port.

Run as a child process with one JSON argument; prints one JSON line with its port when it is ready
and ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from signal_server.edge.front import listen, make_front
from signal_server.edge.server import SocketServer, SocketSettings
from signal_server.edge.socket import Socket
from signal_server.wire.limits import Limits


class Echo:
    """Answers with what it got; texts that start with "!" are orders."""

    def __init__(self) -> None:
        self.closed_codes: list[int] = []
        self.after_close = 0
        self.frames_in: Callable[[], int] = lambda: 0

    def opened(self, socket: Socket) -> None:
        socket.endpoint_state = 0
        if socket.token == "raise":
            raise RuntimeError("from opened")

    def received(self, socket: Socket, text: str) -> None:
        if not socket.is_open:
            self.after_close += 1
        socket.endpoint_state += 1
        if text.startswith("!"):
            self.order(socket, json.loads(text[1:]))
        else:
            socket.send(text.encode())

    def order(self, socket: Socket, order: dict[str, Any]) -> None:
        match order["do"]:
            case "close":
                socket.send(b"last words")
                socket.close(order["code"], order.get("reason", ""))
                socket.send(b"never sent")
            case "count":
                socket.send(b"%d" % self.frames_in())
            case "raise":
                raise RuntimeError(order)
            case "send":
                for _ in range(order["times"]):
                    socket.send(b"x" * order["size"])
            case "who":
                who = {"id": socket.id, "token": socket.token, "origin": socket.origin}
                who |= {"remote": socket.remote, "subprotocol": socket.subprotocol}
                socket.send(json.dumps(who).encode())

    def closed(self, socket: Socket, code: int) -> None:
        self.closed_codes.append(code)


class Silent:
    """Counts, answers nothing."""

    def __init__(self) -> None:
        self.messages = 0

    def opened(self, socket: Socket) -> None:
        return

    def received(self, socket: Socket, text: str) -> None:
        self.messages += 1

    def closed(self, socket: Socket, code: int) -> None:
        return


def resident_kib() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    return 0


def application(sockets: SocketServer, echo: Echo) -> Starlette:
    async def hello(request: Request) -> Response:
        return PlainTextResponse("hello")

    async def body(request: Request) -> Response:
        return PlainTextResponse(str(len(await request.body())))

    async def stats(request: Request) -> Response:
        counters = sockets.counters
        numbers = dataclasses.asdict(counters)
        numbers |= {"sockets": len(sockets.sockets), "transports": sockets.transports}
        numbers |= {"closed_codes": echo.closed_codes, "after_close": echo.after_close}
        numbers |= {"buffered": sum(s.buffered for s in sockets.sockets.values())}
        return JSONResponse(numbers | {"rss_kib": resident_kib(), "waiting": sockets.wheel.size})

    async def close_all(request: Request) -> Response:
        sockets.close_all(4000, "drain")
        await sockets.wait_empty()
        return PlainTextResponse("gone")

    def left(request: Request, exc: Exception) -> Response:
        return Response(status_code=400)

    return Starlette(
        exception_handlers={ClientDisconnect: left},
        routes=[
            Route("/hello", hello),
            Route("/body", body, methods=["POST"]),
            Route("/stats", stats),
            Route("/close-all", close_all, methods=["POST"]),
        ],
    )


async def main(options: dict[str, Any]) -> None:
    origins = options.get("origins")
    settings = SocketSettings(
        limits=msgspec.convert(options.get("limits", {}), Limits),
        allowed_origins=None if origins is None else frozenset(origins),
        **options.get("settings", {}),
    )
    echo = Echo()
    front = make_front({"/echo": echo, "/silent": Silent()}, settings)
    echo.frames_in = lambda: front.sockets.counters.frames_in
    listener = listen("127.0.0.1", 0, user_timeout_s=options.get("user_timeout_s", 15.0))
    config = uvicorn.Config(
        application(front.sockets, echo),
        http=front,
        ws="none",
        backlog=4096,
        log_level="warning",
        access_log=False,
        lifespan="off",
        ssl_certfile=options.get("certfile"),
        ssl_keyfile=options.get("keyfile"),
    )
    server = Announcing(config)
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if not sys.stdin.buffer.read(1):
            server.should_exit = True

    loop.add_reader(sys.stdin.fileno(), stop)
    await server.serve(sockets=[listener])


class Announcing(uvicorn.Server):
    """Says on standard output which port it listens on, once it does."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        assert sockets
        print(json.dumps({"port": sockets[0].getsockname()[1]}), flush=True)  # noqa: T201


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    given = json.loads(sys.argv[1])
    if given.get("loop") == "uvloop":
        import uvloop

        uvloop.run(main(given))
    else:
        asyncio.run(main(given))
