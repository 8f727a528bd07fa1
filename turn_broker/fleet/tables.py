"""Bounded tables of what a fleet remembers for a while, and the answers to one revocation.

Pure: told the time. They do not know where else the same is remembered.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Hashable, Iterator
from typing import Generic, TypeVar

from turn_broker.fleet.contract import MAX_REVOCATIONS
from turn_broker.fleet.messages import Cut, Revocation, Revoke

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

SWEEP_PARTS = 8
"""A full table is swept once in so large a part of its room, whatever is put."""


class ExpiringTable(Generic[K, V]):
    """At most `room` entries, each until its time. What is over makes room, then the one put
    longest ago."""

    def __init__(self, room: int) -> None:
        self._room = room
        # A plain dict would look at every deleted entry again to find its first one.
        self._entries: OrderedDict[K, tuple[float, V]] = OrderedDict()
        self._put_since_sweep = 0
        self.lost = 0
        """Entries that made room although their time had not come."""

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, key: K, value: V, until: float, now: float) -> None:
        """Keep `value` up to and including `until` (Unix seconds)."""
        self._entries[key] = (until, value)
        self._entries.move_to_end(key)
        self._put_since_sweep += 1
        if len(self._entries) > self._room and self._put_since_sweep * SWEEP_PARTS > self._room:
            self._sweep(now)
        while self._entries:
            first = next(iter(self._entries))
            is_over = self._entries[first][0] < now
            if not is_over and len(self._entries) <= self._room:
                return
            self._entries.popitem(last=False)
            self.lost += not is_over

    def _sweep(self, now: float) -> None:
        """What is over may stand behind what is not: short lives among long ones."""
        kept = ((key, entry) for key, entry in self._entries.items() if entry[0] >= now)
        self._entries = OrderedDict(kept)
        self._put_since_sweep = 0

    def get(self, key: K, now: float) -> V | None:
        entry = self._entries.get(key)
        return None if entry is None or entry[0] < now else entry[1]

    def values(self, now: float) -> Iterator[V]:
        return (value for until, value in self._entries.values() if until >= now)


class Revocations:
    """What is revoked, with the order that said so. Nothing makes room here: it fills up."""

    def __init__(self, room: int = MAX_REVOCATIONS) -> None:
        self._room = room
        self._orders: dict[tuple[str, str], Revoke] = {}

    def has_room(self, revocation: Revocation, now: float) -> bool:
        """Whether `add` would take it."""
        if len(self._orders) >= self._room:
            self._orders = {key: order for key, order in self._orders.items() if _holds(order, now)}
        return len(self._orders) < self._room or _key(revocation) in self._orders

    def add(self, order: Revoke, now: float) -> bool:
        """Remember it; of two for the same name the one that holds longer. False: no room."""
        if not self.has_room(order.revocation, now):
            return False
        known = self._orders.get(_key(order.revocation))
        if known is None or known.revocation.until <= order.revocation.until:
            self._orders[_key(order.revocation)] = order
        return True

    def is_revoked(self, opaque_id: str, now: float) -> bool:
        """For a token's id, or for an identity's digest alone."""
        for key in (("token", opaque_id), ("identity", opaque_id.partition(".")[0])):
            order = self._orders.get(key)
            if order is not None and _holds(order, now):
                return True
        return False

    def orders(self, now: float) -> tuple[Revoke, ...]:
        return tuple(order for order in self._orders.values() if _holds(order, now))


def _key(revocation: Revocation) -> tuple[str, str]:
    return (revocation.scope, revocation.name)


def _holds(order: Revoke, now: float) -> bool:
    return order.revocation.until >= now


class Answers:
    """What the nodes answer to one revocation."""

    def __init__(self, expected: Collection[str]) -> None:
        """`expected` are the nodes with a live agent."""
        self._expected = frozenset(expected)
        self._cut: dict[str, int] = {}

    def add(self, node: str, cut: int) -> None:
        """An agent may hear an order twice; what it cut the first time counts."""
        self._cut.setdefault(node, cut)

    @property
    def is_complete(self) -> bool:
        return self._expected <= self._cut.keys()

    def result(self) -> Cut:
        return Cut(
            relays=sum(self._cut.values()),
            nodes=tuple(sorted(self._cut)),
            silent=tuple(sorted(self._expected - self._cut.keys())),
        )
