"""What the descriptions of one peer vouch for: which ufrag and m-section, and since when.

Between two answers several are alive: the settled one, an own offer, a provisional answer. It
does not know candidates' fates, time or who receives them.
"""

from __future__ import annotations

from mypy_extensions import mypyc_attr

from signal_server.core.strand import Section
from signal_server.wire.candidate import CandidateInit
from signal_server.wire.sdp import Outline

_Sections = dict[str | None, int]
"""Each mid (None: a section without one) with the negotiation that first described it."""
_ANY = ""
"""Stands for the ufrag of sections that name none: rejected ones, and bundled ones whose ICE
attributes are left to another (RFC 9429 section 5.2.2)."""

UNNAMED = ""
"""Stands for the ufrag of candidates that came without one before their m-section was described."""
_REMEMBERED_SECTIONS = 256


@mypyc_attr(serializable=True, allow_interpreted_subclasses=True)
class Description:
    """One description, read once."""

    __slots__ = ("_sections", "_ufrag_of_mid", "mids", "names", "number", "ufrags")

    def __init__(self, number: int, outline: Outline, alive: Descriptions) -> None:
        self.number = number
        self.mids = outline.mids
        self.ufrags = outline.ufrags
        self.names = frozenset(ufrag for ufrag in outline.ufrags if ufrag)
        self._ufrag_of_mid: dict[str | None, str] = {}
        self._sections: dict[str, _Sections] = {}
        for mid, ufrag in zip(outline.mids, outline.ufrags, strict=True):
            known = alive.first_to_name(ufrag or _ANY, mid)
            self._sections.setdefault(ufrag or _ANY, {})[mid] = known or number
            self._ufrag_of_mid[mid] = ufrag or self.first_ufrag

    @property
    def is_wild(self) -> bool:
        """It names no ICE at all (it may be encrypted), so it vouches for everything."""
        return not self.names

    @property
    def first_ufrag(self) -> str:
        return next((ufrag for ufrag in self.ufrags if ufrag), "")

    def ufrag_for(self, candidate: CandidateInit) -> str:
        """The ufrag in force for the candidate's m-section; mid wins over index.

        `UNNAMED` where that section is not described.
        """
        mid, index = candidate.sdpMid, candidate.sdpMLineIndex
        if mid is not None:
            found = self._ufrag_of_mid
            return found[mid] if mid in found else found.get(None, UNNAMED)
        if index is None:
            return self.first_ufrag
        if index >= len(self.ufrags):
            return UNNAMED
        return self.ufrags[index] or self.first_ufrag

    def first_to_name(self, ufrag: str, mid: str | None) -> int | None:
        return self._sections.get(ufrag, {}).get(mid)

    def since(self, candidate: CandidateInit, ufrag: str) -> int | None:
        """Negotiation that first described the candidate's m-section under this ufrag."""
        own = self._sections.get(ufrag)
        if own is None or ufrag == _ANY:
            return None
        mid, index = candidate.sdpMid, candidate.sdpMLineIndex
        if mid is None:
            if index is None:
                return self._newest(candidate, own)
            if index >= len(self.mids):
                return None
            mid = self.mids[index]
        for sections in (own, self._sections.get(_ANY, {})):
            if mid in sections:
                return sections[mid]
        return own.get(None)

    def _newest(self, candidate: CandidateInit, own: _Sections) -> int:
        """End-of-candidates for all m-sections waits for the last of them."""
        if candidate.ufrag is not None:
            return max(own.values())
        return max(max(sections.values()) for sections in self._sections.values())


@mypyc_attr(serializable=True, allow_interpreted_subclasses=True)
class Descriptions:
    """The descriptions alive: the settled one and those that wait for their answer."""

    __slots__ = ("_names", "_open", "_settled", "_since")

    def __init__(self) -> None:
        self._settled: Description | None = None
        self._open: dict[int, Description] = {}
        # Both are derived, and asked for with every candidate.
        self._names: frozenset[str] | None = None
        self._since: dict[tuple[str, str | None, int | None], int | None] = {}

    @property
    def latest(self) -> Description | None:
        return next(reversed(self._open.values()), self._settled)

    @property
    def names(self) -> frozenset[str]:
        """Every ufrag that is in use."""
        if self._names is None:
            self._names = frozenset().union(*(d.names for d in self._alive()))
        return self._names

    @property
    def first(self) -> int | None:
        """Negotiation of the oldest one alive."""
        return next((description.number for description in self._alive()), None)

    def has(self, number: int) -> bool:
        """Whether the description of that negotiation is alive."""
        settled = self._settled
        return number in self._open or (settled is not None and settled.number == number)

    def add(self, number: int, outline: Outline) -> frozenset[str]:
        """Take one up; a later one of the same negotiation replaces it. Returns what is history."""
        before = self.names
        description = Description(number, outline, self)
        self._open.pop(number, None)
        self._open[number] = description
        self._changed()
        return before - self.names

    def settle(self, number: int) -> frozenset[str]:
        """The exchange is complete, all others are void. Returns the ufrags that are history."""
        if number not in self._open:
            return frozenset()
        before = self.names
        settled = self._settled = self._open[number]
        self._open.clear()
        self._changed()
        return frozenset() if settled.is_wild else before - settled.names

    def roll_back(self, number: int) -> frozenset[str]:
        """This one is void. Returns the ufrags that are history."""
        before = self.names
        if self._open.pop(number, None) is not None:
            self._changed()
        return before - self.names

    def ufrag_for(self, candidate: CandidateInit) -> str:
        """Its own, else that of the latest description of its m-section (RFC 9429 section 3.5.2.1).

        `UNNAMED` where no description carries that section yet.
        """
        own = candidate.ufrag
        if own is not None:
            return own
        for description in reversed(self._alive()):
            ufrag = description.ufrag_for(candidate)
            if ufrag != UNNAMED or description.is_wild:
                return ufrag
        return UNNAMED

    def section_of(self, candidate: CandidateInit) -> Section:
        """Its mid where that is known, else its index; None for all m-sections."""
        mid, index = candidate.sdpMid, candidate.sdpMLineIndex
        if mid is None and index is not None:
            latest = self.latest
            if latest is not None and index < len(latest.mids):
                mid = latest.mids[index]
        return index if mid is None else mid

    def ended_by(self, end: CandidateInit, ufrag: str) -> frozenset[str]:
        """The ufrags that an end-of-candidates ends if it is said now."""
        latest = self.latest
        if end.ufrag is None and latest is not None and self.section_of(end) is None:
            return latest.names | {ufrag}
        return frozenset((ufrag,))

    def named_end(self, candidate: CandidateInit, ufrag: str) -> CandidateInit:
        """End-of-candidates names its ICE session, so that a late one cannot end a newer one.

        One that ends several ICE sessions at once cannot, and stays as it came.
        """
        if not candidate.is_end or candidate.usernameFragment or not ufrag:
            return candidate
        latest = self.latest
        if self.section_of(candidate) is None and latest is not None and len(latest.names) > 1:
            return candidate
        return CandidateInit("", candidate.sdpMid, candidate.sdpMLineIndex, ufrag)

    def since(self, candidate: CandidateInit, ufrag: str) -> int | None:
        """Negotiation that first described the candidate's m-section; None when none has."""
        if not candidate.candidate:
            return self._first(candidate, ufrag)
        key = (ufrag, candidate.sdpMid, candidate.sdpMLineIndex)
        if key not in self._since:
            if len(self._since) >= _REMEMBERED_SECTIONS:
                self._since.clear()
            self._since[key] = self._first(candidate, ufrag)
        return self._since[key]

    def _first(self, candidate: CandidateInit, ufrag: str) -> int | None:
        found = [
            number
            for description in self._alive()
            if (number := description.since(candidate, ufrag)) is not None
        ]
        if found:
            for_all = candidate.sdpMid is None and candidate.sdpMLineIndex is None
            return max(found) if for_all else found[0]
        latest = self.latest
        return latest.number if latest is not None and latest.is_wild else None

    def first_to_name(self, ufrag: str, mid: str | None) -> int | None:
        """Negotiation that first put this m-section under this ufrag."""
        for description in self._alive():
            found = description.first_to_name(ufrag, mid)
            if found is not None:
                return found
        return None

    def _changed(self) -> None:
        self._names = None
        self._since.clear()

    def _alive(self) -> list[Description]:
        settled = [] if self._settled is None else [self._settled]
        return [*settled, *self._open.values()]
