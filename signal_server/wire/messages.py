"""The signaling messages, one struct each, in both directions (docs/protocol.md).

Client messages form a closed union decoded by `wire.codec`; server messages are encoded by it.
Fields a client may not decide (`from`, `identity`, `seq`) do not exist on client messages.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from signal_server.wire.base import Numbered, PeerId, Reply, Request, RoomName, SequenceNumber
from signal_server.wire.call_messages import CALL_SERVER_MESSAGES, CallClientMessage, CallSnapshot
from signal_server.wire.candidate import CandidateInit
from signal_server.wire.receipts import Receipt

PROTOCOL = "parley.v1.json"
"""WebSocket subprotocol."""
TOKEN_PROTOCOL_PREFIX = "parley.token."  # noqa: S105
"""A subprotocol with this prefix carries the access token instead of naming a protocol."""
DEFAULT_PC = "main"

PcName = Annotated[str, Meta(min_length=1, max_length=32)]
NegotiationNumber = Annotated[int, Meta(ge=1, le=2**31 - 1)]
PeerConnectionState = Literal[
    "new", "connecting", "connected", "disconnected", "failed", "closed"
]  # W3C RTCPeerConnectionState
CandidateType = Literal["host", "srflx", "prflx", "relay"]


class Former(Struct, gc=False):
    """The session that a new one of the same device replaces."""

    session: Annotated[str, Meta(max_length=64)]
    secret: Annotated[str, Meta(max_length=128)]


class Resume(Struct, gc=False):
    """The session to take up again."""

    session: Annotated[str, Meta(max_length=64)]
    secret: Annotated[str, Meta(max_length=128)]
    last_seq: SequenceNumber = 0
    """Highest number up to which the client has everything."""


class Hello(Request, tag="hello", kw_only=True):
    token: str | None = None
    """Access token (JWT); absent when the connection request carried it."""
    room: RoomName | None = None
    data: Raw | UnsetType = UNSET
    resume: Resume | None = None
    replaces: Former | None = None
    """Ignored beside `resume`, and when that session is over or the secret is wrong."""
    features: Annotated[list[str], Meta(max_length=16)] = msgspec.field(default_factory=list)


class Join(Request, tag="join", kw_only=True):
    room: RoomName
    data: Raw | UnsetType = UNSET


class Leave(Request, tag="leave", kw_only=True):
    room: RoomName | None = None


class Directed(Request, kw_only=True, gc=False):
    """A message to one peer about one of the pair's peer connections."""

    to: PeerId
    pc: PcName = DEFAULT_PC


class Description(Directed, kw_only=True):
    sdp: str
    negotiation: NegotiationNumber | None = None


class Offer(Description, tag="offer", kw_only=True):
    pass


class Answer(Description, tag="answer", kw_only=True):
    pass


class Pranswer(Description, tag="pranswer", kw_only=True):
    pass


class Rollback(Directed, tag="rollback", kw_only=True):
    sdp: str = ""
    negotiation: NegotiationNumber | None = None


class Candidate(Directed, tag="candidate", kw_only=True):
    """One candidate, several, or null for end-of-candidates."""

    candidate: CandidateInit | UnsetType | None = UNSET
    candidates: list[CandidateInit | None] | UnsetType = UNSET
    negotiation: NegotiationNumber | None = None


class Applied(Directed, tag="applied", kw_only=True):
    """The sender has set the remote description of that negotiation."""

    negotiation: NegotiationNumber


class Renegotiate(Directed, tag="renegotiate", kw_only=True):
    reason: Literal["needed", "ice_restart"] = "needed"


class State(Directed, tag="state", kw_only=True):
    state: PeerConnectionState
    candidate_type: CandidateType | None = None


class Message(Request, tag="message", kw_only=True):
    to: PeerId | None = None
    """Absent: everybody else in the room."""
    data: Raw


class Update(Request, tag="update", kw_only=True):
    data: Raw


class IceServersRequest(Request, tag="ice_servers", kw_only=True):
    ttl: Annotated[int, Meta(ge=1, le=10**9)] | None = None
    region: Annotated[str, Meta(max_length=64)] | None = None


class Ping(Request, tag="ping", kw_only=True):
    t: float | int | None = None


class Ack(Request, tag="ack", kw_only=True):
    """Everything up to `seq` has arrived; may ride on any message as `ack` instead."""

    seq: SequenceNumber


class Refresh(Request, tag="refresh", kw_only=True):
    """A fresh access token for the same identity."""

    token: str


class Bye(Request, tag="bye", kw_only=True):
    pass


ClientMessage = (
    Hello
    | Join
    | Leave
    | Offer
    | Answer
    | Pranswer
    | Rollback
    | Candidate
    | Applied
    | Renegotiate
    | State
    | Message
    | Update
    | IceServersRequest
    | Ping
    | Ack
    | Refresh
    | Bye
    | CallClientMessage
)

CLIENT_MESSAGES: tuple[type[Struct], ...] = ClientMessage.__args__
"""Every client message type, for documentation and tests."""


class RosterEntry(Struct, omit_defaults=True, kw_only=True, gc=False):
    peer: str
    identity: str
    polite: bool
    """The receiver's own role toward this peer (webrtc-pc, perfect negotiation)."""
    name: str | None = None
    connected: bool = True
    """False while its connection is lost and its session may still be resumed."""
    data: Raw | UnsetType = UNSET


class RoomState(Struct):
    """A room as it is, outside the numbered log."""

    room: str
    epoch: int
    revision: int
    peers: list[RosterEntry]


class WelcomeResume(Struct):
    secret: str
    window_s: float
    """How long the session waits for its client after the connection is lost."""


class Welcome(Reply, tag="welcome", kw_only=True):
    session: str
    peer: str
    identity: str
    resume: WelcomeResume
    node: str
    region: str
    ping_interval_s: float
    limits: dict[str, Any]
    ice_servers: list[dict[str, Any]] | None = None
    ice_expires_at: int | None = None
    """Unix seconds."""


class Resumed(Reply, tag="resumed", kw_only=True):
    """The session goes on; what it missed follows with its old numbers."""

    session: str
    peer: str
    identity: str
    resume: WelcomeResume
    from_seq: int
    """Number of the first message that follows."""
    replayed: int
    """How many of them were sent before."""
    node: str
    region: str
    ping_interval_s: float
    limits: dict[str, Any]
    rooms: list[RoomState]
    """The room as it is now, where the session is in one: nobody else is in it."""
    calls: list[CallSnapshot]
    """Those that go on."""


class Ok(Reply, tag="ok", kw_only=True):
    id: str | int
    negotiation: int | None = None
    """The number the server gave the offer this answers."""
    room: str | None = None
    call: str | None = None
    """The id of the call that was invited to."""


class Error(Reply, tag="error", kw_only=True):
    code: str
    message: str
    retryable: bool
    id: str | int | None = None
    retry_after_ms: int | None = None
    negotiation: int | None = None
    """The offer that lost (`glare`), where it had been relayed."""
    winner_negotiation: int | None = None
    """The offer that won (`glare`)."""


class Pong(Reply, tag="pong", kw_only=True):
    t: float | int | None = None


class NewSecret(Reply, tag="new_secret", kw_only=True):
    """The node goes alone: what it says from now on may be known nowhere else, so the former secret
    stands for what was said before, and this one for what follows."""

    resume: WelcomeResume


class RoomSnapshot(Numbered, tag="room", kw_only=True):
    room: str
    epoch: int
    """Changes when a room of the same name is created anew."""
    revision: int
    """Grows by one with every change of membership or presence data."""
    peers: list[RosterEntry]


class TokenExpiring(Numbered, tag="token_expiring", kw_only=True):
    """Send `refresh` before then, or the connection is closed with 4005."""

    expires_in_s: float


class PeerJoined(Numbered, tag="peer_joined", kw_only=True):
    peer: str
    identity: str
    revision: int
    polite: bool
    name: str | None = None
    data: Raw | UnsetType = UNSET


class PeerLeft(Numbered, tag="peer_left", kw_only=True):
    peer: str
    identity: str
    revision: int
    reason: str


class PeerReplaced(Numbered, tag="peer_replaced", kw_only=True):
    """The same device under a new session: `replaced` has left, `peer` has joined."""

    peer: str
    replaced: str
    identity: str
    revision: int
    polite: bool
    name: str | None = None
    data: Raw | UnsetType = UNSET


class PeerUpdated(Numbered, tag="peer_updated", kw_only=True):
    peer: str
    identity: str
    revision: int
    connected: bool | None = None
    data: Raw | UnsetType = UNSET


class Relayed(Numbered, kw_only=True, gc=False):
    """What a peer sent, stamped by the server."""

    sender: str = msgspec.field(name="from")
    identity: str


class RelayedPair(Relayed, kw_only=True, gc=False):
    pc: str
    negotiation: int


class RelayedOffer(RelayedPair, tag="offer", kw_only=True):
    sdp: str


class RelayedAnswer(RelayedPair, tag="answer", kw_only=True):
    sdp: str


class RelayedPranswer(RelayedPair, tag="pranswer", kw_only=True):
    sdp: str


class RelayedRollback(RelayedPair, tag="rollback", kw_only=True):
    pass


class RelayedCandidates(RelayedPair, tag="candidate", kw_only=True):
    candidates: list[CandidateInit]


class RelayedApplied(RelayedPair, tag="applied", kw_only=True):
    pass


class RelayedRenegotiate(RelayedPair, tag="renegotiate", kw_only=True):
    reason: str


class RelayedState(RelayedPair, tag="state", kw_only=True):
    state: str
    candidate_type: str | None = None


class RelayedMessage(Relayed, tag="message", kw_only=True):
    data: Raw


class IceServers(Numbered, tag="ice_servers", kw_only=True):
    ice_servers: list[dict[str, Any]]
    ttl: int
    """Seconds."""
    expires_at: int
    """Unix seconds."""


class GoAway(Numbered, tag="go_away", kw_only=True):
    reason: str
    reconnect_after_ms: int
    deadline_ms: int
    url: str | None = None
    """Where to go instead, if it is not the same address."""


_ROOM = (RoomSnapshot, PeerJoined, PeerLeft, PeerReplaced, PeerUpdated)
_SDP = (RelayedOffer, RelayedAnswer, RelayedPranswer, RelayedRollback)
_PAIR = (RelayedCandidates, RelayedApplied, RelayedRenegotiate, RelayedState, RelayedMessage)
_GREETING = (Welcome, Resumed, NewSecret)
_SESSION = (Ok, Error, Pong, IceServers, TokenExpiring, GoAway, Receipt)
SERVER_MESSAGES: tuple[type[Struct], ...] = (
    *(*_GREETING, *_SESSION, *_ROOM, *_SDP, *_PAIR),
    *CALL_SERVER_MESSAGES,
)
"""Every server message type, for documentation and tests."""
