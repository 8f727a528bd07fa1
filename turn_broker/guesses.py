"""Brute force on tokens: each failure of an address delays its next answer, too many shut it out.

A token that is expired but otherwise valid is no guess and is not told here. Success forgives
nothing, so that one good token does not pay for guessing others. It is told the time and knows
neither tokens nor connections; addresses are keys from `addresses`.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Annotated

import msgspec
from msgspec import Meta


class GuessLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[guesses]`: times in seconds."""

    first_delay_s: Annotated[float, Meta(ge=0, le=60)] = 0.1
    """Doubles with every failure that is remembered."""
    longest_delay_s: Annotated[float, Meta(ge=0, le=300)] = 25.0
    failures: Annotated[int, Meta(ge=1, le=1000)] = 10
    """So many inside `window_s`, and the address is refused until the first of them is older."""
    window_s: Annotated[float, Meta(gt=0, le=86400)] = 1800.0
    addresses: Annotated[int, Meta(ge=16, le=10_000_000)] = 65_536
    """Remembered at once; beyond them the one that failed longest ago is forgotten."""


class Guesses:
    """See the module's text."""

    __slots__ = ("_failures", "_limits", "failures", "refusals")

    def __init__(self, limits: GuessLimits) -> None:
        self._limits = limits
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()
        """For each address when it failed; the address that failed last is last."""
        self.failures = 0
        self.refusals = 0

    def __len__(self) -> int:
        return len(self._failures)

    def refused(self, address: str, now: float) -> float | None:
        """Before a token is looked at: None, or the seconds for which the address is shut out."""
        times = self._recent(address, now)
        if times is None or len(times) < self._limits.failures:
            return None
        self.refusals += 1
        return times[0] + self._limits.window_s - now

    def failed(self, address: str, now: float) -> float:
        """A token was wrong: how many seconds its refusal has to wait."""
        self.failures += 1
        times = self._recent(address, now)
        if times is None:
            self._make_room(now)
            times = self._failures[address] = deque(maxlen=self._limits.failures)
        delay = self._limits.first_delay_s * 2.0 ** min(len(times), 30)
        times.append(now)
        self._failures.move_to_end(address)
        return min(delay, self._limits.longest_delay_s)

    def _recent(self, address: str, now: float) -> deque[float] | None:
        times = self._failures.get(address)
        if times is None:
            return None
        horizon = now - self._limits.window_s
        while times and times[0] <= horizon:
            times.popleft()
        if not times:
            del self._failures[address]
            return None
        return times

    def _make_room(self, now: float) -> None:
        horizon = now - self._limits.window_s
        while self._failures:
            oldest = next(iter(self._failures))
            is_over = self._failures[oldest][-1] <= horizon
            if not is_over and len(self._failures) < self._limits.addresses:
                return
            del self._failures[oldest]
