"""A bounded agenda of future work: one deadline per key, earliest first.

It does not know clocks or what its keys mean.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class Deadlines(Generic[Key]):
    """Setting a key again replaces its deadline; stale entries are swept when they dominate."""

    __slots__ = ("_at", "_heap", "_order", "is_new")

    def __init__(self) -> None:
        self._at: dict[Key, float] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._order = 0
        self.is_new = False
        """A deadline before all others was set since `next` was asked."""

    def __getstate__(self) -> tuple[dict[Key, float], list[tuple[float, int, Key]], int]:
        # Said, because mypyc leaves generic classes without it.
        return self._at, self._heap, self._order

    def __setstate__(
        self, state: tuple[dict[Key, float], list[tuple[float, int, Key]], int]
    ) -> None:
        self._at, self._heap, self._order = state
        self.is_new = True

    def set(self, key: Key, at: float | None) -> None:
        """Move the key's deadline; None removes it."""
        if at is None:
            self._at.pop(key, None)
        elif self._at.get(key) != at:
            self._at[key] = at
            if not self._heap or at < self._heap[0][0]:
                self.is_new = True
            heapq.heappush(self._heap, (at, self._next(), key))
        if len(self._heap) > 64 and len(self._heap) > 2 * len(self._at):
            self._heap = [(when, self._next(), k) for k, when in self._at.items()]
            heapq.heapify(self._heap)

    def due(self, now: float) -> list[Key]:
        """Remove and return the keys whose deadline has come, earliest first."""
        keys: list[Key] = []
        while self._heap and self._heap[0][0] <= now:
            at, _, key = heapq.heappop(self._heap)
            if self._at.get(key) == at:
                del self._at[key]
                keys.append(key)
        return keys

    def next(self) -> float | None:
        """The earliest deadline; None when there is none."""
        self.is_new = False
        while self._heap:
            at, _, key = self._heap[0]
            if self._at.get(key) == at:
                return at
            heapq.heappop(self._heap)
        return None

    def _next(self) -> int:
        self._order += 1
        return self._order

    def __len__(self) -> int:
        return len(self._at)
