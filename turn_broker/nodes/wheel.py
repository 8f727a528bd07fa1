"""A weighted choice that stays put: the same chance gives the same item while that item is there.

Pure. It does not know what the items are.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Generic, TypeVar

T = TypeVar("T")


class Wheel(Generic[T]):
    """Distinct items on a circle, each as wide as its weight (at least 1)."""

    __slots__ = ("_at", "_ends", "items")

    def __init__(self, weighted: Sequence[tuple[T, int]]) -> None:
        self.items = tuple(item for item, _ in weighted)
        self._ends = tuple(accumulate(weight for _, weight in weighted))
        self._at = {item: at for at, item in enumerate(self.items)}

    def __contains__(self, item: T) -> bool:
        return item in self._at

    def pick(self, chance: float) -> tuple[T, float]:
        """The item at `chance` (0 <= chance < 1), and where inside the item that is.

        The second is a chance of its own, for choosing again among others. Raises IndexError when
        the wheel is empty.
        """
        place = chance * self._ends[-1]
        at = bisect_right(self._ends, place)
        start = self._ends[at - 1] if at else 0
        return self.items[at], (place - start) / (self._ends[at] - start)

    def pick_other(self, chance: float, item: T) -> T | None:
        """The item at `chance` of a wheel without `item`; None when nothing else is on it."""
        taken = self._at.get(item)
        if taken is None:
            return self.pick(chance)[0] if self.items else None
        if len(self.items) == 1:
            return None
        start = self._ends[taken - 1] if taken else 0
        gap = self._ends[taken] - start
        place = chance * (self._ends[-1] - gap)
        if place >= start:
            place += gap
        # The sum may round up onto the end.
        return self.items[min(bisect_right(self._ends, place), len(self.items) - 1)]
