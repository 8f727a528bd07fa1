"""Starlette routes that answer a fixed JSON document: what uvicorn and Starlette cost alone.

Served with the same options as `python -m turn_broker`; prints {"url": ...} when it is ready.
"""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

_PORTS = ((3478, "udp"), (3478, "tcp"), (443, "tcp"))
_URLS = [f"turn:turn.example.org:{port}?transport={kind}" for port, kind in _PORTS]
_SERVERS = [{"urls": _URLS, "username": "1" * 44, "credential": "c" * 28}]
_ANSWER: dict[str, Any] = {
    "iceServers": _SERVERS,
    "ice_servers": _SERVERS,
    "username": "1" * 44,
    "ttl": 3600,
    "expires_at": 1_800_000_000,
    "id": "i" * 33,
}
"""As large as the broker's."""


async def answer(_: Request) -> Response:
    return JSONResponse(_ANSWER)


async def answer_form(request: Request) -> Response:
    await request.body()
    return JSONResponse(_ANSWER, 201)


def main() -> None:
    # With the protocol named, asyncio turns Nagle off, as for a listener of its own.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    app = Starlette(routes=[Route("/", answer), Route("/", answer_form, methods=["POST"])])
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="warning",
        server_header=False,
    )
    print(json.dumps({"url": f"http://127.0.0.1:{listener.getsockname()[1]}"}), flush=True)
    asyncio.run(uvicorn.Server(config).serve(sockets=[listener]))


if __name__ == "__main__":
    main()
