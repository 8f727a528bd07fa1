"""Rooms and sessions: who may address whom, in which order they came, what they show.

Membership only; what members say to each other is the switchboard's and the negotiations' business.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from msgspec import UNSET, Raw, UnsetType

from signal_server.core.inputs import Permit
from signal_server.core.negotiation import Negotiation


@dataclass(slots=True, eq=False)
class Session:
    """A peer's presence on this node."""

    id: str
    peer: str
    connection: int
    permit: Permit
    gated: bool
    room: Room | None = None
    rank: int = 0
    """Join order in the room; of a pair, the later one is polite."""
    data: Raw | UnsetType = UNSET
    seq: int = 0
    """Number of the last message in this session's numbered log."""
    ends: dict[tuple[str, str], Negotiation] = field(default_factory=dict)
    """Own end of each negotiation, by (other peer, pc)."""
    replies: dict[str | int, bytes] = field(default_factory=dict)
    """Answers to the latest request ids, repeated instead of executed again."""

    def next_seq(self) -> int:
        self.seq += 1
        return self.seq


@dataclass(slots=True, eq=False)
class Room:
    """The set of peers who may address each other."""

    account: str
    name: str
    epoch: int
    revision: int = 0
    joined: int = 0
    """Joins since the room was created."""
    members: dict[str, Session] = field(default_factory=dict)

    def add(self, session: Session) -> None:
        self.joined += 1
        session.rank = self.joined
        session.room = self
        self.members[session.peer] = session
        self.revision += 1

    def remove(self, session: Session) -> None:
        del self.members[session.peer]
        session.room = None
        self.revision += 1

    def others(self, session: Session) -> list[Session]:
        return [member for member in self.members.values() if member is not session]


def is_polite(me: Session, other: Session) -> bool:
    """The later joiner yields in glare (perfect negotiation)."""
    return me.rank > other.rank
