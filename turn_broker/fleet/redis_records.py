"""Token records in Redis: written behind those who ask for tokens, so that nobody waits for it.

Bounded: while Redis is away so many wait, and what is more is counted as lost. It does not know
what a record allows.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import msgspec

from turn_broker.fleet.messages import TokenRecord
from turn_broker.fleet.redis_stream import Persistence, all_decoded, call
from turn_broker.fleet.redis_url import RedisClient

MAX_PENDING = 20_000
"""Tokens that wait to be written."""
BATCH = 500
"""Written or read at once."""
FLUSH_S = 2.0
"""How long `flush` waits for what is still to be written."""


class TokenRecords:
    """`write` runs in a task of the owner's."""

    def __init__(
        self, client: RedisClient, key: Callable[[str], str], persistence: Persistence
    ) -> None:
        """`key` names the record of an opaque id."""
        self._redis: Any = client
        self._key = key
        self._persistence = persistence
        self._pending: dict[str, TokenRecord] = {}
        self._something_to_write = asyncio.Event()
        self._all_written = asyncio.Event()
        self._all_written.set()
        self.lost = 0
        """Records that were never written, for want of room or of Redis."""

    def put(self, token: TokenRecord) -> None:
        if len(self._pending) >= MAX_PENDING:
            self.lost += 1
            return
        self._pending[token.id] = token
        self._all_written.clear()
        self._something_to_write.set()

    async def get(self, ids: Sequence[str]) -> dict[str, TokenRecord]:
        """Those that are known, by id, expired or not. Raises FleetUnavailable."""
        found = {name: self._pending[name] for name in ids if name in self._pending}
        missing = [name for name in ids if name not in found]
        for start in range(0, len(missing), BATCH):
            keys = [self._key(name) for name in missing[start : start + BATCH]]
            rows = [row for row in await call(self._redis.mget(keys)) if row is not None]
            found |= {record.id: record for record in all_decoded(rows, TokenRecord)}
        return found

    async def write(self) -> None:
        """Write what comes, until the persistence is stopped."""
        while not self._persistence.is_stopped:
            await self._something_to_write.wait()
            batch = list(islice(self._pending.values(), BATCH))
            if not batch:
                self._something_to_write.clear()
                self._all_written.set()
            elif await self._persistence.insist(lambda: self._put(batch)):  # noqa: B023
                for token in batch:
                    self._pending.pop(token.id, None)

    async def flush(self) -> None:
        """Wait for what is to be written, and give up what is not after `FLUSH_S`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_S):
                await self._all_written.wait()
        self.lost += len(self._pending)
        self._pending.clear()

    async def _put(self, batch: list[TokenRecord]) -> bool:
        pipeline = self._redis.pipeline(transaction=False)
        for token in batch:
            encoded = msgspec.json.encode(token)
            pipeline.set(self._key(token.id), encoded, exat=token.expires_at + 1)
        await call(pipeline.execute())
        return True
