"""How many credentials may be asked for: token buckets per identity, account and client address.

Pure: told the monotonic time. A request is charged only when every bucket that limits it has room,
so a refused one costs nobody anything. Every table is bounded: the key that was unused longest is
forgotten, which can only be generous. It does not know tokens, dialects or what is granted.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated

import msgspec
from msgspec import Meta

Rate = Annotated[float, Meta(gt=0, le=1e6)]
Burst = Annotated[int, Meta(ge=1, le=1_000_000)]
_ROUNDING_S = 1e-6
"""A burst of exactly the allowed size must pass, whatever the sums of floats say."""


class IssueLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[turn.issue]`: credentials per second, and at once."""

    identity_per_s: Rate = 0.5
    """One bearer of access tokens: a browser that reconnects in a loop."""
    identity_burst: Burst = 20
    account_per_s: Rate = 500.0
    """All that an account asks for, unless the account has a rate of its own."""
    account_burst: Burst = 1000
    address_per_s: Rate = 10.0
    """Clients behind one IPv4 address or IPv6 /64, such as an office; not an account's servers."""
    address_burst: Burst = 200
    anonymous_per_s: Rate = 0.2
    """Probes without an account, for each address."""
    anonymous_burst: Burst = 20
    anonymous_total_per_s: Rate = 20.0
    """Probes without an account, all together."""
    anonymous_total_burst: Burst = 200
    anonymous_ttl_s: Annotated[int, Meta(ge=10, le=3600)] = 300
    tracked: Annotated[int, Meta(ge=16, le=10_000_000)] = 65_536
    """Identities, and addresses, remembered at once."""


class Buckets:
    """GCRA buckets by key: for each key one number, the time at which its bucket is full again."""

    __slots__ = ("_cap", "_full_at")

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._full_at)

    def wait(self, key: str, per_s: float, burst: int, now: float) -> float:
        """Seconds until one more passes; 0 when it may pass now."""
        ahead = max(self._full_at.get(key, now), now) + (1 - burst) / per_s - now
        return ahead if ahead > _ROUNDING_S else 0.0

    def charge(self, key: str, per_s: float, now: float) -> None:
        """One has passed."""
        full_at = self._full_at
        full_at[key] = max(full_at.get(key, now), now) + 1 / per_s
        full_at.move_to_end(key)
        if len(full_at) > self._cap:
            full_at.popitem(last=False)


_Check = tuple[Buckets, str, float, int]


class IssueLimiter:
    """See the module's text."""

    def __init__(self, limits: IssueLimits) -> None:
        self._limits = limits
        self._identities = Buckets(limits.tracked)
        self._accounts = Buckets(limits.tracked)
        self._addresses = Buckets(limits.tracked)
        self._anonymous = Buckets(limits.tracked)
        self._all_anonymous = Buckets(1)

    def account(
        self, account: str, per_s: float | None, burst: int | None, now: float
    ) -> float | None:
        """An account asks for itself; seconds to wait, or None. `per_s` and `burst` are its own."""
        return _admit([self._account(account, per_s, burst)], now)

    def identity(
        self,
        account: str,
        subject: str,
        address: str,
        per_s: float | None,
        burst: int | None,
        now: float,
    ) -> float | None:
        """A bearer asks, from an address as `addresses` names it, or "" where it is not known."""
        limits = self._limits
        whose = f"{account}|{subject}"
        checks: list[_Check] = [
            (self._identities, whose, limits.identity_per_s, limits.identity_burst),
            self._account(account, per_s, burst),
        ]
        if address:
            own = (self._addresses, address, limits.address_per_s, limits.address_burst)
            checks.append(own)
        return _admit(checks, now)

    def anonymous(self, address: str, now: float) -> float | None:
        """Somebody without an account asks."""
        limits = self._limits
        return _admit(
            [
                (self._anonymous, address, limits.anonymous_per_s, limits.anonymous_burst),
                (
                    self._all_anonymous,
                    "all",
                    limits.anonymous_total_per_s,
                    limits.anonymous_total_burst,
                ),
            ],
            now,
        )

    def _account(self, account: str, per_s: float | None, burst: int | None) -> _Check:
        limits = self._limits
        return (
            self._accounts,
            account,
            per_s or limits.account_per_s,
            burst or limits.account_burst,
        )


def _admit(checks: list[_Check], now: float) -> float | None:
    wait = max(buckets.wait(key, per_s, burst, now) for buckets, key, per_s, burst in checks)
    if wait:
        return wait
    for buckets, key, per_s, _ in checks:
        buckets.charge(key, per_s, now)
    return None
