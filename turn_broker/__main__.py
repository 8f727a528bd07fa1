"""`python -m turn_broker`: the credential broker alone, without signaling or a relay.

Serves the native endpoint, the dialects, `/healthz`, `/readyz`, `/metrics` and `/openapi.json`.
Prints `{"url": ...}` on standard output when it is ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click
import uvicorn
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from turn_broker.cli import Refused, config_option
from turn_broker.config import BrokerSettings, SettingsError, check_secret, load
from turn_broker.guesses import Guesses
from turn_broker.openapi import openapi_document
from turn_broker.parts import accounts_of, store_of
from turn_broker.problem import framework_problem
from turn_broker.service import BrokerService
from turn_broker.shell import run

GC_THRESHOLDS = (20_000, 20, 50)
"""Tokens are remembered for hours and make no cycles: Python's 700, 10, 10 look at them all."""


def app_of(settings: BrokerSettings) -> Starlette:
    """The application; raises SettingsError."""
    accounts = accounts_of(settings.accounts, store_of(settings.turn))
    if settings.server.admin_token:
        check_secret("server.admin_token", settings.server.admin_token)
    service = BrokerService(
        settings.turn,
        accounts,
        default_account=settings.accounts[0].sid,
        admin_token=settings.server.admin_token,
        backplane_url=settings.backplane.url,
        guesses=Guesses(settings.guesses),
    )
    registry = CollectorRegistry()
    for collector in service.collectors():
        registry.register(collector)
    document = openapi_document(_version())

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await service.start()
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        try:
            yield
        finally:
            await service.stop()

    async def alive(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(_: Request) -> Response:
        is_ready = service.is_ready
        return JSONResponse({"status": "ok" if is_ready else "waiting"}, 200 if is_ready else 503)

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def openapi(_: Request) -> Response:
        return JSONResponse(document)

    cors = Middleware(
        CORSMiddleware,
        allow_origins=settings.cors.origins,
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["Authorization", "Content-Type"],
        expose_headers=["Retry-After"],
    )
    return Starlette(
        middleware=[cors] if settings.cors.origins else [],
        routes=[
            *service.routes(),
            Route("/healthz", alive),
            Route("/readyz", ready),
            Route("/metrics", metrics),
            Route("/openapi.json", openapi),
        ],
        exception_handlers={HTTPException: framework_problem},
        lifespan=lifespan,
    )


class _Server(uvicorn.Server):
    """Says where it listens as soon as it does, and ends with 0 when it is told to stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn's own raises the signal again after a clean shutdown, which reads as a crash.
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        click.echo(json.dumps({"url": url}))


@click.command()
@config_option
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), help="0 picks a free one.")
def main(path: Path | None, host: str | None, port: int | None) -> None:
    """Run the TURN credential broker alone."""
    try:
        settings = load(path)
        app = app_of(settings)
    except SettingsError as flaw:
        raise Refused(str(flaw)) from flaw
    options: dict[str, Any] = {
        "host": settings.server.host if host is None else host,
        "port": settings.server.port if port is None else port,
        "http": "h11",
        "ws": "none",
        "lifespan": "on",
        "access_log": False,
        "log_level": "warning",
        "server_header": False,
        "proxy_headers": bool(settings.server.trusted_proxies),
        "forwarded_allow_ips": settings.server.trusted_proxies,
        "timeout_graceful_shutdown": 5,
    }
    asyncio.run(_Server(uvicorn.Config(app, **options)).serve())


def _version() -> str:
    try:
        return version("parley-rtc")
    except PackageNotFoundError:
        return "0"


if __name__ == "__main__":
    run(main, "python -m turn_broker")
