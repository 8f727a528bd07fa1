"""Where the text of an IP address or host name leads, as far as the text alone can tell.

It resolves nothing and does not know candidates; `core.address_policy` decides what passes.
"""

from __future__ import annotations

import ipaddress
from enum import Enum, auto
from functools import lru_cache

_MAX_ADDRESS_CHARS = 64
_CACHED = 4096
_V4_PRIVATE = tuple(
    ipaddress.IPv4Network(net)
    for net in ("10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16")
)  # RFC 1918, RFC 6598, RFC 3927
_V6_PRIVATE = tuple(
    ipaddress.IPv6Network(net) for net in ("fc00::/7", "fe80::/10", "fec0::/10")
)  # RFC 4193, RFC 4291
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052
_THIS_NETWORK = ipaddress.IPv4Network("0.0.0.0/8")  # RFC 791


class Reach(Enum):
    """Where an address leads."""

    PUBLIC = auto()
    PRIVATE = auto()
    LOOPBACK = auto()
    NOWHERE = auto()
    """0.0.0.0 and ::, written for "no address"; a socket sent there ends on its own machine."""
    MDNS = auto()
    NAME = auto()
    """Anything else: a host name, which may lead anywhere, or no address at all."""


def reach(address: str) -> Reach:
    """Classify a text; constant time for hostile lengths."""
    if len(address) > _MAX_ADDRESS_CHARS:
        return _reach_of_name(address)
    return _reach(address)


def _reach_of_name(name: str) -> Reach:
    return Reach.MDNS if name.removesuffix(".").lower().endswith(".local") else Reach.NAME


@lru_cache(maxsize=_CACHED)
def _reach(address: str) -> Reach:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return _reach_of_name(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = _inner(parsed)
        if inner is None:
            return _reach_v6(parsed)
        parsed = inner
    if parsed in _THIS_NETWORK:
        return Reach.NOWHERE
    if parsed.is_loopback:
        return Reach.LOOPBACK
    return Reach.PRIVATE if any(parsed in net for net in _V4_PRIVATE) else Reach.PUBLIC


def _inner(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 one leads to by mapping, NAT64, 6to4 or Teredo."""
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]


def _reach_v6(address: ipaddress.IPv6Address) -> Reach:
    if address.is_unspecified:
        return Reach.NOWHERE
    if address.is_loopback:
        return Reach.LOOPBACK
    return Reach.PRIVATE if any(address in net for net in _V6_PRIVATE) else Reach.PUBLIC
