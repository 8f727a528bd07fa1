"""Settings of the embedded relay. Everything has a bound; the default speaks to loopback only."""

from __future__ import annotations

from dataclasses import dataclass, field

from turn_broker.relay.allocation import RelayLimits
from turn_broker.relay.peer_policy import PeerPolicy


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """Where the relay listens, what it relays, and how long it waits for whom."""

    realm: str
    secrets: tuple[str, ...] = field(repr=False)
    """All valid at once, for rotation."""
    host: str = "127.0.0.1"
    port: int = 0
    """UDP and TCP; 0 takes a port that is free for both."""
    relay_address: str | None = "127.0.0.1"
    relay_address_v6: str | None = None
    min_port: int = 0
    """0 leaves the choice of relayed ports to the system."""
    max_port: int = 0
    policy: PeerPolicy = field(default_factory=PeerPolicy)
    limits: RelayLimits = field(default_factory=RelayLimits)
    max_connections: int = 512
    max_write_buffer: int = 256 * 1024
    """Bytes waiting for one TCP client; what comes on top is dropped, as UDP would."""
    frame_deadline: float = 10
    """Seconds for a connection's first frame, and for any frame once it has begun."""
    idle_deadline: float = 60
    """Seconds that a connection without an allocation may stay silent."""
    stall_deadline: float = 5
    """Seconds that a TCP client may leave its write buffer full before it is cut."""
    tick: float = 1
    """Seconds between looks at what has run out."""

    def __post_init__(self) -> None:
        if not self.secrets or not all(self.secrets):
            raise ValueError("the relay needs at least one secret, and none may be empty")
        if not self.realm or len(self.realm.encode()) > 127 or not self.realm.isprintable():
            raise ValueError("realm must be 1 to 127 printable bytes")
        if not 0 <= self.min_port <= self.max_port <= 65_535 or (
            self.max_port and not self.min_port
        ):
            raise ValueError("relay ports must be a range min_port..max_port, or 0 and 0")
        if self.relay_address is None and self.relay_address_v6 is None:
            raise ValueError("the relay needs an address to relay from")
