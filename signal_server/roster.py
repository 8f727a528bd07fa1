"""The other peers of a room as a client knows them, kept true by the room's revision.

Pure state: messages go in, entries come out. It does not know the connection they came over.
"""

from __future__ import annotations

import msgspec
from msgspec import UNSET, Struct

from signal_server.wire import messages as wire

_CHANGES = (wire.PeerJoined, wire.PeerLeft, wire.PeerReplaced, wire.PeerUpdated)


class Roster:
    """The other peers of the room, at a revision."""

    def __init__(self) -> None:
        self.room: str | None = None
        self.epoch = 0
        self.revision = 0
        self.peers: dict[str, wire.RosterEntry] = {}

    def clear(self) -> None:
        self.__init__()  # type: ignore[misc]

    def restore(self, room: wire.RoomSnapshot | wire.RoomState | None) -> None:
        """Replace everything by the room as it is now; None: in no room."""
        if room is None:
            self.clear()
            return
        self.room, self.epoch, self.revision = room.room, room.epoch, room.revision
        self.peers = {entry.peer: entry for entry in room.peers}

    def apply(self, message: Struct) -> None:
        """Take over one change; what an earlier snapshot already holds is left out."""
        if isinstance(message, wire.RoomSnapshot):
            self.restore(message)
            return
        if not isinstance(message, _CHANGES):
            return
        if message.revision <= self.revision:
            return
        self.revision = message.revision
        if isinstance(message, wire.PeerLeft):
            self.peers.pop(message.peer, None)
        elif isinstance(message, wire.PeerJoined | wire.PeerReplaced):
            if isinstance(message, wire.PeerReplaced):
                self.peers.pop(message.replaced, None)
            self.peers[message.peer] = wire.RosterEntry(
                peer=message.peer,
                identity=message.identity,
                polite=message.polite,
                name=message.name,
                data=message.data,
            )
        elif message.peer in self.peers:
            self.peers[message.peer] = _updated(self.peers[message.peer], message)


def _updated(entry: wire.RosterEntry, change: wire.PeerUpdated) -> wire.RosterEntry:
    """What the change does not mention stays."""
    return msgspec.structs.replace(
        entry,
        connected=entry.connected if change.connected is None else change.connected,
        data=entry.data if change.data is UNSET else change.data,
    )
