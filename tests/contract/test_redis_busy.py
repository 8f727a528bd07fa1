"""Busy streams: a kept connection must never give one command another's answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from coturn import LOOPBACK, free_port
from redis_server import SLOTS, RedisServer, has_redis, start_cluster, start_redis
from turn_client import eventually

from turn_broker.fleet.contract import FleetUnavailable
from turn_broker.fleet.redis_busy import MAX_KEPT, Addition, BusyStreams, busy_streams
from turn_broker.fleet.redis_stream import call
from turn_broker.fleet.redis_url import RedisClient, connect

pytestmark = pytest.mark.redis
BLOCK_MS = 2000


@pytest.fixture(scope="module", params=["server", "cluster"])
def running(request: pytest.FixtureRequest) -> Iterator[list[RedisServer]]:
    """One server, or a Cluster of two masters."""
    if not has_redis():
        pytest.skip("no redis-server")
    if request.param == "server":
        with start_redis() as server:
            yield [server]
    else:
        with start_cluster(2) as masters:
            yield masters


@pytest.fixture
def servers(running: list[RedisServer]) -> list[RedisServer]:
    """Empty."""
    for server in running:
        server.command("FLUSHALL")
    return running


@asynccontextmanager
async def opened(servers: list[RedisServer]) -> AsyncIterator[tuple[BusyStreams, RedisClient]]:
    url = servers[0].url
    if len(servers) > 1:
        url = f"redis+cluster://{LOOPBACK}:{servers[0].port}"
    client = connect(url)
    try:
        yield busy_streams(client), client
    finally:
        await client.aclose()


async def values(streams: BusyStreams, stream: str, after: str = "0-0") -> list[bytes]:
    return [fields[b"f"] for _, fields in await streams.read(stream, after, 100, None)]


async def test_entries_of_several_streams_are_read_in_their_order(
    servers: list[RedisServer],
) -> None:
    async with opened(servers) as (streams, _):
        names = [f"stream-{number}" for number in range(8)]
        await streams.add(
            [Addition(name, "f", b"%d" % each) for each in range(3) for name in names]
        )
        for name in names:
            assert await values(streams, name) == [b"0", b"1", b"2"]
        first = (await streams.read(names[0], "0-0", 1, None))[0][0].decode()
        assert await values(streams, names[0], first) == [b"1", b"2"]
        assert await streams.read("nothing", "0-0", 1, 1) == []


async def test_a_stream_is_kept_short(servers: list[RedisServer]) -> None:
    async with opened(servers) as (streams, client):
        for _ in range(10):
            await streams.add([Addition("short", "f", b"x", max_len=100)] * 50)
        assert await client.xlen("short") < 300


async def test_a_read_waits_for_what_comes(servers: list[RedisServer]) -> None:
    async with opened(servers) as (streams, _):
        reading = asyncio.create_task(streams.read("later", "0-0", 10, BLOCK_MS))
        await asyncio.sleep(0)
        await streams.add([Addition("later", "f", b"x")])
        ((_, fields),) = await reading
        assert fields == {b"f": b"x"}


async def test_a_cancelled_read_leaves_its_answer_to_nobody(servers: list[RedisServer]) -> None:
    async with opened(servers) as (streams, client):
        await streams.add([Addition("other", "f", b"right")])
        for _ in range(2 * MAX_KEPT):
            reading = asyncio.create_task(streams.read("later", "$", 10, BLOCK_MS))
            await eventually(lambda: _is_waiting(servers))
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            await client.xadd("later", {"f": "wrong"})
            assert await values(streams, "other") == [b"right"]


def _is_waiting(servers: list[RedisServer]) -> bool:
    return any("blocked_clients:1" in server.command("INFO", "clients") for server in servers)


async def test_many_at_once_are_served_and_their_connections_given_back(
    servers: list[RedisServer],
) -> None:
    async with opened(servers) as (streams, _):
        for _ in range(5):
            adding = [streams.add([Addition(f"s{number}", "f", b"x")]) for number in range(24)]
            await asyncio.gather(*adding)
        assert len(await values(streams, "s23")) == 5


async def test_a_failed_command_spoils_no_other(servers: list[RedisServer]) -> None:
    async with opened(servers) as (streams, client):
        await client.set("{a}text", "no stream")
        wrong = [Addition("{a}text", "f", b"1"), Addition("{a}stream", "f", b"2")]
        with pytest.raises(FleetUnavailable, match="ResponseError"):
            await streams.add(wrong)
        await streams.add([Addition("{a}last", "f", b"3")])
        assert await values(streams, "{a}last") == [b"3"]


async def test_after_redis_was_restarted_the_next_command_is_done(
    servers: list[RedisServer],
) -> None:
    async with opened(servers) as (streams, _):
        await streams.add([Addition("stream", "f", b"1")])
        await asyncio.gather(*(streams.read("stream", "0-0", 1, None) for _ in range(3)))
        for server in servers:
            server.kill()
        with pytest.raises(FleetUnavailable):
            await streams.add([Addition("stream", "f", b"lost")])
        for server in servers:
            server.start()
        if len(servers) > 1:
            for server in servers:
                server.wait_for("CLUSTER", "INFO", expected="cluster_state:ok")
        await streams.add([Addition("stream", "f", b"2")])
        assert await values(streams, "stream") == [b"1", b"2"]


async def test_connections_that_redis_has_closed_are_not_used(servers: list[RedisServer]) -> None:
    async with opened(servers) as (streams, _):
        await asyncio.gather(*(streams.add([Addition("stream", "f", b"x")]) for _ in range(4)))
        for server in servers:
            server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            server.wait_for("INFO", "clients", expected="connected_clients:1\r")
        for _ in range(5):
            await asyncio.sleep(0)  # The loop hears of it.
        await asyncio.gather(*(streams.add([Addition("stream", "f", b"y")]) for _ in range(4)))
        assert await values(streams, "stream") == [b"x"] * 4 + [b"y"] * 4


async def test_of_a_hung_redis_no_connection_is_kept(servers: list[RedisServer]) -> None:
    """Each of them would be waited for."""
    async with opened(servers) as (streams, _):
        await asyncio.gather(*(streams.add([Addition("stream", "f", b"x")]) for _ in range(4)))
        for server in servers:
            server.hang()
        try:
            with pytest.raises(FleetUnavailable):
                await streams.add([Addition("stream", "f", b"y")])
        finally:
            for server in servers:
                server.resume()
        if len(servers) == 1:
            gone = "connected_clients:1\r"
            await asyncio.to_thread(servers[0].wait_for, "INFO", "clients", expected=gone)
        assert (await values(streams, "stream"))[:4] == [b"x"] * 4


@pytest.mark.parametrize("running", ["cluster"], indirect=True)
async def test_a_slot_is_followed_where_it_moves(servers: list[RedisServer]) -> None:
    async with opened(servers) as (streams, client):
        await streams.add([Addition("moving", "f", b"1")])
        slot = client.keyslot("moving")  # type: ignore[union-attr]
        source, target = servers if slot < SLOTS // 2 else servers[::-1]
        ids = [server.command("CLUSTER", "MYID").split()[1] for server in (source, target)]
        target.command("CLUSTER", "SETSLOT", str(slot), "IMPORTING", ids[0])
        source.command("CLUSTER", "SETSLOT", str(slot), "MIGRATING", ids[1])
        source.command("MIGRATE", LOOPBACK, str(target.port), "moving", "0", "5000")
        # Half moved: asked for at its new place, which is not the slot's yet.
        await streams.add([Addition("moving", "f", b"2"), Addition("moving", "f", b"3")])
        assert await values(streams, "moving") == [b"1", b"2", b"3"]
        for server in (target, source):
            server.command("CLUSTER", "SETSLOT", str(slot), "NODE", ids[1])
        await streams.add([Addition("moving", "f", b"4")])
        assert await values(streams, "moving") == [b"1", b"2", b"3", b"4"]


async def test_a_cluster_that_cannot_be_reached_is_unavailable() -> None:
    client = connect(f"redis+cluster://{LOOPBACK}:{free_port()}")
    try:
        with pytest.raises(FleetUnavailable):
            await busy_streams(client).add([Addition("stream", "f", b"x")])
        with pytest.raises(FleetUnavailable):
            await call(client.exists("stream"))
    finally:
        await client.aclose()
