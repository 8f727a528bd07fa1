"""A fleet within one process: what brokers and node agents share when nobody else does.

With a state file, secrets, drains and revocations outlive the process; tokens and usage never do.
It does not know Redis, TURN or HTTP.
"""

from __future__ import annotations

import asyncio
import secrets as randomness
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from turn_broker.fleet.contract import (
    BATCH_LIFE_S,
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
    LiveSession,
    NodeReport,
    Order,
    RealmSecrets,
    Revocation,
    Revoke,
    TokenRecord,
    Usage,
    UseSecrets,
)
from turn_broker.fleet.tables import Answers, ExpiringTable, Revocations
from turn_broker.private_file import replace_private

MAX_TOKENS = 100_000
MAX_USAGES = 200_000
MAX_NODES = 1024
MAX_BATCHES = 10_000
MAX_REVOCATIONS = 10_000
"""Fewer than a Redis takes: each revocation writes the state file anew."""
MAX_BACKLOG = 1000
"""Orders that wait for one agent; past that it is told the state anew."""


class _State(Struct, frozen=True, kw_only=True):
    """The state file."""

    secrets: RealmSecrets | None = None
    draining: tuple[str, ...] = ()
    revocations: tuple[Revoke, ...] = ()


class _Subscriber:
    """One agent's `orders`."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.pending: deque[Order] = deque()
        self.is_behind = True
        self.bell = asyncio.Event()

    def tell(self, order: Order) -> None:
        if len(self.pending) < MAX_BACKLOG:
            self.pending.append(order)
        else:
            self.is_behind = True
        self.bell.set()


class _Waiting:
    """One `revoke` that waits."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        self.is_complete = asyncio.Event()


class MemoryFleet:
    def __init__(self, clock: Callable[[], float], state_file: Path | None = None) -> None:
        """`clock` gives Unix seconds. Raises OSError or ValueError for a bad state file."""
        self._clock = clock
        self._file = state_file
        self._tokens: ExpiringTable[str, TokenRecord] = ExpiringTable(MAX_TOKENS)
        self._usages: ExpiringTable[tuple[str, str], Usage] = ExpiringTable(MAX_USAGES)
        self._batches: ExpiringTable[str, bool] = ExpiringTable(MAX_BATCHES)
        self._reports: ExpiringTable[str, NodeReport] = ExpiringTable(MAX_NODES)
        self._sessions: ExpiringTable[str, tuple[LiveSession, ...]] = ExpiringTable(MAX_NODES)
        self._health: ExpiringTable[str, HealthReport] = ExpiringTable(MAX_NODES)
        self._revocations = Revocations(MAX_REVOCATIONS)
        self._secrets: RealmSecrets | None = None
        self._draining: frozenset[str] = frozenset()
        self._subscribers: set[_Subscriber] = set()
        self._waiting: dict[str, _Waiting] = {}
        self._changing = asyncio.Lock()
        self._is_closed = False
        if state_file is not None and state_file.exists():
            self._load(state_file.read_bytes())

    # Tokens

    def record(self, token: TokenRecord) -> None:
        self._tokens.put(token.id, token, token.expires_at, self._clock())

    @property
    def lost_records(self) -> int:
        return self._tokens.lost

    async def token(self, opaque_id: str) -> TokenRecord | None:
        return self._tokens.get(opaque_id, self._clock())

    # Revocations

    async def revoke(self, revocation: Revocation, wait_s: float = 1.0) -> Cut:
        order = Revoke(randomness.token_hex(8), revocation)
        waiting = _Waiting(Answers([report.node for report in await self.reports()]))
        self._waiting[order.ticket] = waiting
        try:
            async with self._changing:
                if not self._revocations.has_room(revocation, self._clock()):
                    raise FleetFull("too many revocations are in force")
                held = self._revocations.orders(self._clock())
                await self._save(revocations=(*held, order))
                self._revocations.add(order, self._clock())
                self._tell(order)
            if not waiting.answers.is_complete:
                async with asyncio.timeout(wait_s):
                    await waiting.is_complete.wait()
        except TimeoutError:
            pass
        finally:
            del self._waiting[order.ticket]
        return waiting.answers.result()

    async def revocations(self) -> tuple[Revocation, ...]:
        return tuple(order.revocation for order in self._revocations.orders(self._clock()))

    def is_revoked(self, opaque_id: str) -> bool:
        return self._revocations.is_revoked(opaque_id, self._clock())

    # Usage

    async def charge(self, charges: Sequence[Charge], batch: str = "") -> dict[str, Usage]:
        now = self._clock()
        is_repeated = bool(batch) and self._batches.get(batch, now) is not None
        if batch:
            self._batches.put(batch, True, now + BATCH_LIFE_S, now)
        for charge in () if is_repeated else charges:
            record = self._tokens.get(charge.id, now)
            for name in charge.counted_for(record):
                total = self._used(*name).plus(charge)
                self._usages.put(name, total, now + USAGE_LIFE_S, now)
        return {charge.id: self._used("token", charge.id) for charge in charges}

    async def usage(self, scope: str, name: str) -> Usage:
        now = self._clock()
        live = 0
        for sessions in self._sessions.values(now):
            for session in sessions:
                charge = Charge(id=session.id)
                live += (scope, name) in charge.counted_for(self._tokens.get(session.id, now))
        return msgspec.structs.replace(self._used(scope, name), live=live)

    async def totals(self, names: Collection[tuple[str, str]]) -> dict[tuple[str, str], Usage]:
        return {each: self._used(*each) for each in names}

    def _used(self, scope: str, name: str) -> Usage:
        return self._usages.get((scope, name), self._clock()) or Usage()

    # Nodes

    async def report(self, report: NodeReport) -> None:
        until, now = report.at + REPORT_LIFE_S, self._clock()
        self._sessions.put(report.node, report.sessions, until, now)
        brief = msgspec.structs.replace(report, sessions=())
        self._reports.put(report.node, brief, until, now)

    async def reports(self) -> tuple[NodeReport, ...]:
        return tuple(self._reports.values(self._clock()))

    async def report_health(self, report: HealthReport) -> None:
        now = self._clock()
        self._health.put(report.observer, report, now + REPORT_LIFE_S, now)

    async def health(self) -> tuple[HealthReport, ...]:
        return tuple(self._health.values(self._clock()))

    async def drain(self, node: str, on: bool) -> None:
        async with self._changing:
            draining = self._draining | {node} if on else self._draining - {node}
            if len(draining) > MAX_NODES:
                raise FleetFull("too many nodes are draining")
            await self._save(draining=tuple(sorted(draining)))
            self._draining = draining
            self._tell(Drain(node, on))

    async def draining(self) -> frozenset[str]:
        return self._draining

    # Secrets

    async def secrets(self) -> RealmSecrets | None:
        return self._secrets

    async def replace_secrets(self, secrets: RealmSecrets) -> bool:
        async with self._changing:
            version = 0 if self._secrets is None else self._secrets.version
            if secrets.version != version + 1:
                return False
            await self._save(secrets=secrets)
            self._secrets = secrets
            self._tell(UseSecrets(secrets))
            return True

    # Orders

    async def orders(self, node: str) -> AsyncGenerator[Order, None]:
        subscriber = _Subscriber(node)
        self._subscribers.add(subscriber)
        try:
            while not self._is_closed:
                subscriber.bell.clear()
                if subscriber.is_behind:
                    subscriber.is_behind = False
                    subscriber.pending.clear()
                    for order in self._restated(node):
                        yield order
                while subscriber.pending and not subscriber.is_behind:
                    yield subscriber.pending.popleft()
                await subscriber.bell.wait()
        finally:
            self._subscribers.discard(subscriber)

    async def answer(self, ticket: str, node: str, cut: int) -> None:
        waiting = self._waiting.get(ticket)
        if waiting is None:
            return
        waiting.answers.add(node, cut)
        if waiting.answers.is_complete:
            waiting.is_complete.set()

    async def close(self) -> None:
        self._is_closed = True
        for subscriber in self._subscribers:
            subscriber.bell.set()

    def _restated(self, node: str) -> list[Order]:
        """What holds now."""
        orders: list[Order] = [] if self._secrets is None else [UseSecrets(self._secrets)]
        orders += self._revocations.orders(self._clock())
        return [*orders, Drain(node, node in self._draining)]

    def _tell(self, order: Order) -> None:
        for subscriber in self._subscribers:
            if not isinstance(order, Drain) or order.node == subscriber.node:
                subscriber.tell(order)

    # The state file

    def _load(self, content: bytes) -> None:
        try:
            state = msgspec.json.decode(content, type=_State)
        except (msgspec.DecodeError, UnicodeError) as flaw:
            raise ValueError(f"{self._file} is no state file of a fleet") from flaw
        self._secrets = state.secrets
        self._draining = frozenset(state.draining)
        for order in state.revocations:
            self._revocations.add(order, self._clock())

    async def _save(
        self,
        *,
        secrets: RealmSecrets | None = None,
        draining: tuple[str, ...] | None = None,
        revocations: tuple[Revoke, ...] | None = None,
    ) -> None:
        """Write what is to hold, before it does; what is None stays as it is."""
        if self._file is None:
            return
        state = _State(
            secrets=secrets or self._secrets,
            draining=tuple(sorted(self._draining)) if draining is None else draining,
            revocations=self._revocations.orders(self._clock())
            if revocations is None
            else revocations,
        )
        try:
            await asyncio.to_thread(replace_private, self._file, msgspec.json.encode(state))
        except OSError as flaw:
            raise FleetUnavailable(f"the state file cannot be written: {flaw.strerror}") from flaw
