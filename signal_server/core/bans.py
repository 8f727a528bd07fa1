"""Who may not come back into a room for a while, whatever their token says.

Bounded: when it is full, the ban that ends first gives way. It does not know sessions.
"""

from __future__ import annotations

MAX_BANS = 10_000


class Bans:
    """Bans by account, room and identity."""

    __slots__ = ("_until",)

    def __init__(self) -> None:
        self._until: dict[tuple[str, str, str], float] = {}

    def add(self, account: str, room: str, identity: str, until: float, now: float) -> None:
        """Keep the identity out until then (monotonic seconds)."""
        if len(self._until) >= MAX_BANS:
            self._until = {key: at for key, at in self._until.items() if at > now}
        if len(self._until) >= MAX_BANS:
            del self._until[min(self._until, key=self._until.__getitem__)]
        key = (account, room, identity)
        self._until[key] = max(until, self._until.get(key, until))

    def holds(self, account: str, room: str, identity: str, now: float) -> bool:
        """True while the identity is banned from the room."""
        if not self._until:
            return False
        return self._until.get((account, room, identity), now) > now
