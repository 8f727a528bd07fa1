"""What backends are told of: announcements with their number in their room, and a name.

Whoever goes on with a switchboard goes on with the numbers: the same fact, announced again by
another node, has the same number and the same name. It does not know webhooks.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Any

from msgspec import Struct

from signal_server.core.effects import Announce

LAST_OF_ROOM = "room.closed"
"""After it the room's numbers start again, with `room.created` as 1."""
Lane = tuple[str, str]
"""Account and room."""


class Fact(Struct, frozen=True, kw_only=True):
    """An announcement in its place."""

    kind: str
    account: str
    room: str
    sequence: int
    """In the room, from 1."""
    unix_ms: int
    """When it happened."""
    data: dict[str, Any]

    @property
    def name(self) -> str:
        """The same for the same fact, whoever announces it."""
        parts = (self.account, self.room, str(self.sequence), str(self.unix_ms), self.kind)
        digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
        return f"msg_{digest[:32]}"


class Facts:
    """The numbers of all rooms; `most` are remembered."""

    def __init__(self, most: int) -> None:
        self.last: OrderedDict[Lane, int] = OrderedDict()
        self._most = most

    def place(self, announced: Announce, unix_ms: int) -> Fact:
        """Give it the next number of its room."""
        lane = (announced.account, announced.room)
        sequence = self.last.pop(lane, 0) + 1
        if announced.kind != LAST_OF_ROOM:
            self.last[lane] = sequence
            if len(self.last) > self._most:
                self.last.popitem(last=False)
        return Fact(
            kind=announced.kind,
            account=announced.account,
            room=announced.room,
            sequence=sequence,
            unix_ms=unix_ms,
            data=announced.data,
        )
