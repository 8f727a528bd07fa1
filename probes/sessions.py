"""What one probe session has in use on this node: server peers and shared reports.

Pure and bounded: a session that is forgotten can only be allowed more. It does not know tokens,
only the identity that one carries.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from probes.settings import ProbeSettings

IDENTITY_PREFIX = "probe-"
MAX_SESSIONS = 10_000


@dataclass(slots=True)
class _Use:
    peers: int = 0
    reports: int = 0


class SessionUse:
    """Counts by identity; the session that was touched longest ago is forgotten first."""

    def __init__(self, settings: ProbeSettings) -> None:
        self._settings = settings
        self._used: OrderedDict[str, _Use] = OrderedDict()
        self.peers = 0
        """Of all sessions."""

    def __len__(self) -> int:
        return len(self._used)

    def open_peer(self, identity: str) -> bool:
        """Whether one more peer is within the session's and the node's bounds; it then counts."""
        use = self._touch(identity)
        settings = self._settings
        if self.peers >= settings.peers or use.peers >= settings.peers_per_session:
            return False
        use.peers += 1
        self.peers += 1
        return True

    def close_peer(self, identity: str) -> None:
        """A peer that `open_peer` admitted has ended."""
        self.peers -= 1
        use = self._used.get(identity)
        if use is not None and use.peers:
            use.peers -= 1

    def take_report(self, identity: str) -> bool:
        """Whether the session may share one more report; it then counts."""
        use = self._touch(identity)
        if use.reports >= self._settings.reports_per_session:
            return False
        use.reports += 1
        return True

    def _touch(self, identity: str) -> _Use:
        use = self._used.get(identity)
        if use is None:
            use = self._used[identity] = _Use()
            if len(self._used) > MAX_SESSIONS:
                self._used.popitem(last=False)
        self._used.move_to_end(identity)
        return use
