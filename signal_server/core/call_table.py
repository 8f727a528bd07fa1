"""The calls of one node that are not over, found by whatever they concern.

Keeps live sessions, invites and answered calls consistent with each other, and forgets a call
without a trace when it closes. It does not know which step is allowed or what anybody is told.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

from signal_server.core.call import Call, CallLimits, CallState, Invitee, Party
from signal_server.core.deadlines import Deadlines

Who = tuple[str, str]
"""Account and identity."""
Key = TypeVar("Key", bound=Hashable)


class Index(Generic[Key]):
    """Calls by something they share; a key without calls takes no room."""

    __slots__ = ("_calls",)

    def __init__(self) -> None:
        self._calls: dict[Key, dict[str, Call]] = {}

    def add(self, key: Key, call: Call) -> None:
        self._calls.setdefault(key, {})[call.id] = call

    def discard(self, key: Key, call: Call) -> None:
        calls = self._calls.get(key, {})
        calls.pop(call.id, None)
        if not calls:
            self._calls.pop(key, None)

    def of(self, key: Key) -> list[Call]:
        return list(self._calls.get(key, {}).values())

    def count(self, key: Key) -> int:
        return len(self._calls.get(key, {}))

    def __len__(self) -> int:
        return len(self._calls)


class CallTable:
    """See the module's text."""

    __slots__ = (
        "_devices",
        "_limits",
        "active",
        "agenda",
        "awaiting",
        "by_id",
        "early_bytes",
        "placed",
        "taking_part",
    )

    def __init__(self, limits: CallLimits) -> None:
        self._limits = limits
        self._devices: dict[Who, dict[str, Party]] = {}
        """Live sessions, by peer, in the order they came."""
        self.by_id: dict[str, Call] = {}
        self.taking_part: Index[str] = Index()
        """By peer: its own calls, those it can answer, those it is in."""
        self.awaiting: Index[Who] = Index()
        """By invited identity: calls it may still answer."""
        self.placed: Index[Who] = Index()
        """By the caller's identity."""
        self.active: Index[Who] = Index()
        """By identity: answered calls it is in."""
        self.agenda: Deadlines[str] = Deadlines()
        """By call id: when its invites are void."""
        self.early_bytes = 0

    # Sessions --------------------------------------------------------------------------------

    def is_live(self, party: Party) -> bool:
        return party.peer in self._devices.get(party.who, {})

    def add_session(self, party: Party) -> None:
        self._devices.setdefault(party.who, {})[party.peer] = party

    def remove_session(self, party: Party) -> None:
        devices = self._devices[party.who]
        del devices[party.peer]
        if not devices:
            del self._devices[party.who]

    # Calls -----------------------------------------------------------------------------------

    def open(self, call: Call) -> None:
        """Enter the call, with the live devices that came last as its legs."""
        self.by_id[call.id] = call
        self.placed.add(call.caller.who, call)
        self.taking_part.add(call.caller.peer, call)
        self.agenda.set(call.id, call.deadline)
        for identity in call.invited:
            call.invitees[identity] = Invitee()
            self.awaiting.add((call.account, identity), call)
            live = self._devices.get((call.account, identity), {}).values()
            others = [device for device in live if device != call.caller]
            for device in others[-self._limits.devices_per_identity :]:
                self.add_leg(call, device)

    def add_leg(self, call: Call, device: Party) -> None:
        invitee = call.invitees[device.identity]
        invitee.legs[device.peer] = CallState.INVITED
        invitee.was_reached = True
        self.taking_part.add(device.peer, call)

    def drop_leg(self, call: Call, device: Party) -> None:
        del call.invitees[device.identity].legs[device.peer]
        self.taking_part.discard(device.peer, call)

    def drop_invitee(self, call: Call, identity: str, stays: str = "") -> list[str]:
        """The identity is out of the call; the devices on which it still rang. A device that
        stays in it keeps its place: what it takes part in is in the order in which it began."""
        peers = list(call.invitees.pop(identity).legs)
        for peer in peers:
            if peer != stays:
                self.taking_part.discard(peer, call)
        self.awaiting.discard((call.account, identity), call)
        return peers

    def hold_early(self, call: Call, item: object, size: int) -> None:
        call.early.append(item, size)
        self.early_bytes += size

    def answer(self, call: Call, callee: Party) -> tuple[object, ...]:
        """The call is between two now; what the caller sent ahead."""
        early = self._stop_ringing(call, callee.peer)
        call.callee = callee
        self.taking_part.add(callee.peer, call)
        for party in (call.caller, callee):
            self.active.add(party.who, call)
        return early

    def close(self, call: Call) -> None:
        self._stop_ringing(call)
        del self.by_id[call.id]
        self.placed.discard(call.caller.who, call)
        for party in call.parties():
            self.taking_part.discard(party.peer, call)
            self.active.discard(party.who, call)

    def _stop_ringing(self, call: Call, callee: str = "") -> tuple[object, ...]:
        for identity in list(call.invitees):
            self.drop_invitee(call, identity, callee)
        self.agenda.set(call.id, None)
        self.early_bytes -= call.early.size
        return call.early.take()
