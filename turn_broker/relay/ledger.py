"""What each opaque id has used, and how many allocations each identity has open.

Pure and bounded: ids without a live allocation are forgotten oldest first.
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
    """Usage by opaque id, and open allocations by identity."""

    def __init__(self, max_ids: int) -> None:
        self._max_ids = max_ids
        self._usage: dict[str, Usage] = {}
        self._live: dict[str, int] = {}

    def usage(self, opaque_id: str) -> Usage | None:
        """What the id has used, as far as it is remembered."""
        return self._usage.get(opaque_id)

    def opened(self, who: Verified) -> Usage:
        """Counts one more allocation; the result is counted on by the allocation itself."""
        usage = self._usage.pop(who.opaque_id, None)
        if usage is None:
            if len(self._usage) >= self._max_ids:
                self._forget_one()
            usage = Usage()
        self._usage[who.opaque_id] = usage
        usage.live += 1
        usage.allocations += 1
        self._live[who.identity] = self.live(who.identity) + 1
        return usage

    def closed(self, who: Verified) -> None:
        """Counts one less."""
        self._usage[who.opaque_id].live -= 1
        left = self._live.pop(who.identity) - 1
        if left:
            self._live[who.identity] = left

    def live(self, identity: str) -> int:
        """Allocations the identity has open, whatever its credentials."""
        return self._live.get(identity, 0)

    def _forget_one(self) -> None:
        for opaque_id, usage in self._usage.items():
            if not usage.live:
                del self._usage[opaque_id]
                return
