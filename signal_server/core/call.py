"""One call: who calls whom, on which devices it rings, which step is legal in which state.

It does not know the time, other calls, which sessions live or what anybody is told.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, StrEnum, auto
from typing import NamedTuple

from msgspec import Raw, Struct, UnsetType

from signal_server.core.call_log import EarlyLog, Entry, Timeline, Trace
from signal_server.wire.call_messages import CallMedia, EndReason


class Party(NamedTuple):
    """One live session: a device of an identity."""

    account: str
    identity: str
    peer: str

    @property
    def who(self) -> tuple[str, str]:
        """The identity in its account, with all its devices."""
        return self.account, self.identity


class CallLimits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sizes in bytes, times in seconds, otherwise counts."""

    lifetime_s: float = 45.0
    """How long an invite waits for an answer when it does not say."""
    lifetime_min_s: float = 5.0
    lifetime_max_s: float = 300.0
    identities_per_call: int = 16
    devices_per_identity: int = 16
    """The ones that came last are rung."""
    placed_per_identity: int = 16
    """Calls that are not over, as their caller."""
    incoming_per_identity: int = 16
    """Unanswered invites to one identity."""
    calls_per_node: int = 50_000
    early_items: int = 256
    early_bytes: int = 256 * 1024
    early_bytes_per_node: int = 64 * 1024 * 1024
    events_per_call: int = 64
    ended_calls: int = 1000
    """Timelines kept after the end."""


class CallState(StrEnum):
    INVITED = "invited"
    RINGING = "ringing"
    ACTIVE = "active"
    ENDED = "ended"


class Step(Enum):
    """What can be done to a call."""

    EARLY = auto()
    """The caller sends ahead of the answer."""
    RING = auto()
    ACCEPT = auto()
    REJECT = auto()
    CANCEL = auto()
    HANG_UP = auto()


_S = CallState
TRANSITIONS: dict[tuple[CallState, Step], CallState] = {
    (_S.INVITED, Step.EARLY): _S.INVITED,
    (_S.INVITED, Step.RING): _S.RINGING,
    (_S.INVITED, Step.ACCEPT): _S.ACTIVE,
    (_S.INVITED, Step.REJECT): _S.INVITED,
    (_S.INVITED, Step.CANCEL): _S.ENDED,
    (_S.RINGING, Step.EARLY): _S.RINGING,
    (_S.RINGING, Step.RING): _S.RINGING,
    (_S.RINGING, Step.ACCEPT): _S.ACTIVE,
    (_S.RINGING, Step.REJECT): _S.RINGING,
    (_S.RINGING, Step.CANCEL): _S.ENDED,
    # A cancel that crosses the answer: the caller must not be left in a call it gave up.
    (_S.ACTIVE, Step.CANCEL): _S.ENDED,
    (_S.ACTIVE, Step.HANG_UP): _S.ENDED,
}
"""A step that is not listed is refused. Every state may also end without anybody's step: nobody is
left to answer, the lifetime is over, a party is gone, the server decides."""


class Role(Enum):
    """What a party is to a call."""

    CALLER = auto()
    CALLEE = auto()
    """The device that answered."""
    INVITED = auto()
    """A device of an invited identity, whether or not it rings there."""
    STRANGER = auto()


MAY: dict[Step, frozenset[Role]] = {
    Step.EARLY: frozenset({Role.CALLER}),
    Step.RING: frozenset({Role.INVITED, Role.CALLEE}),
    Step.ACCEPT: frozenset({Role.INVITED, Role.CALLEE}),
    Step.REJECT: frozenset({Role.INVITED, Role.CALLEE}),
    Step.CANCEL: frozenset({Role.CALLER}),
    Step.HANG_UP: frozenset({Role.CALLER, Role.CALLEE}),
}
"""Who may take a step at all, in whatever state."""


@dataclass(slots=True)
class Invitee:
    """An invited identity that has not declined."""

    legs: dict[str, CallState] = field(default_factory=dict)
    """Devices that got the invite, by peer: invited or ringing."""
    was_reached: bool = False
    is_busy: bool = False
    """One of its devices is, and the others have not answered."""
    was_pushed: bool = False


@dataclass(slots=True, eq=False, kw_only=True)
class Call:
    """`invitees` shrinks as identities decline; it is empty once somebody answered."""

    id: str
    caller: Party
    invited: tuple[str, ...]
    """Identities, as they were invited."""
    room: str
    media: CallMedia
    data: Raw | UnsetType
    deadline: float
    expires_unix_ms: int
    trace: Trace
    state: CallState = CallState.INVITED
    invitees: dict[str, Invitee] = field(default_factory=dict)
    callee: Party | None = None
    accepted_unix_ms: int = 0
    verdict: EndReason | None = None
    """What the identities that are out of it said: declined, else busy."""
    early: EarlyLog = field(default_factory=EarlyLog)

    @property
    def account(self) -> str:
        return self.caller.account

    def role(self, party: Party) -> Role:
        if party == self.caller:
            return Role.CALLER
        if party == self.callee:
            return Role.CALLEE
        return Role.INVITED if party.identity in self.invited else Role.STRANGER

    def legs(self) -> Iterator[tuple[Party, CallState]]:
        """Every device that has the invite and may answer it: invited or ringing."""
        for identity, invitee in self.invitees.items():
            for peer, state in invitee.legs.items():
                yield Party(self.account, identity, peer), state

    def devices(self) -> list[Party]:
        return [device for device, _ in self.legs()]

    def parties(self) -> list[Party]:
        """Everybody who must learn of the call's end."""
        answered = [self.callee] if self.callee is not None else []
        return [self.caller, *answered, *self.devices()]

    def rings_on(self, party: Party) -> bool:
        invitee = self.invitees.get(party.identity)
        return invitee is not None and party.peer in invitee.legs

    def timeout_reason(self) -> EndReason:
        """What to tell the caller when the lifetime is over."""
        if any(invitee.was_reached for invitee in self.invitees.values()):
            return EndReason.NO_ANSWER
        return self.verdict or EndReason.UNREACHABLE

    def note(self, unix_ms: int, event: str, party: Party | None = None) -> None:
        device, identity = (party.peer, party.identity) if party is not None else (None, None)
        self.trace.add(Entry(unix_ms, event, device, identity))

    def timeline(self, reason: EndReason | None = None) -> Timeline:
        return Timeline(
            account=self.account,
            call=self.id,
            state=self.state,
            room=self.room,
            caller=self.caller.identity,
            invited=list(self.invited),
            media=self.media,
            events=list(self.trace.events),
            omitted=self.trace.omitted,
            reason=reason,
            device=self.callee.peer if self.callee is not None else None,
        )
