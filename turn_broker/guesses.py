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
    """Remembered at once, and as many that are shut out; beyond them the one that failed longest
    ago is forgotten."""


_Table = OrderedDict[str, deque[float]]
"""For each address when it failed; the address that failed last is last."""


class Guesses:
    """See the module's text."""

    __slots__ = ("_few", "_limits", "_shut_out", "failures", "refusals")

    def __init__(self, limits: GuessLimits) -> None:
        self._limits = limits
        self._few: _Table = OrderedDict()
        self._shut_out: _Table = OrderedDict()
        """A table of its own: many addresses that fail once let nobody in again."""
        self.failures = 0
        self.refusals = 0

    def __len__(self) -> int:
        return len(self._few) + len(self._shut_out)

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
        times = self._recent(address, now) or deque(maxlen=self._limits.failures)
        delay = self._limits.first_delay_s * 2.0 ** min(len(times), 30)
        times.append(now)
        is_full = len(times) == self._limits.failures
        table, other = (self._shut_out, self._few) if is_full else (self._few, self._shut_out)
        other.pop(address, None)
        table[address] = times
        table.move_to_end(address)
        self._make_room(self._few, now)
        self._make_room(self._shut_out, now)
        return min(delay, self._limits.longest_delay_s)

    def _recent(self, address: str, now: float) -> deque[float] | None:
        """When it failed inside the window; None where it did not."""
        table = self._shut_out if address in self._shut_out else self._few
        times = table.get(address)
        if times is None:
            return None
        horizon = now - self._limits.window_s
        while times and times[0] <= horizon:
            times.popleft()
        if not times:
            del table[address]
            return None
        return times

    def _make_room(self, table: _Table, now: float) -> None:
        horizon = now - self._limits.window_s
        while table:
            oldest = next(iter(table))
            is_over = table[oldest][-1] <= horizon
            if not is_over and len(table) <= self._limits.addresses:
                return
            del table[oldest]
