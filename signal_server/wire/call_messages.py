"""The call messages, one struct each, in both directions (docs/protocol.md).

Client messages join the union that `wire.codec` decodes. A call is named by the id the server gave
it in `ok{id,call}`; who speaks is known from the session, so no client message says it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from signal_server.wire.base import Numbered, PeerId, Request, RoomName

CallId = Annotated[str, Meta(min_length=1, max_length=64)]
Identity = Annotated[str, Meta(min_length=1, max_length=256)]


class EndReason(StrEnum):
    """Why a call is over for whoever is told."""

    USER_HANGUP = "user_hangup"
    DECLINED = "declined"
    BUSY = "busy"
    NO_ANSWER = "no_answer"
    """It rang and nobody answered within the invite's lifetime."""
    CANCELED = "canceled"
    """The caller gave up, or was gone before anybody answered."""
    ANSWERED_ELSEWHERE = "answered_elsewhere"
    """Another device answered, or the two parties met in another call (`replaced_by`)."""
    UNREACHABLE = "unreachable"
    """No device appeared within the lifetime, or a party's session was lost during the call."""
    ICE_FAILED = "ice_failed"
    MEDIA_FAILED = "media_failed"
    KICKED = "kicked"
    SERVER = "server"


class RejectReason(StrEnum):
    DECLINED = "declined"
    """Speaks for the identity, with all its devices."""
    BUSY = "busy"
    """Speaks for the sender's device only."""


class HangupReason(StrEnum):
    USER_HANGUP = "user_hangup"
    ICE_FAILED = "ice_failed"
    MEDIA_FAILED = "media_failed"


class CallMedia(Struct, frozen=True, gc=False):
    """What a party wants to use; neither means a call of data channels only."""

    audio: bool = False
    video: bool = False

    def within(self, other: CallMedia) -> CallMedia:
        """What both want."""
        return CallMedia(audio=self.audio and other.audio, video=self.video and other.video)


class CallInvite(Request, tag="call_invite", kw_only=True):
    to: Identity | Annotated[list[Identity], Meta(min_length=1, max_length=64)]
    media: CallMedia = CallMedia(audio=True)
    lifetime_s: Annotated[float, Meta(gt=0, le=3600)] | None = None
    """How long it may ring; the server's default when absent."""
    data: Raw | UnsetType = UNSET
    room: RoomName | None = None
    """Where the parties meet; a room of its own, named like the call, when absent."""

    def identities(self) -> tuple[str, ...]:
        """Whom to invite, each once."""
        return (self.to,) if isinstance(self.to, str) else tuple(dict.fromkeys(self.to))


class CallRequest(Request, kw_only=True, gc=False):
    """A message about a call that exists."""

    call: CallId


class CallRinging(CallRequest, tag="call_ringing", kw_only=True):
    """The sender's device shows the invite."""


class CallAccept(CallRequest, tag="call_accept", kw_only=True):
    media: CallMedia | None = None
    """Less than was offered (accept without video); absent: as offered."""


class CallReject(CallRequest, tag="call_reject", kw_only=True):
    reason: RejectReason = RejectReason.DECLINED


class CallCancel(CallRequest, tag="call_cancel", kw_only=True):
    """The caller gives up."""


class CallHangup(CallRequest, tag="call_hangup", kw_only=True):
    reason: HangupReason = HangupReason.USER_HANGUP


CallClientMessage = CallInvite | CallRinging | CallAccept | CallReject | CallCancel | CallHangup
CALL_CLIENT_MESSAGES: tuple[type[Struct], ...] = CallClientMessage.__args__


class CallEvent(Numbered, kw_only=True, gc=False):
    call: str


class CallInvited(CallEvent, tag="call_invite", kw_only=True):
    sender: PeerId = msgspec.field(name="from")
    """The calling device."""
    identity: str
    """The caller's."""
    room: str
    media: CallMedia
    lifetime_s: float
    """What is left of it."""
    waiting: bool = False
    """The receiver's identity is in another call."""
    data: Raw | UnsetType = UNSET


class CallRings(CallEvent, tag="call_ringing", kw_only=True):
    device: PeerId
    identity: str


class CallAccepted(CallEvent, tag="call_accepted", kw_only=True):
    """To the caller and to the device that answered."""

    sender: PeerId = msgspec.field(name="from")
    """The calling device."""
    device: PeerId
    """The device that answered."""
    identity: str
    """The other party's, as seen by the receiver."""
    room: str
    media: CallMedia


class CallEnded(CallEvent, tag="call_ended", kw_only=True):
    reason: EndReason
    device: PeerId | None = None
    """Whose doing it was, where the receiver may know."""
    replaced_by: str | None = None
    """The call in which the two parties met who had called each other."""


CALL_SERVER_MESSAGES: tuple[type[Numbered], ...] = (CallInvited, CallRings, CallAccepted, CallEnded)

CallServerMessage = CallInvited | CallRings | CallAccepted | CallEnded


class CallPeer(Struct, frozen=True, gc=False):
    peer: str
    identity: str
    state: str
    """`invited`, `ringing`, `active`."""


class CallSnapshot(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One call as a resuming session must see it."""

    call: str
    state: str
    """`invited`, `ringing` or `active`; `ringing` toward a device that has not answered means that
    it has said so itself."""
    role: Literal["caller", "callee"]
    peers: list[CallPeer]
    """The other devices the receiver may know: the other party, or who is being called."""
    room: str
    media: CallMedia
    lifetime_s: float | None = None
    """What is left of the invite; absent once the call is active."""
    data: Raw | UnsetType = UNSET
    """The invite's, for a device that has not answered."""
