"""End-of-candidates (RFC 8838 section 13): what one covers, and what it must wait for.

Questions about what is held and described; they change nothing. They do not know time or limits.
"""

from __future__ import annotations

from signal_server.core.description import UNNAMED, Descriptions
from signal_server.core.strand import Held, Section, Strand, key_of
from signal_server.wire.candidate import CandidateInit

_NO_SECTIONS: frozenset[Section] = frozenset()
_UNNAMED = frozenset((UNNAMED,))


def is_ended(
    descriptions: Descriptions,
    strand: Strand,
    candidate: CandidateInit,
    ufrag: str,
    waiting: frozenset[Section] = _NO_SECTIONS,
) -> bool:
    """End-of-candidates was said for this m-section; those for `waiting` do not count."""
    ended = strand.ended - waiting if waiting else strand.ended
    section = descriptions.section_of(candidate)
    if section is not None and (
        section in ended or (candidate.sdpMid is None and candidate.sdpMLineIndex in ended)
    ):
        return True
    if strand.ended_at is None or None in waiting:
        return False
    if ufrag not in descriptions.names:
        return True
    described = descriptions.since(candidate, ufrag)
    return described is not None and described <= strand.ended_at


def must_wait(
    descriptions: Descriptions,
    candidate: CandidateInit,
    ended: frozenset[str],
    held: list[Held],
) -> bool:
    """An end for the ufrags `ended` must not overtake what it covers, or may turn out to cover."""
    if not candidate.is_end or not held:
        return False
    return any(
        _covers(descriptions, candidate, ended, item)
        or _covers(descriptions, candidate, _UNNAMED, item)
        for item in held
    )


def waiting_for(descriptions: Descriptions, ufrag: str, held: list[Held]) -> frozenset[Section]:
    """The sections of this ufrag whose end is held."""
    return frozenset(
        descriptions.section_of(item.candidate)
        for item in held
        if item.candidate.is_end and ufrag in item.ends
    )


def out_of_place(descriptions: Descriptions, held: list[Held]) -> tuple[list[Held], list[Held]]:
    """What was said twice, and what was said after its end, now that it is known whose they are."""
    keys: set[tuple[str, int]] = set()
    ends: list[Held] = []
    again: list[Held] = []
    late: list[Held] = []
    for item in held:
        key = (item.ufrag, key_of(item.candidate))
        if key in keys:
            again.append(item)
        elif any(_covers(descriptions, end.candidate, end.ends, item) for end in ends):
            (again if item.candidate.is_end else late).append(item)
        elif item.candidate.is_end:
            ends.append(item)
        keys.add(key)
    return again, late


def _covers(
    descriptions: Descriptions, end: CandidateInit, ended: frozenset[str], item: Held
) -> bool:
    """Whether an end for these ufrags is one for that item."""
    if item.ufrag not in ended:
        return False
    section = descriptions.section_of(end)
    return section is None or descriptions.section_of(item.candidate) == section
