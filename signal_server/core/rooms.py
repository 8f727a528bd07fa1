"""Who enters and leaves which room, and what the others are told about it.

Every change of membership or presence data raises the room's revision by one and is delivered to
the other members in that order. It does not know tokens, connections or what members say.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import UNSET, Raw, UnsetType
from mypy_extensions import mypyc_attr

from signal_server.core.bans import Bans
from signal_server.core.directed import Directed
from signal_server.core.effects import Announce
from signal_server.core.room import Room, Session, is_polite
from signal_server.core.tally import Tally
from signal_server.wire import messages as m
from signal_server.wire.base import Numbered
from signal_server.wire.codec import Refusal
from signal_server.wire.codes import ErrorCode
from signal_server.wire.limits import Limits


@mypyc_attr(serializable=True, allow_interpreted_subclasses=True)
class Epochs:
    """Numbers that tell a room from former rooms of its name."""

    __slots__ = ("_last",)

    def __init__(self, last: int) -> None:
        self._last = last

    def next(self) -> int:
        self._last += 1
        return self._last


class Rooms:
    """All rooms of a node; a room exists while it has members."""

    def __init__(
        self,
        limits: Limits,
        tally: Tally,
        directed: Directed,
        deliver: Callable[[Session, Numbered], None],
        announce: Callable[[Announce], None],
        epoch: int,
    ) -> None:
        self.by_name: dict[tuple[str, str], Room] = {}
        """By account and name."""
        self.is_cut_off: Callable[[int], bool] | None = None
        """Which connections cannot be reached now, when there are such."""
        self._limits = limits
        self._tally = tally
        self._directed = directed
        self._deliver = deliver
        self._announce = announce
        self._bans = Bans()
        self._epochs = Epochs(epoch)

    def containers(self) -> tuple[object, ...]:
        """What there is to know."""
        return self.by_name, self._bans, self._epochs

    def enter(
        self,
        session: Session,
        name: str,
        data: Raw | UnsetType,
        now: float,
        former: Session | None = None,
    ) -> Refusal | None:
        """Move the session into the room and tell everybody; joining again refreshes.

        `former` is the session that it replaces, and whose place it takes if that was there.
        """
        refusal = self._may_enter(session, name, data, now, former)
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
        if former is not None and former.room is not None and former.room.name == name:
            self._replace(former, session, former.room)
        else:
            self.admit(session, name)
        return None

    def admit(self, session: Session, name: str) -> None:
        """Move the session into the room, whatever its token says: it was asked to a call there."""
        self.leave(session, "moved")
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
        self._announce_peer("peer.joined", room, session, {})

    def _replace(self, former: Session, session: Session, room: Room) -> None:
        """Nothing that was meant for the former session reaches the new one."""
        self._directed.part(former, room.members, "replaced")
        room.replace(former, session)
        self._tally.joins += 1
        self._snapshot(session, room)
        for member in room.others(session):
            replaced = m.PeerReplaced(
                peer=session.peer,
                replaced=former.peer,
                identity=session.permit.identity,
                revision=room.revision,
                polite=is_polite(member, session),
                name=session.permit.name,
                data=session.data,
            )
            self._deliver(member, replaced)
        self._announce_peer("peer.left", room, former, {"reason": "replaced"})
        self._announce_peer("peer.joined", room, session, {})

    def leave(self, session: Session, reason: str) -> None:
        """Take the session out of its room, if it is in one."""
        room = session.room
        if room is None:
            return
        self._directed.part(session, room.members, reason)
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
        self._announce_peer("peer.left", room, session, {"reason": reason})
        if not room.members:
            self._announce_room("room.closed", room)

    def ban(self, session: Session, until: float, now: float) -> None:
        """Keep the session's identity out of the room it is in."""
        room = session.room
        if room is not None:
            self._bans.add(room.account, room.name, session.permit.identity, until, now)

    def update(self, session: Session, data: Raw) -> Refusal | None:
        """Replace the session's presence data."""
        if session.room is None:
            return Refusal(ErrorCode.WRONG_STATE, "join a room first")
        if _size(data) > self._limits.data_bytes:
            return Refusal(ErrorCode.PAYLOAD_TOO_LARGE, "data is too long")
        self._set_data(session, session.room, data)
        return None

    def show_connected(self, session: Session, *, connected: bool) -> None:
        """The session lost its connection, or has one again."""
        room = session.room
        if room is None:
            return
        room.revision += 1
        for member in room.others(session):
            updated = m.PeerUpdated(
                peer=session.peer,
                identity=session.permit.identity,
                revision=room.revision,
                connected=connected,
            )
            self._deliver(member, updated)

    def state(self, session: Session) -> m.RoomState | None:
        """The session's room as it is now."""
        room = session.room
        if room is None:
            return None
        return m.RoomState(room.name, room.epoch, room.revision, _roster(session, room))

    def _room(self, account: str, name: str) -> Room:
        room = self.by_name.get((account, name))
        if room is None:
            epoch = self._epochs.next()
            room = self.by_name[account, name] = Room(account, name, epoch)
            self._announce_room("room.created", room)
        return room

    def _announce_room(self, kind: str, room: Room) -> None:
        data = {"epoch": room.epoch}
        self._announce(Announce(kind=kind, account=room.account, room=room.name, data=data))

    def _announce_peer(self, kind: str, room: Room, session: Session, more: dict[str, str]) -> None:
        data = {
            "peer": session.peer,
            "identity": session.permit.identity,
            "revision": room.revision,
            **more,
        }
        self._announce(Announce(kind=kind, account=room.account, room=room.name, data=data))

    def _may_enter(
        self,
        session: Session,
        name: str,
        data: Raw | UnsetType,
        now: float,
        former: Session | None,
    ) -> Refusal | None:
        permit, limits = session.permit, self._limits
        if self._bans.holds(permit.account, name, permit.identity, now):
            return Refusal(ErrorCode.FORBIDDEN, "banned from this room for a while")
        if not permit.may_join(name):
            return Refusal(ErrorCode.FORBIDDEN, "the token does not grant this room")
        if _size(data) > limits.data_bytes:
            return Refusal(ErrorCode.PAYLOAD_TOO_LARGE, "data is too long")
        room = self.by_name.get((permit.account, name))
        if room is not None and self.is_split(room):
            return Refusal(ErrorCode.UNAVAILABLE, "some of this room cannot be reached now")
        if room is None:
            if len(self.by_name) >= limits.rooms_per_node:
                return Refusal(ErrorCode.LIMIT_EXCEEDED, "too many rooms on this node")
        elif len(room.members) >= limits.peers_per_room and not (
            session.room is room or (former is not None and former.room is room)
        ):
            return Refusal(ErrorCode.ROOM_FULL, f"the room holds {limits.peers_per_room} peers")
        return None

    def is_split(self, room: Room) -> bool:
        """Whether some of it cannot be reached now."""
        return self.is_cut_off is not None and any(map(self.is_away, room.members.values()))

    def is_away(self, member: Session) -> bool:
        """Whether it is connected where it cannot be reached now."""
        if self.is_cut_off is None or member.connection is None:
            return False
        return self.is_cut_off(member.connection)

    def _snapshot(self, session: Session, room: Room) -> None:
        snapshot = m.RoomSnapshot(
            room=room.name,
            epoch=room.epoch,
            revision=room.revision,
            peers=_roster(session, room),
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


def _roster(session: Session, room: Room) -> list[m.RosterEntry]:
    """The others in the room, each with the session's own role toward it."""
    return [
        m.RosterEntry(
            peer=other.peer,
            identity=other.permit.identity,
            polite=is_polite(session, other),
            name=other.permit.name,
            connected=other.connection is not None,
            data=other.data,
        )
        for other in room.others(session)
    ]


def _size(data: Raw | UnsetType) -> int:
    return len(bytes(data)) if isinstance(data, Raw) else 0
