"""Peers that flood, stall, vanish or just talk a lot: nobody else may notice."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from conformance.socket_wire import (
    PING,
    PONG,
    TEXT,
    EchoServer,
    RawClient,
    echo_server,
    eventually,
    masked,
)
from websockets.asyncio.client import connect

from signal_server.wire.limits import Limits

FLOOD = 200_000
QUESTIONS = 2000
"""Of the neighbour of a flood; they fit into the buffers of a connection."""
LOOPS = ["asyncio", "uvloop"]


def kernel_queues(port: int, *, received: bool = False) -> int:
    """Bytes unsent, or unread, that the kernel holds for the port, also of closed sockets."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    queues = [row[4].split(":") for row in rows if row[1].endswith(f":{port:04X}")]
    return sum(int(queue[received], 16) for queue in queues)


@contextlib.contextmanager
def flood(client: RawClient, stream: bytes) -> Iterator[None]:
    """Send from one thread and read from another, so that only the server sets the pace."""

    def read() -> None:
        with contextlib.suppress(OSError):
            while client.tcp.recv(1 << 20):
                pass

    def write() -> None:
        with contextlib.suppress(OSError):
            client.tcp.sendall(stream)

    client.tcp.settimeout(60)
    threads = [threading.Thread(target=read), threading.Thread(target=write)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        threads[1].join()
        client.tcp.shutdown(socket.SHUT_RDWR)
        threads[0].join()
        client.tcp.close()


@pytest.mark.parametrize(
    ("opening", "frame"),
    [
        pytest.param(b"", masked(PING), id="ping"),
        pytest.param(b"", masked(PONG), id="pong"),
        pytest.param(masked(0x01), masked(0x00), id="continuation"),
        pytest.param(b"", masked(TEXT), id="empty text"),
    ],
)
def test_a_flood_of_tiny_frames_does_not_stall_a_neighbour(
    echo: EchoServer, opening: bytes, frame: bytes
) -> None:
    """Counted by the server, while bytes of both wait for it: what it does in between is its own.

    Clocks would measure the machine too.
    """
    before = echo.stats()["frames_in"]
    questions = masked(TEXT, b'!{"do": "count"}') * QUESTIONS
    with echo.open() as neighbour, contextlib.ExitStack() as flooding:
        client = echo.open("/silent")
        echo.process.send_signal(signal.SIGSTOP)
        try:
            neighbour.send(questions)
            flooding.enter_context(flood(client, opening + frame * FLOOD))
            eventually(lambda: kernel_queues(echo.port, received=True) > 2 * len(questions))
        finally:
            echo.process.send_signal(signal.SIGCONT)
        handled = [int(neighbour.text()) for _ in range(QUESTIONS)]
        eventually(lambda: echo.stats()["frames_in"] >= before + FLOOD + QUESTIONS, 60)
    steps = [later - earlier for earlier, later in pairwise(handled)]
    assert sum(steps) > 1.5 * QUESTIONS, "there was no flood meanwhile"
    # Both have their turn in every tick, and the counter runs ahead by the rest of a turn.
    assert max(steps) <= 4 * Limits().frames_per_tick


@pytest.mark.parametrize("loop", LOOPS)
def test_a_client_that_stops_reading_is_cut_and_its_memory_freed(loop: str) -> None:
    with echo_server(loop=loop, limits={"outbound_bytes": 1 << 20}) as server:
        start = server.stats()["rss_kib"]
        clients = [server.connect(receive_buffer=4096).upgrade() for _ in range(20)]
        with server.open() as neighbour:
            for client in clients:
                client.order(do="send", times=400, size=20_000)
            eventually(lambda: server.stats()["slow"] == len(clients))
            neighbour.send(masked(TEXT, b"fine"))
            assert neighbour.text() == "fine"
            stats = server.stats()
            assert stats["closed_codes"] == [4002] * len(clients)
            assert stats["closed_by_us"] == {"4002": len(clients)}
            eventually(lambda: server.stats()["sockets"] == 1)
            assert server.stats()["buffered"] == 0
            eventually(lambda: kernel_queues(server.port) == 0)
            assert server.stats()["rss_kib"] - start < 12_000
        for client in clients:
            client.tcp.close()


@pytest.mark.parametrize("loop", LOOPS)
def test_a_slow_leak_is_cut_too(loop: str) -> None:
    """The limit holds over many loop ticks, not only inside one."""
    with echo_server(loop=loop, limits={"outbound_bytes": 200_000}) as server:
        client = server.connect(receive_buffer=4096).upgrade()
        client.tcp.settimeout(1)
        with contextlib.suppress(OSError):
            for _ in range(1000):
                client.send(masked(TEXT, b"x" * 10_000))
        eventually(lambda: server.stats()["slow"] == 1)
        assert server.stats()["closed_codes"] == [4002]
        client.tcp.close()


@pytest.mark.parametrize("loop", LOOPS)
def test_a_peer_whose_window_is_shut_is_freed_after_our_close(loop: str) -> None:
    with echo_server(loop=loop, settings={"close_timeout_s": 0.3}) as server:
        client = server.connect(receive_buffer=4096).upgrade()
        client.order(do="send", times=50, size=20_000)
        client.order(do="close", code=4000)
        eventually(lambda: server.stats()["sockets"] == 0)
        assert server.stats()["closed_codes"] == [4000]
        eventually(lambda: kernel_queues(server.port) == 0)
        client.tcp.close()


@pytest.mark.parametrize("loop", LOOPS)
def test_a_silent_peer_is_pinged_and_then_cut(loop: str) -> None:
    limits = {"ping_interval_s": 0.6, "ping_timeout_s": 0.4}
    with echo_server(loop=loop, limits=limits) as server:
        started = time.monotonic()
        with server.open() as client:
            assert client.frame() == (PING, b"")
            assert time.monotonic() - started > 0.4
            assert client.ended() == b""
            assert time.monotonic() - started > 0.8
        stats = server.stats()
        assert stats["closed_codes"] == [4001]
        assert (stats["ping_timeout"], stats["sockets"], stats["waiting"]) == (1, 0, 0)


@pytest.mark.parametrize(
    ("interval_s", "timeout_s"), [(1.5, 1.2), (0.3, 3.0)], ids=["short", "long"]
)
def test_a_peer_that_answers_pings_stays(interval_s: float, timeout_s: float) -> None:
    """Also where a ping may go unanswered for longer than the pause between two."""
    limits = {"ping_interval_s": interval_s, "ping_timeout_s": timeout_s}
    with echo_server(limits=limits) as server, server.open() as client:
        for _ in range(3):
            assert client.frame() == (PING, b"")
            client.send(masked(PONG))
        client.send(masked(TEXT, b"alive"))
        assert client.text() == "alive"


def test_a_peer_that_talks_is_not_pinged() -> None:
    limits = {"ping_interval_s": 1.5, "ping_timeout_s": 0.4}
    with echo_server(limits=limits) as server, server.open() as client:
        stop = time.monotonic() + 2.5
        while time.monotonic() < stop:
            client.send(masked(TEXT, b"chatter"))
            assert client.text() == "chatter"
            time.sleep(0.05)
        assert server.stats()["closed_codes"] == []


@pytest.mark.parametrize("loop", LOOPS)
def test_a_server_that_was_stopped_does_not_blame_its_peers(loop: str) -> None:
    limits = {"ping_interval_s": 0.3, "ping_timeout_s": 1.5}
    with echo_server(loop=loop, limits=limits) as server, server.open() as client:
        assert client.frame() == (PING, b"")
        client.send(masked(PONG))
        server.process.send_signal(signal.SIGSTOP)
        time.sleep(2.5)
        server.process.send_signal(signal.SIGCONT)
        assert client.frame() == (PING, b"")
        # A round trip to the other side of the world.
        time.sleep(0.15)
        client.send(masked(PONG) + masked(TEXT, b"slept well?"))
        assert client.text() == "slept well?"


async def test_interop_with_the_websockets_client(echo: EchoServer) -> None:
    random_source = random.Random(7)
    texts = ["", "a", "ü" * 60, "🙂" * 100] + [
        "".join(random_source.choices("abc€🙂\u0000", k=size)) for size in (1000, 20_000, 40_000)
    ]
    async with connect(f"ws://127.0.0.1:{echo.port}/echo") as client:
        assert client.protocol.extensions == []
        for text in texts:
            await client.send(text)
            assert await client.recv() == text
        for text in texts:
            cuts = [text[i : i + 777] for i in range(0, len(text), 777)]
            await client.send(cuts or [""])
            assert await client.recv() == text
        await (await client.ping(b"payload"))
    assert client.close_code == 1000


async def test_interop_many_clients_at_once(echo: EchoServer) -> None:
    async def talk(number: int) -> None:
        async with connect(f"ws://127.0.0.1:{echo.port}/echo") as client:
            for i in range(20):
                await client.send(f"{number}-{i}")
            assert [await client.recv() for i in range(20)] == [f"{number}-{i}" for i in range(20)]

    await asyncio.gather(*(talk(number) for number in range(50)))
    await asyncio.to_thread(eventually, lambda: echo.stats()["sockets"] == 0)


def test_random_streams_end_in_a_close_or_silence_never_in_a_stall(echo: EchoServer) -> None:
    noise = random.Random(11)
    errors = echo.stats()["endpoint_errors"]
    for _ in range(150):
        with echo.open("/silent") as client:
            with contextlib.suppress(OSError):
                client.send(noise.randbytes(noise.randrange(1, 400)))
                client.tcp.shutdown(socket.SHUT_WR)
            client.ended()
    eventually(lambda: echo.stats()["sockets"] == 0)
    assert echo.stats()["endpoint_errors"] == errors


def test_nothing_is_left_of_connections_that_come_and_go(echo: EchoServer) -> None:
    def round_of(count: int) -> None:
        for _ in range(count):
            with echo.open() as client:
                client.send(masked(TEXT, b"hello"))
                assert client.text() == "hello"

    round_of(300)
    before = echo.stats()["rss_kib"]
    round_of(1500)
    eventually(lambda: echo.stats()["sockets"] == 0)
    stats = echo.stats()
    assert stats["transports"] == 1
    assert stats["rss_kib"] - before < 1500
