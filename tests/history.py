"""The history of a conversation, written by its parties, and the judge of what became of it.

Every send is noted before it is asked for, and again with its answer; every arrival with who got it
from whom; every number with its session. The verdict names what was lost, doubled or reordered
between a sender and a receiver outside declared gaps. It does not know transports or servers.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from enum import Enum, auto


class Fate(Enum):
    """What the sender knows of a message."""

    ASKED = auto()
    """No answer: it may arrive once, or not at all."""
    PROMISED = auto()
    """The server said ok: it must arrive."""
    REFUSED = auto()
    """The server said no: it must not arrive."""


@dataclass(slots=True, eq=False)
class Item:
    """One message; `lane` names what must keep its order among itself."""

    sender: str
    receiver: str
    """A peer, or a call whose answering device is not known yet."""
    lane: str
    mark: str
    index: int
    needs: str | None = None
    """Mark of the message that must have arrived before it."""
    fate: Fate = Fate.ASKED

    def promised(self) -> None:
        self.fate = Fate.PROMISED

    def refused(self) -> None:
        self.fate = Fate.REFUSED


@dataclass(slots=True)
class Verdict:
    """All lists are empty when the promise was kept; `arrived` says that there was one."""

    arrived: int = 0
    excused: int = 0
    """Promised, not arrived, and in a declared gap."""
    lost: list[Item] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    reordered: list[str] = field(default_factory=list)
    invented: list[str] = field(default_factory=list)
    """Nobody sent it, not to this receiver, or the server had refused it."""
    too_early: list[str] = field(default_factory=list)
    """A candidate before its description."""
    misnumbered: list[str] = field(default_factory=list)
    """A hole or a repetition in a session's numbers."""

    @property
    def is_good(self) -> bool:
        return not (
            self.lost
            or self.doubled
            or self.reordered
            or self.invented
            or self.too_early
            or self.misnumbered
        )


class History:
    """Parties are named by peer id: one peer is one session."""

    def __init__(self) -> None:
        self._items: dict[str, Item] = {}
        self._of: dict[str, list[Item]] = defaultdict(list)
        """By sender."""
        self._seen: dict[str, set[str]] = defaultdict(set)
        """Marks by receiver."""
        self._arrivals: list[tuple[str, str, str]] = []
        """Receiver, sender and mark, in the order of each receiver."""
        self._numbers: dict[str, int] = {}
        self._misnumbered: list[str] = []
        self._answered_by: dict[str, str] = {}
        """Device by call."""
        self._gaps: set[str] = set()

    # Written by the parties ------------------------------------------------------------------

    def asks(
        self, sender: str, receiver: str, lane: str, mark: str, needs: str | None = None
    ) -> Item:
        """To be called in the order in which messages are handed to the client."""
        assert mark not in self._items, f"{mark} is used twice"
        item = Item(sender, receiver, lane, mark, len(self._items), needs)
        self._items[mark] = item
        self._of[sender].append(item)
        return item

    def arrives(self, receiver: str, sender: str, mark: str) -> None:
        self._arrivals.append((receiver, sender, mark))
        self._seen[receiver].add(mark)

    def numbers(self, session: str, seq: int) -> None:
        """A numbered message as a session's application got it; 0 for one outside the log."""
        if seq == 0:
            return
        expected = self._numbers.get(session, 0) + 1
        if seq != expected:
            self._misnumbered.append(f"{session}: {seq} instead of {expected}")
        self._numbers[session] = seq

    def answers(self, call: str, device: str) -> None:
        """What was sent to the call goes to that device."""
        assert self._answered_by.setdefault(call, device) == device, "a call was answered twice"

    def gap(self, name: str) -> None:
        """What was sent to this peer or call, or by this peer, and has not arrived, need not; what
        was refused may have arrived before that."""
        self._gaps.add(name)

    # Judged ----------------------------------------------------------------------------------

    def missing(self, receiver: str, sender: str) -> int:
        """How many messages of a sender may and should still come."""
        seen = self._seen[receiver]
        return sum(
            self._route(item) == receiver
            and item.mark not in seen
            and item.fate is not Fate.REFUSED
            and not self._is_excused(item)
            for item in self._of[sender]
        )

    def verdict(self) -> Verdict:
        verdict = Verdict(misnumbered=list(self._misnumbered))
        seen: dict[str, set[str]] = defaultdict(set)
        latest: dict[tuple[str, str, str], int] = {}
        for receiver, sender, mark in self._arrivals:
            item = self._items.get(mark)
            where = f"{mark} at {receiver} from {sender}"
            if (
                item is None
                or self._route(item) != receiver
                or item.sender != sender
                or (item.fate is Fate.REFUSED and not self._is_excused(item))
            ):
                verdict.invented.append(where)
                continue
            verdict.arrived += 1
            if mark in seen[receiver]:
                verdict.doubled.append(where)
                continue
            seen[receiver].add(mark)
            lane = (sender, receiver, item.lane)
            if item.index < latest.get(lane, -1):
                verdict.reordered.append(where)
            latest[lane] = max(item.index, latest.get(lane, -1))
            if item.needs is not None and item.needs not in seen[receiver]:
                verdict.too_early.append(where)
        self._find_lost(verdict, seen)
        return verdict

    def _find_lost(self, verdict: Verdict, seen: dict[str, set[str]]) -> None:
        for item in self._items.values():
            receiver = self._route(item)
            if item.fate is not Fate.PROMISED or item.mark in seen[receiver]:
                continue
            if self._is_excused(item):
                verdict.excused += 1
            else:
                verdict.lost.append(item)

    def _is_excused(self, item: Item) -> bool:
        return bool(self._gaps & {self._route(item), item.receiver, item.sender})

    def _route(self, item: Item) -> str:
        return self._answered_by.get(item.receiver, item.receiver)
