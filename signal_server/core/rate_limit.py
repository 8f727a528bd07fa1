"""Admission of messages by GCRA: seven classes of message, four scopes, one float per bucket.

A message passes when every scope that limits its class has room, and only then is it charged, so a
refused message costs its sender nothing and nobody else anything. Candidates have buckets of their
own and never starve an answer or a hangup. It is told the time and knows no sessions, only keys.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from enum import IntEnum
from typing import NamedTuple

from signal_server.wire.rates import Rate, RateLimits

_ROUNDING_S = 1e-5
"""Hundreds of sums on a clock of months: a burst of exactly the allowed size must pass."""
_KEPT_FULL_S = 30.0
"""A full bucket says nothing, but one that is in use would only be made again at once."""
_SWEPT_PER_ENTRY = 2
"""Entries looked at for each new one: more than one, so that a table shrinks while it is used."""


class RateClass(IntEnum):
    """What is counted together; the members' names are the fields of `wire.rates`."""

    CONTROL = 0
    """What sets a call up and ends it."""
    CANDIDATE = 1
    MESSAGE = 2
    ROOM = 3
    """Work for everybody in a room, and the greeting, which may join one."""
    ICE = 4
    CALL = 5
    """Invitations, which ring telephones."""
    PING = 6


CLASS_OF: dict[str, RateClass] = {
    "offer": RateClass.CONTROL,
    "answer": RateClass.CONTROL,
    "pranswer": RateClass.CONTROL,
    "rollback": RateClass.CONTROL,
    "applied": RateClass.CONTROL,
    "renegotiate": RateClass.CONTROL,
    "call_ringing": RateClass.CONTROL,
    "call_accept": RateClass.CONTROL,
    "call_reject": RateClass.CONTROL,
    "call_cancel": RateClass.CONTROL,
    "call_hangup": RateClass.CONTROL,
    "leave": RateClass.CONTROL,
    "bye": RateClass.CONTROL,
    "refresh": RateClass.CONTROL,
    "candidate": RateClass.CANDIDATE,
    "message": RateClass.MESSAGE,
    "state": RateClass.MESSAGE,
    "hello": RateClass.ROOM,
    "join": RateClass.ROOM,
    "update": RateClass.ROOM,
    "ice_servers": RateClass.ICE,
    "call_invite": RateClass.CALL,
    "ping": RateClass.PING,
    "ack": RateClass.PING,
}
"""Message type to class; a type that is missing here counts as control."""


class RateKeys(NamedTuple):
    """Whom a message is charged to; None: nobody in that scope.

    Strings keep their hash, so they are cheaper keys than tuples.
    """

    session: Hashable | None = None
    identity: Hashable | None = None
    """Of one account: identities never cross accounts."""
    address: Hashable | None = None
    """As `turn_broker.addresses` gives it."""
    room: Hashable | None = None

    def in_room(self, room: Hashable | None) -> RateKeys:
        """The same somewhere else; `_replace` takes five times as long."""
        return RateKeys(self.session, self.identity, self.address, room)


class _Scope:
    """The buckets of one scope: for each key, when each class's bucket is full again."""

    __slots__ = ("_cap", "rows")

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self.rows: OrderedDict[Hashable, list[float]] = OrderedDict()

    def enter(self, key: Hashable, now: float) -> list[float]:
        """Full buckets for a new key; forgets some that are full again, or the oldest."""
        rows = self.rows
        for _ in range(min(_SWEPT_PER_ENTRY, len(rows))):
            oldest = next(iter(rows))
            if max(rows[oldest]) + _KEPT_FULL_S <= now:
                del rows[oldest]
            else:
                rows.move_to_end(oldest)
        if len(rows) >= self._cap:
            rows.popitem(last=False)
        row = rows[key] = [now] * len(RateClass)
        return row


_Check = tuple[int, _Scope, float, float, float]
"""One scope's say on one class: its place in the keys, its buckets, GCRA's T and tau, the burst."""


class RateLimiter:
    """See the module's text."""

    __slots__ = ("_by_tag", "_control", "_scopes", "refused")

    def __init__(self, limits: RateLimits) -> None:
        self._scopes = {name: _Scope(limits.tracked) for name in RateKeys._fields}
        # Plain integers: indexing with an IntEnum member is several times slower.
        checks = [(int(kind), self._checks_of(kind, limits)) for kind in RateClass]
        self._by_tag = {tag: checks[kind] for tag, kind in CLASS_OF.items()}
        self._control = checks[RateClass.CONTROL]
        self.refused = [0] * len(RateClass)
        """Messages refused, by class."""

    def _checks_of(self, kind: RateClass, limits: RateLimits) -> tuple[_Check, ...]:
        checks: list[_Check] = []
        for place, (name, scope) in enumerate(self._scopes.items()):
            rate: Rate | None = getattr(getattr(limits, name), kind.name.lower(), None)
            if rate is not None:
                checks.append((place, scope, 1 / rate.per_s, rate.burst / rate.per_s, rate.burst))
        return tuple(checks)

    def admit(self, tag: str, cost: int, keys: RateKeys, now: float) -> float | None:
        """Charge `cost` (a batch's candidates, else 1), or say in how many seconds to try again.

        A cost above the burst asks for a full bucket, so that it is late and not impossible.
        """
        kind, checks = self._by_tag.get(tag, self._control)
        wait = 0.0
        charges = []
        for place, scope, interval, tolerance, burst in checks:
            key = keys[place]
            if key is None:
                continue
            row = scope.rows.get(key) or scope.enter(key, now)
            full_at = row[kind]
            if full_at < now:
                full_at = now
            full_at += interval * (cost if cost < burst else burst)  # noqa: FURB136 - min() doubles the cost
            excess = full_at - now - tolerance
            if excess > wait:
                wait = excess
            charges.append((row, full_at))
        if wait > _ROUNDING_S:
            self.refused[kind] += 1
            return wait
        for row, full_at in charges:
            row[kind] = full_at
        return None

    def forget(self, session: Hashable) -> None:
        """The session is over; what it owed, its identity and address still owe."""
        self._scopes["session"].rows.pop(session, None)

    def containers(self) -> tuple[object, ...]:
        """What there is to know."""
        return tuple(scope.rows for scope in self._scopes.values())

    def tracked(self) -> dict[str, int]:
        """Keys remembered, by scope."""
        return {name: len(scope.rows) for name, scope in self._scopes.items()}
