"""What an operator may see and do: rooms, who is in them, calls; removing and speaking to them.

It does not know HTTP or who may ask.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from signal_server.core import inputs
from signal_server.core.calls import Calls
from signal_server.core.effects import Answered, Effect
from signal_server.core.lifecycle import Lifecycle
from signal_server.core.room import Room
from signal_server.core.rooms import Rooms

_encode = msgspec.json.Encoder().encode
_DONE = b"{}"


class Oversight:
    """Every question gets one answer: JSON, or None for what is not there."""

    def __init__(
        self, rooms: Rooms, calls: Calls, lifecycle: Lifecycle, do: Callable[[Effect], None]
    ) -> None:
        self._rooms = rooms.by_name
        self._calls = calls
        self._lifecycle = lifecycle
        self._do = do

    def asked(self, event: inputs.Asked, now: float) -> None:
        account, question = event.account, event.question
        answer: bytes | None
        match question:
            case inputs.ListRooms():
                answer = _encode(self._listed(account, question))
            case inputs.ShowCall():
                timeline = self._calls.timeline(account, question.call)
                answer = None if timeline is None else _encode(timeline)
            case _:
                room = self._rooms.get((account, question.room))
                answer = None if room is None else self._about(room, question, now)
        self._do(Answered(event.ticket, answer))

    def _about(
        self,
        room: Room,
        question: inputs.ShowRoom | inputs.CloseRoom | inputs.Kick | inputs.Tell,
        now: float,
    ) -> bytes | None:
        account, name = room.account, room.name
        match question:
            case inputs.ShowRoom():
                return _encode(_summary(room) | {"members": _members(room)})
            case inputs.CloseRoom():
                self._lifecycle.removed(inputs.Removed(account=account, room=name), now)
            case inputs.Kick():
                peer = question.peer
                if peer not in room.members:
                    return None
                removed = inputs.Removed(
                    account=account, room=name, peer=peer, ban_s=question.ban_s
                )
                self._lifecycle.removed(removed, now)
            case inputs.Tell():
                said = inputs.Said(account=account, room=name, data=question.data)
                self._lifecycle.said(said)
        return _DONE

    def _listed(self, account: str, wish: inputs.ListRooms) -> dict[str, Any]:
        names = sorted(n for owner, n in self._rooms if owner == account and n > wish.after)
        shown = names[: wish.limit]
        return {
            "rooms": [_summary(self._rooms[account, name]) for name in shown],
            "next": shown[-1] if len(names) > len(shown) else None,
        }


def _summary(room: Room) -> dict[str, Any]:
    return {
        "room": room.name,
        "peers": len(room.members),
        "epoch": room.epoch,
        "revision": room.revision,
    }


def _members(room: Room) -> list[dict[str, Any]]:
    return [
        {
            "peer": member.peer,
            "identity": member.permit.identity,
            "name": member.permit.name,
            "connected": member.connection is not None,
        }
        for member in room.members.values()
    ]
