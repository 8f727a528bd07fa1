"""A node that serves: its listening socket, its signals, and how it goes away.

It does not know what the node's parts are for.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket as stdlib_socket
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import uvicorn

from signal_server.app import Node
from signal_server.edge.front import listen
from signal_server.wire.codes import CloseCode

log = logging.getLogger("parley.app")

GC_THRESHOLDS = (20_000, 20, 50)
"""Sessions live long and make few cycles: Python's 700, 10, 10 look at all of them too often."""
BACKLOG = 4096
"""uvicorn calls listen() on our socket again, with its own number unless told."""


class _Server(uvicorn.Server):
    """uvicorn with our signals, and an event for being up."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_up = asyncio.Event()

    async def startup(self, sockets: list[stdlib_socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Running:
    """A node that serves; SIGTERM drains it, a second SIGTERM or SIGINT stops it at once."""

    def __init__(self, node: Node, *listeners: stdlib_socket.socket) -> None:
        self._node = node
        self._listeners = list(listeners)
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        node.on_drain = self.stop
        config = uvicorn.Config(
            node.app,
            http=node.front,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=2,
            backlog=BACKLOG,
            proxy_headers=bool(node.settings.server.trusted_proxies),
            forwarded_allow_ips=node.settings.server.trusted_proxies,
            h11_max_incomplete_event_size=64 * 1024,
        )
        self._server = _Server(config)

    async def serve(self, on_ready: Callable[[], None], drain_s: float) -> None:
        """Serve until told to stop; `drain_s` 0 goes down at once."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop, number == signal.SIGINT)
        await self._node.start()
        serving = loop.create_task(self._server.serve(sockets=self._listeners))
        try:
            await _first(serving, self._server.is_up.wait())
            gc.collect()
            gc.freeze()
            gc.set_threshold(*GC_THRESHOLDS)
            on_ready()
            await _first(serving, self._stopping.wait())
            await self._go_down(0.0 if self._hurry.is_set() else drain_s)
        finally:
            self._server.should_exit = True
            self._server.force_exit = True
            await serving
            await self._node.stop()

    def stop(self, at_once: bool = False) -> None:
        """Begin to drain; at once, or the second time, do not wait for peers."""
        if at_once or self._stopping.is_set():
            self._hurry.set()
        self._stopping.set()

    async def _go_down(self, drain_s: float) -> None:
        sockets = self._node.sockets
        self._node.dispatcher.drain("shutdown", drain_s)
        fallback = self._node.fallback
        if drain_s and (sockets.sockets or fallback.sessions):
            log.info("draining", extra={"connections": len(sockets.sockets) + fallback.sessions})
            hurry = asyncio.ensure_future(self._hurry.wait())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(drain_s):
                    await _first(hurry, self._all_gone())
            hurry.cancel()
        sockets.close_all(CloseCode.GO_AWAY, "shutdown")
        fallback.close_all(CloseCode.GO_AWAY, "shutdown")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._all_gone(), 0.5)

    async def _all_gone(self) -> None:
        await self._node.sockets.wait_empty()
        await self._node.fallback.wait_empty()


async def _first(task: asyncio.Future[Any], other: Coroutine[Any, Any, Any]) -> None:
    """Wait until either is done; the second is not left behind."""
    waiting = asyncio.ensure_future(other)
    try:
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()


def bind(host: str, port: int, *, is_shared: bool = False) -> stdlib_socket.socket:
    """The listening socket of the node, or its own of a port that several share; raises OSError."""
    return listen(host, port, reuse_port=is_shared)
