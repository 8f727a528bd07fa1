"""A fleet whose shared memory is a Redis (>= 7.0), alone, under Sentinel or as a Cluster.

State lies in keys and every change is an entry of a stream too, so an agent that was away takes
the state and then follows. It does not know TURN or HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import secrets as randomness
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Sequence
from typing import Any
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
    HealthReport,
    NodeReport,
    Order,
    RealmSecrets,
    Revocation,
    Revoke,
    TokenRecord,
    Usage,
    UseSecrets,
)
from turn_broker.fleet.redis_records import TokenRecords
from turn_broker.fleet.redis_stream import (
    MAX_READ,
    Entry,
    Persistence,
    all_decoded,
    call,
    follow,
)
from turn_broker.fleet.redis_url import RedisClient
from turn_broker.fleet.tables import Answers, Revocations
from turn_broker.sealing import NONCE_BYTES, Seal

log = logging.getLogger("parley.fleet")

MAX_SUMS = 500
"""Of one script: Redis does nothing else meanwhile."""
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
        self._revocations = Revocations()
        self._waiting: dict[str, tuple[Answers, asyncio.Event]] = {}
        self._persistence = Persistence()
        self._records = TokenRecords(
            client, lambda name: self._key("token", name), self._persistence
        )
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to write tokens and to follow revocations; Redis need not be there yet."""
        work = (self._records.write(), self._listen())
        self._tasks = [asyncio.create_task(each) for each in work]
        for task in self._tasks:
            task.add_done_callback(_log_end)

    async def close(self) -> None:
        """Write what waits, if Redis takes it in time, and end every `orders`."""
        await self._records.flush()
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
        self._records.put(token)

    @property
    def lost_records(self) -> int:
        return self._records.lost

    async def token(self, opaque_id: str) -> TokenRecord | None:
        found = (await self._records.get([opaque_id])).get(opaque_id)
        return None if found is None or found.expires_at < self._clock() else found

    # Revocations

    async def revoke(self, revocation: Revocation, wait_s: float = 1.0) -> Cut:
        order = Revoke(randomness.token_hex(8), revocation)
        answers = Answers([report.node for report in await self.reports()])
        bell = asyncio.Event()
        self._waiting[order.ticket] = (answers, bell)
        try:
            if not await self._keep(order):
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

    async def _keep(self, order: Revoke) -> bool:
        """False: there is no room."""
        revocation = order.revocation
        name = f"{revocation.scope}:{revocation.name}"
        encoded = msgspec.json.encode(order)
        arguments = [self._clock(), revocation.until, MAX_REVOCATIONS, name, encoded]
        return bool(await self._script(scripts.REVOKE, ["ends", "revoked", "orders"], arguments))

    async def revocations(self) -> tuple[Revocation, ...]:
        return tuple(order.revocation for order in await self._revoked())

    def is_revoked(self, opaque_id: str) -> bool:
        return self._revocations.is_revoked(opaque_id, self._clock())

    async def _revoked(self) -> tuple[Revoke, ...]:
        rows = await call(self._redis.hvals(self._key("revoked")))
        found = Revocations()
        for order in all_decoded(rows, Revoke):
            found.add(order, self._clock())
        return found.orders(self._clock())

    async def _listen(self) -> None:
        """Keep `is_revoked` fresh, and hand answers to those who wait for them."""
        streams = (self._key("orders"), self._key("answers"))
        async for entry in follow(self._redis, self._persistence, *streams):
            if entry is None:
                await self._persistence.insist(self._catch_up)
            elif entry.stream == streams[0]:
                order_or_not = _order_of(entry)
                if isinstance(order_or_not, Revoke):
                    self._revocations.add(order_or_not, self._clock())
            else:
                self._hear(entry.fields)

    async def _catch_up(self) -> bool:
        await self._share_revocations()
        if self._waiting:
            # Agents may find Redis again before we do; what they answered is not said twice.
            newest = await call(self._redis.xrevrange(self._key("answers"), count=MAX_READ))
            for _, fields in reversed(newest):
                self._hear(fields)
        return True

    async def _share_revocations(self) -> None:
        """Learn those in Redis, and tell it those that it has forgotten."""
        stored = await self._revoked()
        known = {(order.revocation.scope, order.revocation.name) for order in stored}
        for order in self._revocations.orders(self._clock()):
            if (order.revocation.scope, order.revocation.name) not in known:
                await self._keep(order)
        for order in stored:
            self._revocations.add(order, self._clock())

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
        known = await self._records.get(ids)
        sums: dict[tuple[str, str], Usage] = {}
        for charge in charges:
            for name in charge.counted_for(known.get(charge.id)):
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
        whole = all_decoded(await self._said("nodes", "whole"), NodeReport)
        sessions = [session for report in whole for session in report.sessions]
        ids = list(dict.fromkeys(session.id for session in sessions))
        known = await self._records.get(ids) if scope == "account" else {}
        live = sum(
            (scope, name) in Charge(id=session.id).counted_for(known.get(session.id))
            for session in sessions
        )
        return msgspec.structs.replace(total, live=live)

    async def totals(self, names: Collection[tuple[str, str]]) -> dict[tuple[str, str], Usage]:
        return dict(zip(names, await self._used(names), strict=True)) if names else {}

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
        brief = msgspec.structs.replace(report, sessions=())
        await self._say("nodes", report.node, {"report": brief, "whole": report})

    async def reports(self) -> tuple[NodeReport, ...]:
        return tuple(all_decoded(await self._said("nodes", "report"), NodeReport))

    async def report_health(self, report: HealthReport) -> None:
        await self._say("observers", report.observer, {"report": report})

    async def health(self) -> tuple[HealthReport, ...]:
        return tuple(all_decoded(await self._said("observers", "report"), HealthReport))

    async def _say(self, group: str, name: str, parts: dict[str, Any]) -> None:
        # Redis' own clock ends a report, so that hosts need not agree on the time.
        pipeline = self._redis.pipeline(transaction=False)
        for part, content in parts.items():
            encoded = msgspec.json.encode(content)
            pipeline.set(self._key(group, part, name), encoded, ex=REPORT_LIFE_S)
        pipeline.sadd(self._key(group), name)
        await call(pipeline.execute())

    async def _said(self, group: str, part: str) -> list[bytes]:
        """One part of the reports of a group that have not run out."""
        names = sorted(await call(self._redis.smembers(self._key(group))))
        if not names:
            return []
        keys = [self._key(group, part, name.decode()) for name in names]
        rows = await call(self._redis.mget(keys))
        gone = [name for name, row in zip(names, rows, strict=True) if row is None]
        if gone:
            await call(self._redis.srem(self._key(group), *gone))
        return [row for row in rows if row is not None]

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
