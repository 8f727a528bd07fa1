"""What a TURN request asks for: its attributes read into values, or the refusal they earn.

Pure and stateless; RFC 8656 sections 7.2, 8.2, 10.2 and 12.2 up to the point where an allocation
is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass

from turn_broker.relay.allocation import INSUFFICIENT_CAPACITY, RelayLimits
from turn_broker.relay.authentication import BAD_REQUEST, Refusal
from turn_broker.relay.peer_policy import PeerPolicy
from turn_broker.relay.stun import (
    IPV4,
    UDP,
    Attribute,
    Endpoint,
    Message,
    family_of,
    read_leading_byte,
    read_u32,
    read_xor_address,
)

UNKNOWN_ATTRIBUTE = Refusal(420, "Unknown Attribute")
FORBIDDEN = Refusal(403, "Forbidden")
MISMATCH = Refusal(437, "Allocation Mismatch")
FAMILY_UNSUPPORTED = Refusal(440, "Address Family not Supported")
WRONG_CREDENTIALS = Refusal(441, "Wrong Credentials")
TRANSPORT_UNSUPPORTED = Refusal(442, "Unsupported Transport Protocol")
FAMILY_MISMATCH = Refusal(443, "Peer Address Family Mismatch")
QUOTA_REACHED = Refusal(486, "Allocation Quota Reached")


@dataclass(frozen=True, slots=True)
class Terms:
    """The relayed address that an Allocate wants."""

    family: int
    even_port: bool


def allocate_terms(message: Message, families: frozenset[int]) -> Terms | Refusal:
    """REQUESTED-TRANSPORT, -ADDRESS-FAMILY, EVEN-PORT and RESERVATION-TOKEN of an Allocate."""
    transport = message.first(Attribute.REQUESTED_TRANSPORT)
    protocol = None if transport is None else read_leading_byte(transport)
    even = message.first(Attribute.EVEN_PORT)
    token = message.first(Attribute.RESERVATION_TOKEN)
    if protocol is None or (even is not None and len(even) != 1):
        return BAD_REQUEST
    if protocol != UDP:
        return TRANSPORT_UNSUPPORTED
    family = _requested_family(message, IPV4)
    if token is not None and (
        even is not None or message.first(Attribute.REQUESTED_ADDRESS_FAMILY)
    ):
        return BAD_REQUEST
    if family not in families:
        return FAMILY_UNSUPPORTED
    if token is not None or (even is not None and even[0] & 0x80):
        return INSUFFICIENT_CAPACITY
    return Terms(family, even is not None)


def fits_family(message: Message, family: int) -> bool:
    """Whether a Refresh names no other family than the allocation's."""
    return _requested_family(message, family) == family


def _requested_family(message: Message, default: int) -> int | None:
    value = message.first(Attribute.REQUESTED_ADDRESS_FAMILY)
    return default if value is None else read_leading_byte(value)


def requested_lifetime(message: Message, limits: RelayLimits) -> int | None:
    """Seconds, as coturn grants them: at least the default, at most the maximum, 0 to delete.
    None for a malformed LIFETIME."""
    value = message.first(Attribute.LIFETIME)
    if value is None:
        return limits.default_lifetime
    asked = read_u32(value)
    if not asked:
        return asked
    return min(max(asked, limits.default_lifetime), limits.max_lifetime)


def requested_peers(message: Message, family: int, policy: PeerPolicy) -> list[Endpoint] | Refusal:
    """Every XOR-PEER-ADDRESS of the request, if all of them may be talked to."""
    peers: list[Endpoint] = []
    for value in message.every(Attribute.XOR_PEER_ADDRESS):
        peer = read_xor_address(value, message.transaction_id)
        if peer is None:
            return BAD_REQUEST
        peers.append(peer)
    if not peers:
        return BAD_REQUEST
    if any(family_of(host) != family for host, _ in peers):
        return FAMILY_MISMATCH
    if not all(policy.permits_host(host) for host in {host for host, _ in peers}):
        return FORBIDDEN
    return peers
