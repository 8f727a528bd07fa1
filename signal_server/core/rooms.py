"""Who enters and leaves which room, and what the others are told about it.

Every change of membership or presence data raises the room's revision by one and is delivered to
the other members in that order. It does not know tokens, connections or what members say.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import UNSET, Raw, UnsetType

from signal_server.core.directed import Directed
from signal_server.core.room import Room, Session, is_polite
from signal_server.core.tally import Tally
from signal_server.wire import messages as m
from signal_server.wire.codec import Refusal
from signal_server.wire.codes import ErrorCode
from signal_server.wire.limits import Limits


class Rooms:
    """All rooms of a node; a room exists while it has members."""

    def __init__(
        self,
        limits: Limits,
        tally: Tally,
        directed: Directed,
        deliver: Callable[[Session, m.Numbered], None],
        epoch: int,
    ) -> None:
        self.by_name: dict[tuple[str, str], Room] = {}
        """By account and name."""
        self._limits = limits
        self._tally = tally
        self._directed = directed
        self._deliver = deliver
        self._epoch = epoch

    def enter(self, session: Session, name: str, data: Raw | UnsetType) -> Refusal | None:
        """Move the session into the room and tell everybody; joining again refreshes."""
        refusal = self._may_enter(session, name, data)
        if refusal is not None:
            return refusal
        if session.room is not None and session.room.name == name:
            # Leaves calls alone: refreshes data and the snapshot.
            if isinstance(data, Raw):
                self._set_data(session, session.room, data)
            self._snapshot(session, session.room)
            return None
        self.leave(session, "moved")
        session.data = data.copy() if isinstance(data, Raw) else UNSET
        room = self._room(session.permit.account, name)
        room.add(session)
        self._tally.joins += 1
        self._snapshot(session, room)
        for member in room.others(session):
            joined = m.PeerJoined(
                peer=session.peer,
                identity=session.permit.identity,
                revision=room.revision,
                polite=is_polite(member, session),
                name=session.permit.name,
                data=session.data,
            )
            self._deliver(member, joined)
        return None

    def leave(self, session: Session, reason: str) -> None:
        """Take the session out of its room, if it is in one."""
        room = session.room
        if room is None:
            return
        self._directed.part(session, room.members)
        room.remove(session)
        if not room.members:
            del self.by_name[room.account, room.name]
        for member in room.members.values():
            left = m.PeerLeft(
                peer=session.peer,
                identity=session.permit.identity,
                revision=room.revision,
                reason=reason,
            )
            self._deliver(member, left)

    def update(self, session: Session, data: Raw) -> Refusal | None:
        """Replace the session's presence data."""
        if session.room is None:
            return Refusal(ErrorCode.WRONG_STATE, "join a room first")
        if _size(data) > self._limits.data_bytes:
            return Refusal(ErrorCode.PAYLOAD_TOO_LARGE, "data is too long")
        self._set_data(session, session.room, data)
        return None

    def _room(self, account: str, name: str) -> Room:
        room = self.by_name.get((account, name))
        if room is None:
            self._epoch += 1
            room = self.by_name[account, name] = Room(account, name, self._epoch)
        return room

    def _may_enter(self, session: Session, name: str, data: Raw | UnsetType) -> Refusal | None:
        permit, limits = session.permit, self._limits
        if not permit.may_join(name):
            return Refusal(ErrorCode.FORBIDDEN, "the token does not grant this room")
        if _size(data) > limits.data_bytes:
            return Refusal(ErrorCode.PAYLOAD_TOO_LARGE, "data is too long")
        room = self.by_name.get((permit.account, name))
        if room is None:
            if len(self.by_name) >= limits.rooms_per_node:
                return Refusal(ErrorCode.LIMIT_EXCEEDED, "too many rooms on this node")
        elif len(room.members) >= limits.peers_per_room and session.room is not room:
            return Refusal(ErrorCode.ROOM_FULL, f"the room holds {limits.peers_per_room} peers")
        return None

    def _snapshot(self, session: Session, room: Room) -> None:
        peers = [
            m.RosterEntry(
                peer=other.peer,
                identity=other.permit.identity,
                polite=is_polite(session, other),
                name=other.permit.name,
                data=other.data,
            )
            for other in room.others(session)
        ]
        snapshot = m.RoomSnapshot(
            room=room.name, epoch=room.epoch, revision=room.revision, peers=peers
        )
        self._deliver(session, snapshot)

    def _set_data(self, session: Session, room: Room, data: Raw) -> None:
        # A copy, so that the whole received message is not kept alive.
        session.data = data.copy()
        room.revision += 1
        for member in room.others(session):
            updated = m.PeerUpdated(
                peer=session.peer,
                identity=session.permit.identity,
                revision=room.revision,
                data=session.data,
            )
            self._deliver(member, updated)


def _size(data: Raw | UnsetType) -> int:
    return len(bytes(data)) if isinstance(data, Raw) else 0
