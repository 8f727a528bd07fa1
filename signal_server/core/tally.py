"""What the core counts: plain integers that the metrics page reads at scrape time.

It does not know Prometheus; labels are codes from `wire`, never ids.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


class Counts(dict[str, int]):
    """For every message: a Counter has a `__delitem__` in Python, which makes `+= 1` dearer."""

    def __missing__(self, key: str) -> int:
        return 0


@dataclass(slots=True)
class Tally:
    """Counters since start; `held_*` are levels."""

    sent: Counts = field(default_factory=Counts)
    """Server messages by type."""
    refused: Counter[str] = field(default_factory=Counter)
    """Errors answered, by code."""
    candidates_dropped: Counter[str] = field(default_factory=Counter)
    """Candidates that will not reach their peer, by reason."""
    candidates_passed: int = 0
    """Candidates relayed without waiting."""
    candidates_released: int = 0
    """Candidates relayed after waiting."""
    candidates_held: int = 0
    held_bytes: int = 0
    gate_timeouts: int = 0
    glare: int = 0
    joins: int = 0
    resumes: Counter[str] = field(default_factory=Counter)
    """Resumes by outcome: resumed, expired, gap."""

    def add(self, other: Tally) -> None:
        """The counters of a board that is gone; its levels are gone with it."""
        for kind, count in other.sent.items():
            self.sent[kind] += count
        self.refused.update(other.refused)
        self.candidates_dropped.update(other.candidates_dropped)
        self.resumes.update(other.resumes)
        self.candidates_passed += other.candidates_passed
        self.candidates_released += other.candidates_released
        self.gate_timeouts += other.gate_timeouts
        self.glare += other.glare
        self.joins += other.joins
