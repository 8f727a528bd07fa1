"""Is a client still at the other end of a server peer, and is it a probe's? Pure.

Looked at once a second by whoever has the clock and the connection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LOOK_EVERY_S = 1.0
CONNECT_S = 15.0
"""From the answer until ICE must have found a way; on a lossy one the handshakes take longer."""
SILENT_S = 10.0
"""Without a packet, a client that was connected is gone; DTLS sends again after 8 s at most."""
MAX_PACKETS_PER_S = 2000
"""About 20 Mbit/s, eight times what a browser sends; more is no probe."""
Absence = Literal["never_connected", "silent", "flood"]


@dataclass(slots=True)
class Attendance:
    """Of one client, from its peer's answer on."""

    _packets: int = 0
    _waited_s: float = 0.0
    """For the connection, then for a packet."""
    _was_connected: bool = False

    def look(self, *, is_connected: bool, packets: int, elapsed_s: float) -> Absence | None:
        """Why the peer should end.

        `is_connected`: ICE has found a way. `packets` have come in all, and `elapsed_s` have passed
        since the last look.
        """
        came, self._packets = packets - self._packets, packets
        if came > MAX_PACKETS_PER_S * max(elapsed_s, LOOK_EVERY_S):
            return "flood"
        # A machine that stood still has not listened meanwhile.
        self._waited_s += min(elapsed_s, 2 * LOOK_EVERY_S)
        if not self._was_connected:
            if not is_connected:
                return "never_connected" if self._waited_s >= CONNECT_S else None
            self._was_connected, self._waited_s = True, 0.0
        if came:
            self._waited_s = 0.0
        return "silent" if self._waited_s >= SILENT_S else None
