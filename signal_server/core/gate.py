"""Which of a sender's descriptions its receiver is taken to have applied.

A `gated` receiver gets candidates only then. It does not know candidates or descriptions.
"""

from __future__ import annotations

from mypy_extensions import mypyc_attr


@mypyc_attr(serializable=True, allow_interpreted_subclasses=True)
class Gate:
    """One direction of one peer connection; negotiations are numbers that grow."""

    __slots__ = ("_waiting", "applied", "is_gated", "proven")

    def __init__(self, *, is_gated: bool) -> None:
        self.is_gated = is_gated
        self.applied = 0
        """Latest negotiation taken to be applied, for proof or for lack of it in time."""
        self.proven = 0
        """Latest negotiation known to be applied."""
        self._waiting: list[tuple[int, float]] = []

    def describe(self, negotiation: int, deadline: float) -> None:
        """A description has gone out; past the deadline it is taken to be applied."""
        if negotiation > self.applied:
            self.forget(negotiation)
            self._waiting.append((negotiation, deadline))

    def forget(self, negotiation: int) -> None:
        """That description is void."""
        self._waiting = [each for each in self._waiting if each[0] != negotiation]

    def prove(self, negotiation: int) -> None:
        """The receiver has shown that it applied that description."""
        self.proven = max(self.proven, negotiation)
        self._open(negotiation)

    def prove_first(self, described: int | None) -> None:
        """Whatever it was sent first it has applied; `described` is the oldest one alive."""
        if not self.proven:
            first = self._waiting[0][0] if self._waiting and not self.applied else described
            self.prove(first or 0)

    def expire(self, now: float) -> int:
        """Open what was left unconfirmed; returns how many."""
        overdue = [number for number, deadline in self._waiting if deadline <= now]
        if overdue:
            self._open(max(overdue))
        return len(overdue)

    def next_deadline(self) -> float | None:
        return min((deadline for _, deadline in self._waiting), default=None)

    def __len__(self) -> int:
        return len(self._waiting)

    def _open(self, negotiation: int) -> None:
        self.applied = max(self.applied, negotiation)
        self._waiting = [each for each in self._waiting if each[0] > self.applied]
