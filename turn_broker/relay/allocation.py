"""One allocation: its permissions, channels and byte rate, and data through it both ways.

Pure. Lifetimes end by comparing times, so a late cleanup never lets a packet through.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from turn_broker.relay.authentication import BAD_REQUEST, Flow, Now, Refusal, Verified
from turn_broker.relay.effects import ToClient, ToPeer
from turn_broker.relay.peer_policy import PeerPolicy
from turn_broker.relay.rate import Bucket
from turn_broker.relay.stun import Attribute, Endpoint, Kind, Method, build, xor_address

PERMISSION_LIFETIME = 300
CHANNEL_LIFETIME = 600
MAX_PAYLOAD = 65_000
"""Leaves room for the headers of a Data indication in its 16-bit length."""

INSUFFICIENT_CAPACITY = Refusal(508, "Insufficient Capacity")

_CHANNEL_HEADER = struct.Struct("!HH")


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """Bounds of the relay. Rates are per allocation and direction."""

    max_allocations: int = 256
    allocations_per_identity: int = 16
    """Over all credentials of one identity."""
    permissions_per_allocation: int = 64
    channels_per_allocation: int = 64
    bytes_per_second: int = 4_000_000
    default_lifetime: int = 600
    max_lifetime: int = 3_600
    nonce_lifetime: int = 600
    unauthenticated_per_second: int = 200
    """Answers to one source without a valid credential over UDP, where sources can be forged."""
    max_sources: int = 1_024


@dataclass(slots=True)
class Channel:
    """A bound channel."""

    peer: Endpoint
    ends_at: float


@dataclass(slots=True, eq=False)
class Allocation:
    """A relayed transport address that a client holds."""

    number: int
    flow: Flow
    owner: Verified
    family: int
    limits: RelayLimits
    policy: PeerPolicy
    transaction_id: bytes
    """Of the Allocate request, whose retransmission is answered with `reply`."""
    opened_at: float
    ends_at: float = 0
    lifetime: int = 0
    """As last told to the client."""
    reply: bytes = b""
    """Empty until the relayed address is open."""
    permissions: dict[str, float] = field(default_factory=dict)
    channels: dict[int, Channel] = field(default_factory=dict)
    channel_of: dict[Endpoint, int] = field(default_factory=dict)
    sent_bytes: int = 0
    """Payload from the client to peers."""
    received_bytes: int = 0
    dropped_packets: int = 0
    """Over the byte rate, either way."""
    _up: Bucket = field(init=False)
    _down: Bucket = field(init=False)

    def __post_init__(self) -> None:
        rate = self.limits.bytes_per_second
        self._up = Bucket(rate, rate, self.opened_at)
        self._down = Bucket(rate, rate, self.opened_at)

    def extend(self, lifetime: int, now: Now) -> None:
        """Lives on for `lifetime` seconds, but not beyond its credential."""
        left = self.owner.seconds_left(now)
        self.ends_at = now.monotonic + min(lifetime, left)
        self.lifetime = max(1, min(lifetime, int(left)))

    def permit(self, hosts: set[str], lifetime: float, now: float) -> bool:
        """Installs or refreshes permissions, all or none; False when there would be too many."""
        if len(self.permissions.keys() | hosts) > self.limits.permissions_per_allocation:
            self._drop_ended_permissions(now)
            if len(self.permissions.keys() | hosts) > self.limits.permissions_per_allocation:
                return False
        for host in hosts:
            self.permissions[host] = max(now + lifetime, self.permissions.get(host, 0))
        return True

    def bind(self, number: int, peer: Endpoint, now: float) -> Refusal | None:
        """RFC 8656 section 12.2. The permission lives as long as the channel, as in coturn:
        there are clients (aioice) that only ever refresh the channel."""
        self._drop_ended_channels(now)
        bound = self.channels.get(number)
        if self.channel_of.get(peer, number) != number or (bound and bound.peer != peer):
            return BAD_REQUEST
        full = bound is None and len(self.channels) >= self.limits.channels_per_allocation
        if full or not self.permit({peer[0]}, CHANNEL_LIFETIME, now):
            return INSUFFICIENT_CAPACITY
        self.channels[number] = Channel(peer, now + CHANNEL_LIFETIME)
        self.channel_of[peer] = number
        return None

    def channel_data(self, raw: bytes, now: float) -> ToPeer | None:
        """ChannelData from the client."""
        if len(raw) < 4 or now >= self.ends_at:
            return None
        number, length = _CHANNEL_HEADER.unpack_from(raw)
        channel = self.channels.get(number)
        if channel is None or now >= channel.ends_at or 4 + length > len(raw):
            return None
        return self._outbound(channel.peer, raw[4 : 4 + length], now)

    def send(self, peer: Endpoint, payload: bytes, now: float) -> ToPeer | None:
        """A Send indication from the client."""
        if now >= self.ends_at or now >= self.permissions.get(peer[0], 0):
            return None
        if not self.policy.permits_port(peer[1]):
            return None
        return self._outbound(peer, payload, now)

    def inbound(
        self, peer: Endpoint, payload: bytes, transaction_id: bytes, now: float
    ) -> ToClient | None:
        """A datagram from a peer, as ChannelData or a Data indication."""
        if now >= self.ends_at or now >= self.permissions.get(peer[0], 0):
            return None
        size = len(payload)
        if size > MAX_PAYLOAD or not self._down.take(size, now):
            self.dropped_packets += 1
            return None
        self.received_bytes += size
        number = self.channel_of.get(peer)
        if number is not None and now < self.channels[number].ends_at:
            return ToClient(self.flow, _CHANNEL_HEADER.pack(number, size) + payload)
        attributes = (
            (Attribute.XOR_PEER_ADDRESS, xor_address(peer, transaction_id)),
            (Attribute.DATA, payload),
        )
        return ToClient(self.flow, build(Method.DATA, Kind.INDICATION, transaction_id, attributes))

    def drop_ended(self, now: float) -> None:
        """Forgets permissions and channels that have run out."""
        self._drop_ended_permissions(now)
        self._drop_ended_channels(now)

    def _outbound(self, peer: Endpoint, payload: bytes, now: float) -> ToPeer | None:
        size = len(payload)
        if not self._up.take(size, now):
            self.dropped_packets += 1
            return None
        self.sent_bytes += size
        return ToPeer(self.number, payload, peer)

    def _drop_ended_permissions(self, now: float) -> None:
        for host in [host for host, ends_at in self.permissions.items() if now >= ends_at]:
            del self.permissions[host]

    def _drop_ended_channels(self, now: float) -> None:
        for number in [n for n, channel in self.channels.items() if now >= channel.ends_at]:
            del self.channel_of[self.channels.pop(number).peer]
