"""Rooms and sessions: who may address whom, in which order they came, what they show.

Membership only; what members say to each other is the switchboard's and the negotiations' business.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from msgspec import UNSET, Raw, UnsetType
from mypy_extensions import mypyc_attr

from signal_server.core.address_policy import AddressPolicy
from signal_server.core.inputs import Permit
from signal_server.core.negotiation import Negotiation
from signal_server.core.outbox import Outbox
from signal_server.core.rate_limit import RateKeys


@mypyc_attr(serializable=True, allow_interpreted_subclasses=True)
@dataclass(slots=True, eq=False)
class Followed:
    """A message of which its sender wants to know what becomes."""

    peer: str
    """The receiver."""
    held: int = 0
    """Its candidates that wait in the sender's buffer."""
    has_passed: bool = True
    """Something of it is in the receiver's log."""
    is_description: bool = False
    """It may still be applied."""
    is_received: bool = False


@mypyc_attr(serializable=True, allow_interpreted_subclasses=True)
@dataclass(slots=True, eq=False)
class Session:
    """A peer's presence on this node."""

    id: str
    peer: str
    permit: Permit
    gated: bool
    outbox: Outbox
    secret_hash: bytes
    """SHA-256 of the secret that resumes this session; a new one with every resume."""
    connection: int | None
    """None while it waits to be resumed."""
    keys: RateKeys
    """Under which names its messages are counted."""
    policy: AddressPolicy
    """What of its addresses may leave."""
    remote: str = ""
    """Where it is connected from."""
    former_hashes: tuple[bytes, ...] = ()
    """Of secrets that its client may still hold, because it has not spoken since; latest last."""
    token_ends: float = 0.0
    """When its access token expires (monotonic seconds)."""
    refusals: int = 0
    """Messages refused in a row because they came too fast."""
    room: Room | None = None
    rank: int = 0
    """Join order in the room; of a pair, the later one is polite."""
    data: Raw | UnsetType = UNSET
    ends: dict[tuple[str, str], Negotiation] = field(default_factory=dict)
    """Own end of each negotiation, by (other peer, pc)."""
    replies: dict[str | int, bytes] = field(default_factory=dict)
    """Answers to the latest request ids, repeated instead of executed again."""
    followed: dict[str | int, Followed] | None = None
    """Own messages that are followed, by `id`; None without the feature `receipts`."""
    awaited: deque[tuple[int, str, str | int]] | None = None
    """Messages of the log whose acknowledgement somebody waits for: number, sender, `id`."""
    ice_wish: tuple[int | None, str | None] = (None, None)
    """Life (seconds) and region asked for in the latest `ice_servers`."""


@mypyc_attr(serializable=True, allow_interpreted_subclasses=True)
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
        session.keys = session.keys.in_room(f"{self.account}/{self.name}")
        self.members[session.peer] = session
        self.revision += 1

    def remove(self, session: Session) -> None:
        del self.members[session.peer]
        session.room = None
        session.keys = session.keys.in_room(None)
        self.revision += 1

    def replace(self, former: Session, session: Session) -> None:
        """One device under a new session: one change."""
        self.remove(former)
        self.add(session)
        self.revision -= 1

    def others(self, session: Session) -> list[Session]:
        return [member for member in self.members.values() if member is not session]


def is_polite(me: Session, other: Session) -> bool:
    """The later joiner yields in glare (perfect negotiation)."""
    return me.rank > other.rank
