"""What calls want done, and what each party is told and shown of one.

Outcomes are values for the switchboard, to be executed in order: messages for peers, and the facts
that rooms, webhooks and push services act upon. It does not know the rules of calls.
"""

from __future__ import annotations

from msgspec import UNSET, Struct

from signal_server.core.call import Call, Party
from signal_server.wire import call_messages as m
from signal_server.wire.call_messages import CallMedia, CallServerMessage, EndReason


class Notify(Struct, frozen=True):
    """Put a server message into a peer's log."""

    peer: str
    message: CallServerMessage


class Invited(Struct, frozen=True, kw_only=True):
    """A call has begun (webhook call.invited)."""

    account: str
    call: str
    room: str
    caller: Party
    identities: tuple[str, ...]
    media: CallMedia


class PushRequested(Struct, frozen=True, kw_only=True):
    """An invited identity has no live device (webhook push.requested); once per call."""

    account: str
    identity: str
    call: str
    room: str
    caller: Party
    media: CallMedia
    expires_unix_ms: int


class Paired(Struct, frozen=True, kw_only=True):
    """Answered (webhook call.accepted): bring both into the room, the caller first so that it is
    the impolite one, and relay `early` from the caller to the callee."""

    account: str
    call: str
    room: str
    caller: Party
    callee: Party
    media: CallMedia
    early: tuple[object, ...]


class Over(Struct, frozen=True, kw_only=True):
    """A call has ended (webhook call.ended); exactly one for every `Invited`."""

    account: str
    call: str
    room: str
    caller: Party
    callee: Party | None
    """None: nobody had answered."""
    reason: EndReason
    active_ms: int


Outcome = Notify | Invited | PushRequested | Paired | Over
"""To be executed in order."""


def invited(call: Call) -> Invited:
    return Invited(
        account=call.account,
        call=call.id,
        room=call.room,
        caller=call.caller,
        identities=call.invited,
        media=call.media,
    )


def push_requested(call: Call, identity: str) -> PushRequested:
    return PushRequested(
        account=call.account,
        identity=identity,
        call=call.id,
        room=call.room,
        caller=call.caller,
        media=call.media,
        expires_unix_ms=call.expires_unix_ms,
    )


def paired(call: Call, callee: Party, early: tuple[object, ...]) -> Paired:
    return Paired(
        account=call.account,
        call=call.id,
        room=call.room,
        caller=call.caller,
        callee=callee,
        media=call.media,
        early=early,
    )


def over(call: Call, reason: EndReason, unix_ms: int) -> Over:
    return Over(
        account=call.account,
        call=call.id,
        room=call.room,
        caller=call.caller,
        callee=call.callee,
        reason=reason,
        active_ms=max(0, unix_ms - call.accepted_unix_ms) if call.callee is not None else 0,
    )


def notify_invited(call: Call, device: Party, now: float, *, waiting: bool) -> Notify:
    message = m.CallInvited(
        call=call.id,
        sender=call.caller.peer,
        identity=call.caller.identity,
        room=call.room,
        media=call.media,
        lifetime_s=_remaining(call, now),
        waiting=waiting,
        data=call.data,
    )
    return Notify(device.peer, message)


def notify_accepted(call: Call, receiver: Party, other: Party, callee: Party) -> Notify:
    message = m.CallAccepted(
        call=call.id,
        sender=call.caller.peer,
        device=callee.peer,
        identity=other.identity,
        room=call.room,
        media=call.media,
    )
    return Notify(receiver.peer, message)


def seen_by(peer: str, call: Call, now: float) -> m.CallSnapshot:
    """A device that has not answered knows the caller only, the caller all who may answer."""
    is_caller = call.caller.peer == peer
    is_pending = call.callee is None
    legs = list(call.legs())
    state = next((state for device, state in legs if device.peer == peer), call.state)
    if call.callee is not None:
        legs = [(call.callee, call.state)]
    if not is_caller:
        legs = [(call.caller, call.state)]
    return m.CallSnapshot(
        call=call.id,
        state=state,
        role="caller" if is_caller else "callee",
        peers=[m.CallPeer(device.peer, device.identity, leg) for device, leg in legs],
        room=call.room,
        media=call.media,
        lifetime_s=_remaining(call, now) if is_pending else None,
        data=call.data if is_pending and not is_caller else UNSET,
    )


def _remaining(call: Call, now: float) -> float:
    return round(max(0.0, call.deadline - now), 3)
