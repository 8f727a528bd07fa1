"""What a client remembers of one session, so that it survives its connections.

The secret that resumes it, how far its numbered log has arrived, and the requests nobody has
answered. Pure state: it is asked and told. It does not know connections, time or applications.
"""

from __future__ import annotations

import itertools
from enum import Enum, auto

from msgspec import Struct

from signal_server.wire import messages as wire
from signal_server.wire.base import Request


class Arrival(Enum):
    """What a number says about the message that carries it."""

    NEW = auto()
    REPEATED = auto()
    AFTER_GAP = auto()
    """A message before it is missing."""


class SessionLost(Struct, frozen=True):
    """The session could not be taken up again: peer ids, rooms and calls of it are void, and
    whether unanswered requests were executed is unknown."""

    session: str
    peer: str
    """Own peer id in it."""
    reason: str
    """`resume_expired`, `resume_gap`."""


class ClientSession:
    """One session, from its welcome on."""

    def __init__(self, welcome: wire.Welcome) -> None:
        self.id = welcome.session
        self.peer = welcome.peer
        self.last_seq = 0
        """Everything up to this number has arrived."""
        self._secret = welcome.resume.secret
        self._acked = 0
        self._snapshot_seq = 0
        self._ids = itertools.count(1)
        self._unanswered: dict[str, Request] = {}

    # The numbered log ------------------------------------------------------------------------

    def arrived(self, message: Struct) -> Arrival:
        """Count a server message; one outside the log is always new."""
        seq: int = getattr(message, "seq", 0)
        if seq > self.last_seq + 1:
            return Arrival.AFTER_GAP
        if 0 < seq <= self.last_seq:
            return Arrival.REPEATED
        self.last_seq += seq > 0
        return Arrival.NEW

    def is_in_snapshot(self, message: Struct) -> bool:
        """True when the room of the last `resumed` already shows what the message tells."""
        return 0 < getattr(message, "seq", 0) <= self._snapshot_seq

    @property
    def has_caught_up(self) -> bool:
        """Everything has arrived that the last `resumed` said would be repeated."""
        return self.last_seq >= self._snapshot_seq

    @property
    def unacked(self) -> int:
        """How many messages the server still keeps for want of an acknowledgement."""
        return self.last_seq - self._acked

    def ack(self) -> int | None:
        """The acknowledgement for the message that goes out now; None when there is none."""
        if not self.unacked:
            return None
        self._acked = self.last_seq
        return self._acked

    # Resuming --------------------------------------------------------------------------------

    def resume(self) -> wire.Resume:
        return wire.Resume(session=self.id, secret=self._secret, last_seq=self.last_seq)

    def resumed(self, message: wire.Resumed) -> None:
        """The secret has changed; what follows up to the snapshot is history."""
        self._secret = message.resume.secret
        self._acked = self.last_seq
        self._snapshot_seq = message.from_seq + message.replayed - 1

    def rekeyed(self, message: wire.NewSecret) -> None:
        self._secret = message.resume.secret

    def lost(self, reason: str) -> SessionLost:
        return SessionLost(self.id, self.peer, reason)

    # Requests --------------------------------------------------------------------------------

    def ask(self, request: Request) -> str:
        """Give the request an id of its own and remember it until it is answered."""
        request.id = number = str(next(self._ids))
        self._unanswered[number] = request
        return number

    def answered(self, number: str) -> None:
        """Also for one that its asker no longer wants."""
        self._unanswered.pop(number, None)

    def unanswered(self) -> list[Request]:
        """What to send again after a resume, with the ids it had, in this order."""
        return list(self._unanswered.values())
