"""What can happen to the switchboard. Randomness and identities arrive in the input."""

from __future__ import annotations

from typing import Any

from msgspec import Raw, Struct

from signal_server.wire.codec import Refusal
from signal_server.wire.messages import ClientMessage, Hello, Resume
from turn_broker.globs import matches


class Permit(Struct, frozen=True, kw_only=True):
    """What an access token allows, already verified at the edge."""

    account: str
    identity: str
    name: str | None = None
    join: bool = True
    """Whether the token opens rooms."""
    room: str | None = None
    """Which: a name with `*` and `?`; None for all."""
    may_turn: bool = True
    may_call: bool = True
    relay_only: bool = False
    """Only relay candidates may leave this peer."""

    @property
    def who(self) -> tuple[str, str]:
        """The identity in its account."""
        return self.account, self.identity

    def may_join(self, name: str) -> bool:
        """Whether the token opens that room."""
        return self.join and (self.room is None or matches(self.room, name))


class IceGrant(Struct, frozen=True):
    """ICE servers with a fresh TURN credential."""

    ice_servers: list[dict[str, Any]]
    ttl: int
    """Seconds."""
    expires_at: int
    """Unix seconds."""


class Admission(Struct, frozen=True, kw_only=True):
    """What the edge made for a hello that may enter: an allowed bearer and fresh randomness."""

    permit: Permit
    token_life_s: float
    """Until the access token expires."""
    resume_secret: str
    address: str = ""
    """Key of the client's address, for limits."""
    remote: str = ""
    """The client's address itself, for what its credentials are bound to."""
    node: str = ""
    """Where the client is connected."""
    region: str = ""


class Opened(Struct, frozen=True, kw_only=True):
    """A connection said hello with a valid token."""

    connection: int
    admission: Admission
    session: str
    peer: str
    hello: Hello
    ice: IceGrant | None = None


class Resumed(Struct, frozen=True, kw_only=True):
    """A connection asks to take up a session, with a valid token."""

    connection: int
    admission: Admission
    resume: Resume
    request: str | int | None = None


class Refreshed(Struct, frozen=True, kw_only=True):
    """A session presented a fresh token, already verified."""

    connection: int
    permit: Permit
    token_life_s: float
    request: str | int | None = None


class Received(Struct, frozen=True, gc=False):
    """A decoded message from a connection that is open."""

    connection: int
    message: ClientMessage
    fresh_id: str = ""
    """Random; for messages that create something."""


class Closed(Struct, frozen=True):
    """A connection is gone."""

    connection: int
    reason: str
    """`left` ends the session; after anything else it waits."""


class Rekeyed(Struct, frozen=True):
    """The node goes alone: what it tells from now on goes with another secret."""

    connection: int
    secret: str


class IceGranted(Struct, frozen=True, kw_only=True):
    """The broker's answer to an `effects.GrantIce`: a grant, a no, or None when it has neither."""

    session: str
    request: str | int | None
    grant: IceGrant | Refusal | None


class Draining(Struct, frozen=True, kw_only=True):
    """This node is going away."""

    reason: str
    spread_ms: int
    """The sessions are asked to reconnect at moments spread over this time."""
    deadline_ms: int
    url: str | None = None
    """Where they may go instead."""
    among: range | None = None
    """The connections of the node that goes; None for all."""


class Removed(Struct, frozen=True, kw_only=True):
    """An operator takes a peer out of a room, or closes the room (no peer)."""

    account: str
    room: str
    peer: str | None = None
    ban_s: float = 0
    """How long its identity may not come back, whatever its token says."""


class Said(Struct, frozen=True, kw_only=True):
    """An operator's message to everybody in a room."""

    account: str
    room: str
    data: Raw


class ListRooms(Struct, frozen=True, kw_only=True, tag=True):
    """Names and sizes, in the order of names."""

    after: str
    limit: int


class ShowRoom(Struct, frozen=True, kw_only=True, tag=True):
    """One room with its members."""

    room: str


class ShowCall(Struct, frozen=True, kw_only=True, tag=True):
    """One call's timeline."""

    call: str


class CloseRoom(Struct, frozen=True, kw_only=True, tag=True):
    """Everybody out."""

    room: str


class Kick(Struct, frozen=True, kw_only=True, tag=True):
    """One peer out."""

    room: str
    peer: str
    ban_s: float


class Tell(Struct, frozen=True, kw_only=True, tag=True):
    """The operator speaks to a room; `data` is JSON."""

    room: str
    data: Raw


Question = ListRooms | ShowRoom | ShowCall | CloseRoom | Kick | Tell


class Asked(Struct, frozen=True, kw_only=True):
    """An operator's wish, which `effects.Answered` settles."""

    ticket: int
    account: str
    question: Question


Input = (
    Opened
    | Resumed
    | Refreshed
    | Received
    | Closed
    | Rekeyed
    | IceGranted
    | Draining
    | Removed
    | Said
    | Asked
)
