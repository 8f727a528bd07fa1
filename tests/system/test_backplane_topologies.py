"""The backplane on Sentinel and on a Cluster, and over a link to Redis that is half open."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest
from coturn import LOOPBACK
from node_peers import peer, ticket
from nodes import Node, start_nodes
from redis_server import RedisServer, start_cluster, start_redis, start_sentinel
from rtc import until

pytestmark = pytest.mark.redis
MASTERS = 3


@pytest.fixture
def masters() -> Iterator[list[RedisServer]]:
    """A Cluster that has all slots."""
    with start_cluster(MASTERS) as servers:
        yield servers


async def test_on_a_cluster_a_killed_node_loses_nothing(
    masters: list[RedisServer], tmp_path: Path
) -> None:
    url = f"redis+cluster://{LOOPBACK}:{masters[0].port}"
    with start_nodes(tmp_path, url, ("a", "b", "c")) as (a, b, c):
        async with peer(a, "first", "other"), peer(b, "alice") as alice:
            async with peer(a, "bob") as bob:
                await alice.hear("peer_joined", identity="bob")
                address, resume = bob.welcome["peer"], ticket(bob)
                await asyncio.to_thread(a.kill)
            for number in range(10):
                answer = await alice.ask("message", 1 + number, to=address, data=number)
                assert answer["type"] == "ok"
            async with peer(c, "bob", None, resume=resume) as again:
                await until(lambda: len(again.numbers()) == 10)
                assert again.numbers() == list(range(10))


async def test_a_failover_under_sentinel_loses_nothing_silently(tmp_path: Path) -> None:
    with start_redis() as master, start_redis() as replica:
        replica.command("REPLICAOF", LOOPBACK, str(master.port))
        replica.wait_for("INFO", "replication", expected="master_link_status:up")
        with start_sentinel(master, "main") as sentinel:
            sentinel.wait_for("SENTINEL", "replicas", "main", expected=str(replica.port))
            url = f"redis+sentinel://{LOOPBACK}:{sentinel.port}/main"
            with start_nodes(tmp_path, url, ("a", "b")) as (a, b):
                async with peer(a, "alice") as alice, peer(b, "bob") as bob:
                    await alice.hear("peer_joined", identity="bob")
                    address, resume = bob.welcome["peer"], ticket(bob)
                    await asyncio.to_thread(master.kill)
                    for number in range(5):
                        answer = await alice.ask("message", 1 + number, to=address, data=number)
                        assert answer["type"] == "ok"
                    await until(lambda: a.is_ready and b.is_ready, 20)
                    if bob.closed_with is None:
                        await until(lambda: len(bob.numbers()) == 5)
                        assert bob.numbers() == list(range(5))
                    else:
                        resume["last_seq"] = bob.seq
                        heard = bob.numbers()
                        async with peer(b, "bob", None, resume=resume) as again:
                            await until(lambda: len(heard + again.numbers()) == 5)
                            assert heard + again.numbers() == list(range(5))


class Line:
    """TCP to Redis that can fall silent without being closed."""

    def __init__(self, port: int) -> None:
        self.is_silent = False
        self._redis_port = port
        self._writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, thither = await asyncio.open_connection(LOOPBACK, self._redis_port)
        self._writers += [writer, thither]
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(self._carry(reader, thither), self._carry(there, writer))

    async def close(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while octets := await reader.read(65536):
                while self.is_silent:  # noqa: ASYNC110 - nothing tells when a wire is cut
                    await asyncio.sleep(0.05)
                writer.write(octets)
                await writer.drain()
        writer.close()


@asynccontextmanager
async def line_to(redis: RedisServer) -> AsyncIterator[tuple[Line, int]]:
    line = Line(redis.port)
    server = await asyncio.start_server(line.serve, LOOPBACK, 0)
    try:
        yield line, server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await line.close()


async def test_a_half_open_link_to_redis_is_found_within_ten_seconds(tmp_path: Path) -> None:
    with start_redis() as redis:
        async with line_to(redis) as (line, port):

            def nodes() -> ExitStack:
                stack = ExitStack()
                cut = start_nodes(tmp_path, f"redis://{LOOPBACK}:{port}", ("a",))
                well = start_nodes(tmp_path, redis.url, ("b",))
                stack.push(stack.enter_context(ExitStack()))
                both.extend([*stack.enter_context(cut), *stack.enter_context(well)])
                return stack

            both: list[Node] = []
            stack = await asyncio.to_thread(nodes)
            try:
                a, b = both
                async with peer(a, "alice") as alice, peer(b, "bob") as bob:
                    await alice.hear("peer_joined", identity="bob")
                    resume = ticket(alice)
                    cut_at = time.monotonic()
                    line.is_silent = True
                    while await asyncio.to_thread(lambda: a.is_ready):
                        assert time.monotonic() - cut_at <= 10
                        await asyncio.sleep(0.1)
                    # The others go on, and so does alice's session, elsewhere.
                    answer = await bob.ask("message", 1, to=alice.welcome["peer"], data=1)
                    assert answer["type"] == "ok"
                    async with peer(b, "alice", None, resume=resume) as again:
                        await again.hear("message", data=1)
                        line.is_silent = False
                        await until(lambda: alice.closed_with is not None, 15)
                        await until(lambda: a.is_ready, 15)
                        answer = await bob.ask("message", 2, to=alice.welcome["peer"], data=2)
                        assert answer["type"] == "ok"
                        await again.hear("message", data=2)
            finally:
                await asyncio.to_thread(stack.close)
