"""What each opaque id has used, and who may use nothing any more.

Pure and bounded: ids without a live allocation are forgotten oldest first, a revocation when the
credential it names has ended anyway.
"""

from __future__ import annotations

from dataclasses import dataclass

from turn_broker.relay.authentication import Verified


@dataclass(slots=True)
class Usage:
    """Payload relayed for one opaque id, without STUN and TURN headers."""

    live: int = 0
    """Allocations open now."""
    allocations: int = 0
    """Allocations opened in all."""
    sent_packets: int = 0
    """From the client to peers."""
    sent_bytes: int = 0
    received_packets: int = 0
    """From peers to the client."""
    received_bytes: int = 0
    dropped_packets: int = 0
    """Over the allocation's byte rate, either way."""


@dataclass(slots=True)
class Counters:
    """Since the start."""

    opened: int = 0
    closed: int = 0
    challenged: int = 0
    refused: int = 0
    malformed: int = 0
    rate_limited: int = 0


class Ledger:
    """Usage and revocations by name."""

    def __init__(self, max_ids: int, max_revoked: int) -> None:
        self._max_ids = max_ids
        self._max_revoked = max_revoked
        self._usage: dict[str, Usage] = {}
        self._revoked: dict[str, float] = {}

    def usage(self, opaque_id: str) -> Usage | None:
        """What the id has used, as far as it is remembered."""
        return self._usage.get(opaque_id)

    def opened(self, opaque_id: str) -> Usage:
        """Counts one more allocation; the result is counted on by the allocation itself."""
        usage = self._usage.pop(opaque_id, None)
        if usage is None:
            if len(self._usage) >= self._max_ids:
                self._forget_one()
            usage = Usage()
        self._usage[opaque_id] = usage
        usage.live += 1
        usage.allocations += 1
        return usage

    def live(self, opaque_id: str) -> int:
        """Allocations the id has open."""
        usage = self._usage.get(opaque_id)
        return usage.live if usage else 0

    def revoke(self, name: str, until: float) -> None:
        """Refuses a username (`<expiry>:<id>`) or an opaque id until that Unix time."""
        self._revoked[name] = max(until, self._revoked.get(name, 0))
        if len(self._revoked) > self._max_revoked:
            del self._revoked[min(self._revoked, key=self._revoked.__getitem__)]

    def refuses(self, who: Verified) -> bool:
        """Whether this credential, or its id, has been revoked."""
        return who.username in self._revoked or who.opaque_id in self._revoked

    def forget_ended(self, unix: float) -> None:
        """Drops revocations that time has overtaken."""
        for name in [name for name, until in self._revoked.items() if until < unix]:
            del self._revoked[name]

    def _forget_one(self) -> None:
        for opaque_id, usage in self._usage.items():
            if not usage.live:
                del self._usage[opaque_id]
                return
