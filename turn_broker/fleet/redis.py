"""A fleet whose shared memory is a Redis (>= 7.0), alone, under Sentinel or as a Cluster.

State lies in keys and every change is an entry of a stream too, so an agent that was away takes
the state and then follows. It does not know TURN or HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets as randomness
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from itertools import islice
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from turn_broker.fleet import redis_scripts as scripts
from turn_broker.fleet.contract import (
    BATCH_LIFE_S,
    MAX_REVOCATIONS,
    REPORT_LIFE_S,
    USAGE_LIFE_S,
    FleetFull,
    FleetUnavailable,
)
from turn_broker.fleet.messages import (
    Charge,
    Cut,
    Drain,
    NodeReport,
    Order,
    RealmSecrets,
    Revocation,
    Revoke,
    TokenRecord,
    Usage,
    UseSecrets,
)
from turn_broker.fleet.redis_stream import Entry, Persistence, call, follow
from turn_broker.fleet.redis_url import RedisClient
from turn_broker.fleet.tables import Answers, Revocations
from turn_broker.sealing import NONCE_BYTES, Seal

log = logging.getLogger("parley.fleet")

MAX_PENDING = 20_000
"""Tokens that wait to be written."""
WRITE_BATCH = 500
MAX_SUMS = 500
"""Of one script: Redis does nothing else meanwhile."""
FLUSH_S = 2.0
"""How long `close` waits for what is still to be written."""

T = TypeVar("T")
_ORDER: msgspec.json.Decoder[Revoke | Drain] = msgspec.json.Decoder(Revoke | Drain)


class RedisFleet:
    """`start` it before use; `close` it, and it closes `client`."""

    def __init__(
        self,
        client: RedisClient,
        realm: str,
        clock: Callable[[], float],
        *,
        seal_key: str | None = None,
    ) -> None:
        """`clock` gives Unix seconds; `seal_key` (random) seals the TURN secrets in Redis."""
        self._redis: Any = client
        self._clock = clock
        self._prefix = f"parley:turn:{{{quote(realm, safe='')}}}:"
        self._seal = Seal(seal_key) if seal_key else None
        self._pending: dict[str, TokenRecord] = {}
        self._lost = 0
        self._something_to_write = asyncio.Event()
        self._all_written = asyncio.Event()
        self._all_written.set()
        self._revocations = Revocations()
        self._waiting: dict[str, tuple[Answers, asyncio.Event]] = {}
        self._persistence = Persistence()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to write tokens and to follow revocations; Redis need not be there yet."""
        self._tasks = [asyncio.create_task(self._write()), asyncio.create_task(self._listen())]
        for task in self._tasks:
            task.add_done_callback(_log_end)

    async def close(self) -> None:
        """Write what waits, if Redis takes it in `FLUSH_S`, and end every `orders`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_S):
                await self._all_written.wait()
        self._lost += len(self._pending)
        self._pending.clear()
        self._persistence.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._redis.aclose()

    @property
    def failures(self) -> int:
        """Background attempts that found no Redis, ever."""
        return self._persistence.failures

    # Tokens

    def record(self, token: TokenRecord) -> None:
        if len(self._pending) >= MAX_PENDING:
            self._lost += 1
            return
        self._pending[token.id] = token
        self._all_written.clear()
        self._something_to_write.set()

    @property
    def lost_records(self) -> int:
        return self._lost

    async def token(self, opaque_id: str) -> TokenRecord | None:
        found = self._pending.get(opaque_id)
        if found is None:
            (found,) = await self._records([opaque_id])
        return None if found is None or found.expires_at < self._clock() else found

    async def _records(self, ids: Sequence[str]) -> list[TokenRecord | None]:
        if not ids:
            return []
        raw = await call(self._redis.mget([self._key("token", name) for name in ids]))
        return [None if one is None else _decoded(one, TokenRecord) for one in raw]

    async def _write(self) -> None:
        while not self._persistence.is_stopped:
            await self._something_to_write.wait()
            batch = list(islice(self._pending.values(), WRITE_BATCH))
            if not batch:
                self._something_to_write.clear()
                self._all_written.set()
            elif await self._persistence.insist(lambda: self._put(batch)):  # noqa: B023
                for token in batch:
                    self._pending.pop(token.id, None)

    async def _put(self, batch: list[TokenRecord]) -> bool:
        pipeline = self._redis.pipeline(transaction=False)
        for token in batch:
            encoded = msgspec.json.encode(token)
            pipeline.set(self._key("token", token.id), encoded, exat=token.expires_at + 1)
        await call(pipeline.execute())
        return True

    # Revocations

    async def revoke(self, revocation: Revocation, wait_s: float = 1.0) -> Cut:
        order = Revoke(randomness.token_hex(8), revocation)
        answers = Answers([report.node for report in await self.reports()])
        bell = asyncio.Event()
        self._waiting[order.ticket] = (answers, bell)
        try:
            kept = await self._script(
                scripts.REVOKE,
                ["revocations", "orders"],
                [self._clock(), revocation.until, MAX_REVOCATIONS, msgspec.json.encode(order)],
            )
            if not kept:
                raise FleetFull("too many revocations are in force")
            self._revocations.add(order, self._clock())
            if not answers.is_complete:
                async with asyncio.timeout(wait_s):
                    await bell.wait()
        except TimeoutError:
            pass
        finally:
            del self._waiting[order.ticket]
        return answers.result()

    async def revocations(self) -> tuple[Revocation, ...]:
        return tuple(order.revocation for order in await self._revoked())

    def is_revoked(self, opaque_id: str) -> bool:
        return self._revocations.is_revoked(opaque_id, self._clock())

    async def _revoked(self) -> tuple[Revoke, ...]:
        rows = await call(
            self._redis.zrangebyscore(self._key("revocations"), self._clock(), "+inf")
        )
        found = Revocations()
        for order in _all_decoded(rows, Revoke):
            found.add(order, self._clock())
        return found.orders(self._clock())

    async def _listen(self) -> None:
        """Keep `is_revoked` fresh, and hand answers to those who wait for them."""
        streams = (self._key("orders"), self._key("answers"))
        async for entry in follow(self._redis, self._persistence, *streams):
            if entry is None:
                for order in await self._persistence.insist(self._revoked) or ():
                    self._revocations.add(order, self._clock())
            elif entry.stream == streams[0]:
                order_or_not = _order_of(entry)
                if isinstance(order_or_not, Revoke):
                    self._revocations.add(order_or_not, self._clock())
            else:
                self._hear(entry.fields)

    def _hear(self, fields: dict[bytes, bytes]) -> None:
        waiting = self._waiting.get(fields.get(b"ticket", b"").decode())
        if waiting is None:
            return
        answers, bell = waiting
        answers.add(fields[b"node"].decode(), int(fields[b"cut"]))
        if answers.is_complete:
            bell.set()

    # Usage

    async def charge(self, charges: Sequence[Charge], batch: str = "") -> dict[str, Usage]:
        ids = list(dict.fromkeys(charge.id for charge in charges))
        known = dict(zip(ids, await self._records(ids), strict=True))
        sums: dict[tuple[str, str], Usage] = {}
        for charge in charges:
            for name in charge.counted_for(known[charge.id]):
                sums[name] = sums.get(name, Usage()).plus(charge)
        rows = list(sums.items())
        for start in range(0, len(rows), MAX_SUMS):
            part = rows[start : start + MAX_SUMS]
            marker = f"batch:{batch or randomness.token_hex(8)}:{start}"
            amounts = [
                amount
                for _, usage in part
                for amount in (usage.sent_bytes, usage.received_bytes, usage.allocations)
            ]
            await self._script(
                scripts.CHARGE,
                [marker, *(f"usage:{scope}:{name}" for (scope, name), _ in part)],
                [BATCH_LIFE_S, USAGE_LIFE_S, *amounts],
            )
        return dict(zip(ids, await self._used([("token", name) for name in ids]), strict=True))

    async def usage(self, scope: str, name: str) -> Usage:
        (total,) = await self._used([(scope, name)])
        sessions = [session for report in await self.reports() for session in report.sessions]
        ids = list(dict.fromkeys(session.id for session in sessions))
        known: dict[str, TokenRecord | None] = {}
        if scope == "account":
            for start in range(0, len(ids), WRITE_BATCH):
                part = ids[start : start + WRITE_BATCH]
                known |= zip(part, await self._records(part), strict=True)
        live = sum(
            (scope, name) in Charge(id=session.id).counted_for(known.get(session.id))
            for session in sessions
        )
        return msgspec.structs.replace(total, live=live)

    async def _used(self, names: Iterable[tuple[str, str]]) -> list[Usage]:
        pipeline = self._redis.pipeline(transaction=False)
        for scope, name in names:
            pipeline.hmget(self._key("usage", scope, name), "sent", "received", "opened")
        return [
            Usage(sent_bytes=int(a or 0), received_bytes=int(b or 0), allocations=int(c or 0))
            for a, b, c in await call(pipeline.execute())
        ]

    # Nodes

    async def report(self, report: NodeReport) -> None:
        # Redis' own clock ends a report, so that hosts need not agree on the time.
        pipeline = self._redis.pipeline(transaction=False)
        key = self._key("report", report.node)
        pipeline.set(key, msgspec.json.encode(report), ex=REPORT_LIFE_S)
        pipeline.sadd(self._key("nodes"), report.node)
        await call(pipeline.execute())

    async def reports(self) -> tuple[NodeReport, ...]:
        nodes = sorted(await call(self._redis.smembers(self._key("nodes"))))
        if not nodes:
            return ()
        rows = await call(self._redis.mget([self._key("report", node.decode()) for node in nodes]))
        gone = [node for node, row in zip(nodes, rows, strict=True) if row is None]
        if gone:
            await call(self._redis.srem(self._key("nodes"), *gone))
        return tuple(_all_decoded((row for row in rows if row is not None), NodeReport))

    async def drain(self, node: str, on: bool) -> None:
        change = "SADD" if on else "SREM"
        order = msgspec.json.encode(Drain(node, on))
        await self._script(scripts.DRAIN, ["draining", "orders"], [change, node, order])

    async def draining(self) -> frozenset[str]:
        return frozenset(
            node.decode() for node in await call(self._redis.smembers(self._key("draining")))
        )

    # Secrets

    async def secrets(self) -> RealmSecrets | None:
        raw = await call(self._redis.get(self._key("secrets")))
        if raw is None:
            return None
        plain = raw if self._seal is None else self._seal.open(raw.decode(), self._key("secrets"))
        try:
            return msgspec.json.decode(plain or b"", type=RealmSecrets)
        except msgspec.DecodeError as flaw:
            reason = "the TURN secrets in Redis were sealed with another key"
            raise FleetUnavailable(reason) from flaw

    async def replace_secrets(self, secrets: RealmSecrets) -> bool:
        content = msgspec.json.encode(secrets).decode()
        if self._seal is not None:
            nonce = randomness.token_bytes(NONCE_BYTES)
            content = self._seal.close(content, self._key("secrets"), nonce)
        keys = ["secrets", "version", "orders"]
        return bool(await self._script(scripts.REPLACE_SECRETS, keys, [secrets.version, content]))

    # Orders

    async def orders(self, node: str) -> AsyncGenerator[Order, None]:
        async for entry in follow(self._redis, self._persistence, self._key("orders")):
            orders = await self._persistence.insist(
                lambda: self._restated(node) if entry is None else self._ordered(entry, node)  # noqa: B023
            )
            for order in orders or ():
                yield order

    async def answer(self, ticket: str, node: str, cut: int) -> None:
        await self._script(scripts.ANSWER, ["answers"], [ticket, node, cut])

    async def _restated(self, node: str) -> list[Order]:
        """What holds now."""
        secrets = await self.secrets()
        orders: list[Order] = [] if secrets is None else [UseSecrets(secrets)]
        orders += await self._revoked()
        return [*orders, Drain(node, node in await self.draining())]

    async def _ordered(self, entry: Entry, node: str) -> list[Order]:
        if b"secrets" in entry.fields:
            secrets = await self.secrets()
            return [] if secrets is None else [UseSecrets(secrets)]
        order = _order_of(entry)
        if order is None or (isinstance(order, Drain) and order.node != node):
            return []
        return [order]

    # Keys and scripts

    def _key(self, *parts: str) -> str:
        return self._prefix + ":".join(parts)

    async def _script(self, text: str, keys: list[str], arguments: list[Any]) -> Any:
        names = [self._key(key) for key in keys]
        return await call(self._redis.eval(text, len(names), *names, *arguments))


def _log_end(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("a task of the fleet failed", exc_info=task.exception())


def _order_of(entry: Entry) -> Revoke | Drain | None:
    raw = entry.fields.get(b"order")
    if raw is None:
        return None
    try:
        return _ORDER.decode(raw)
    except msgspec.DecodeError:
        log.warning("an order in Redis is of another version")
        return None


def _decoded(raw: bytes, kind: type[T]) -> T | None:
    """None, and a word in the log, for what another version wrote."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.DecodeError:
        log.warning("a record in Redis is of another version", extra={"kind": kind.__name__})
        return None


def _all_decoded(rows: Iterable[bytes], kind: type[T]) -> list[T]:
    return [one for row in rows if (one := _decoded(row, kind)) is not None]
