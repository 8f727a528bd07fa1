"""A timing wheel: one timer for every deadline of every connection.

Time is counted in ticks that were really run, so a process that was stopped for a minute does not
find all its peers dead when it wakes up. It does not know a clock or an event loop.
"""

from __future__ import annotations

from math import ceil
from typing import Protocol

SLOTS = 512
IDLE, DUE = -1, -2
"""Slots of entries that are not on the wheel: waiting for nothing, or about to be called."""


class Entry(Protocol):
    """What may wait on the wheel: it sits in at most one slot."""

    slot: int

    def due(self) -> None:
        """The time asked for has passed."""


class Wheel:
    """Serves the waits it was made for, each rounded up to whole ticks."""

    __slots__ = ("_slots", "now", "size", "tick_s")

    def __init__(self, *waits_s: float) -> None:
        self.tick_s = max(min(waits_s) / 20, max(waits_s) / (SLOTS - 2), 0.01)
        self.now = 0
        self.size = 0
        self._slots: list[set[Entry]] = [set() for _ in range(SLOTS)]

    def ticks(self, seconds: float) -> int:
        """How many ticks are at least `seconds`."""
        return max(1, ceil(seconds / self.tick_s))

    def put(self, entry: Entry, ticks: int) -> None:
        """Let the entry be due after `ticks` ticks, instead of what it waited for before."""
        self.remove(entry)
        entry.slot = (self.now + min(max(ticks, 1), SLOTS - 1)) % SLOTS
        self._slots[entry.slot].add(entry)
        self.size += 1

    def remove(self, entry: Entry) -> None:
        """Forget the entry, even when it is due already but has not been called yet."""
        if entry.slot >= 0:
            self._slots[entry.slot].discard(entry)
            self.size -= 1
        entry.slot = IDLE

    def advance(self) -> list[Entry]:
        """Run one tick. What it returns is for `call`, at once or a little later."""
        self.now += 1
        at = self.now % SLOTS
        entries = list(self._slots[at])
        if entries:
            self._slots[at] = set()
            self.size -= len(entries)
            for entry in entries:
                entry.slot = DUE
        return entries

    @staticmethod
    def call(entry: Entry) -> None:
        """Tell an entry that it is due, unless that has changed since `advance`."""
        if entry.slot == DUE:
            entry.slot = IDLE
            entry.due()
