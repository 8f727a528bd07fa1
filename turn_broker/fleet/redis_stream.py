"""Follows Redis streams without an end: lost connections, trimmed and forgotten entries included.

It does not know what the entries mean.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import Any, NamedTuple, TypeVar

import msgspec
from redis.exceptions import RedisClusterException, RedisError

from turn_broker.fleet.contract import FleetUnavailable
from turn_broker.fleet.patience import Patience
from turn_broker.fleet.redis_url import CALL_TIMEOUT_S, RedisClient

BLOCK_MS = 1500
"""How long Redis holds a read that finds nothing; well below `CALL_TIMEOUT_S`."""
MAX_READ = 500
"""Entries in one answer."""
FIRST_PAUSE_S = 0.05
MAX_PAUSE_S = 2.0

T = TypeVar("T")
log = logging.getLogger("parley.fleet")


class Entry(NamedTuple):
    stream: str
    fields: dict[bytes, bytes]


async def call(awaitable: Awaitable[Any], patience: Patience | None = None) -> Any:
    """Redis' answer; FleetUnavailable when it gives none in time, or an error."""
    try:
        if patience is not None:
            return await patience.wait(awaitable)
        async with asyncio.timeout(CALL_TIMEOUT_S):
            return await awaitable
    except (RedisError, RedisClusterException, OSError, TimeoutError) as flaw:
        # The text of an error may hold keys or an address: its kind is enough.
        raise FleetUnavailable(f"Redis: {type(flaw).__name__}") from flaw


class Persistence:
    """Tries again until it succeeds or is told to stop, with jittered pauses that grow."""

    def __init__(self) -> None:
        self._stopped = asyncio.Event()
        self.failures = 0
        """Attempts that failed, ever."""

    @property
    def is_stopped(self) -> bool:
        return self._stopped.is_set()

    def stop(self) -> None:
        self._stopped.set()

    async def insist(self, attempt: Callable[[], Awaitable[T]]) -> T | None:
        """What `attempt` returns once it does not raise FleetUnavailable; None when stopped."""
        pause_s = FIRST_PAUSE_S
        while not self.is_stopped:
            try:
                return await attempt()
            except FleetUnavailable:
                self.failures += 1
            try:
                async with asyncio.timeout(pause_s * random.uniform(0.5, 1.0)):  # noqa: S311
                    await self._stopped.wait()
            except TimeoutError:
                pause_s = min(2 * pause_s, MAX_PAUSE_S)
        return None


async def follow(
    client: RedisClient, persistence: Persistence, *streams: str
) -> AsyncGenerator[Entry | None, None]:
    """None at first and after everything that may have been missed, then the entries since.

    At a None the reader takes the state as it is now; what it then hears twice does no harm.
    """
    places: dict[str, int] | None = None
    while not persistence.is_stopped:
        if places is None:
            places = await persistence.insist(lambda: _ends(client, streams))
            yield None
            continue
        try:
            found = await _read(client, places)
            if not found and not await _is_at_end(client, places):
                places = None
        except FleetUnavailable:
            places = None
            continue
        for stream, number, fields in found:
            if places is None or number != places[stream] + 1:
                places = None
                break
            places[stream] = number
            yield Entry(stream, fields)


async def _read(client: RedisClient, places: dict[str, int]) -> list[tuple[str, int, Any]]:
    after: dict[Any, Any] = {stream: f"0-{number}" for stream, number in places.items()}
    answer = await call(client.xread(after, count=MAX_READ, block=BLOCK_MS))
    return [
        (stream.decode(), int(entry_id.partition(b"-")[2]), fields)
        for stream, entries in answer or ()
        for entry_id, fields in entries
    ]


async def _ends(client: RedisClient, streams: tuple[str, ...]) -> dict[str, int]:
    ends = {}
    for stream in streams:
        newest = await call(client.xrevrange(stream, count=1))
        ends[stream] = int(newest[0][0].partition(b"-")[2]) if newest else 0
    return ends


async def _is_at_end(client: RedisClient, places: dict[str, int]) -> bool:
    """False when Redis has forgotten what was read: then new entries would begin at 0-1 again."""
    ends = await _ends(client, tuple(places))
    return all(ends[stream] >= places[stream] for stream in places)


def all_decoded(rows: Iterable[bytes], kind: type[T]) -> list[T]:
    """Without what another version wrote, of which the log has a word."""
    found = []
    for row in rows:
        try:
            found.append(msgspec.json.decode(row, type=kind))
        except msgspec.DecodeError:
            log.warning("a record in Redis is of another version", extra={"kind": kind.__name__})
    return found
