"""Adds to busy streams and reads them, for little more than what the system calls cost.

redis-py's way to a connection and back (pool, retries, metrics) costs more than twice what the
command costs itself. So connections are kept between commands, and the answers taken as they are.
Whatever is out of the ordinary in a Cluster is left to redis-py. It does not know what the
entries mean.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import hiredis
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisClusterException, RedisError

from turn_broker.fleet.patience import Patience
from turn_broker.fleet.redis_stream import call
from turn_broker.fleet.redis_url import CALL_TIMEOUT_S, RedisClient

MAX_KEPT = 8
"""Connections kept between commands; further ones go back into the pool."""

Command = tuple[str | bytes | int, ...]
Found = tuple[bytes, dict[bytes, bytes]]
"""An entry's id and fields."""


class Addition(NamedTuple):
    """An entry of one field to be added."""

    stream: str
    field: str
    value: bytes
    max_len: int | None = None
    """About so many entries are kept."""

    @property
    def command(self) -> Command:
        limit = () if self.max_len is None else ("MAXLEN", "~", self.max_len)
        return ("XADD", self.stream, *limit, "*", self.field, self.value)


class BusyStreams(Protocol):
    """Raises FleetUnavailable as `call` does."""

    async def add(self, additions: Sequence[Addition]) -> None:
        """Those of one stream in this order. After a failure some may have been added; where a
        Cluster changes, even twice."""

    async def read(self, stream: str, after: str, count: int, block_ms: int | None) -> list[Found]:
        """The next entries; waits for them when `block_ms` is given."""
        ...


def busy_streams(client: RedisClient) -> BusyStreams:
    return _InCluster(client) if isinstance(client, RedisCluster) else _AtServer(client)


class _AtServer:
    """One server, or Sentinel's master."""

    def __init__(self, client: Redis) -> None:
        self._pool = client.connection_pool
        self._patience = Patience(CALL_TIMEOUT_S)
        self._kept: list[AbstractConnection] = []

    async def add(self, additions: Sequence[Addition]) -> None:
        await call(self._ask([each.command for each in additions]), self._patience)

    async def read(self, stream: str, after: str, count: int, block_ms: int | None) -> list[Found]:
        command = _read(stream, after, count, block_ms)
        return _entries_of(await call(self._ask([command]), self._patience))

    async def _ask(self, commands: Sequence[Command]) -> list[Any]:
        connection = await self._take()
        try:
            return await _exchange(connection, commands)
        finally:
            await self._give_back(connection)

    async def _take(self) -> AbstractConnection:
        while self._kept:
            connection = self._kept.pop()
            if connection.is_connected and not await connection.can_read():
                return connection
            await self._pool.release(connection)
        taken: AbstractConnection = await self._pool.get_connection()  # type: ignore[no-untyped-call]
        return taken

    async def _give_back(self, connection: AbstractConnection) -> None:
        if connection.is_connected and len(self._kept) < MAX_KEPT:
            self._kept.append(connection)
            return
        await self._pool.release(connection)
        if not connection.is_connected:
            # The others may lead to a master that is gone, too, and each of them would wait for it.
            while self._kept:
                other = self._kept.pop()
                await other.disconnect(nowait=True)
                await self._pool.release(other)


class _InCluster:
    """Asks where the slot was; when it is not there, redis-py finds out where it is now."""

    def __init__(self, client: RedisCluster) -> None:
        self._client = client
        self._patience = Patience(CALL_TIMEOUT_S)

    async def add(self, additions: Sequence[Addition]) -> None:
        streams: dict[str, list[Command]] = {}
        for each in additions:
            streams.setdefault(each.stream, []).append(each.command)
        adding = (self._add(*each) for each in streams.items())
        await call(asyncio.gather(*adding), self._patience)

    async def _add(self, stream: str, commands: Sequence[Command]) -> None:
        try:
            await self._ask(stream, commands)
        except (RedisError, RedisClusterException):
            for command in commands:
                await self._client.execute_command(*command)

    async def read(self, stream: str, after: str, count: int, block_ms: int | None) -> list[Found]:
        reading = self._read(stream, after, count, block_ms)
        found: list[Found] = await call(reading, self._patience)
        return found

    async def _read(self, stream: str, after: str, count: int, block_ms: int | None) -> list[Found]:
        try:
            return _entries_of(await self._ask(stream, [_read(stream, after, count, block_ms)]))
        except (RedisError, RedisClusterException):
            answer: Any = await self._client.xread({stream: after}, count=count, block=block_ms)
            return list(answer[0][1]) if answer else []

    async def _ask(self, stream: str, commands: Sequence[Command]) -> list[Any]:
        await self._client.initialize()
        node: Any = self._client.get_node_from_key(stream)
        connection = node.acquire_connection()
        try:
            await node.disconnect_if_needed(connection)
            return await _exchange(connection, commands)
        finally:
            node.release(connection)


def _read(stream: str, after: str, count: int, block_ms: int | None) -> Command:
    block = () if block_ms is None else ("BLOCK", block_ms)
    return ("XREAD", "COUNT", count, *block, "STREAMS", stream, after)


async def _exchange(connection: AbstractConnection, commands: Sequence[Command]) -> list[Any]:
    """The commands' answers."""
    try:
        packed = b"".join(hiredis.pack_command(each) for each in commands)  # type: ignore[arg-type]
        await connection.send_packed_command(packed, check_health=False)
        return [await connection.read_response() for _ in commands]
    except BaseException:
        # Answers that are still to come must not be taken for another command's.
        await connection.disconnect(nowait=True)
        raise


def _entries_of(answers: list[Any]) -> list[Found]:
    """Of a read of one stream in RESP2."""
    (answer,) = answers
    if not answer:
        return []
    ((_, entries),) = answer
    return [
        (entry_id, dict(zip(fields[::2], fields[1::2], strict=True)))
        for entry_id, fields in entries
    ]
