"""Which peers the relay may be made to talk to.

Pure. The default lets a relay reach loopback only, ports from 1024 on: enough for two browsers on
one machine, while DNS, mail or the network behind the machine stay out of reach. An address counts
as every address hidden in it (IPv4-mapped, 6to4, NAT64, Teredo): each of them must be allowed.
A permission is by address (RFC 8656), so ports are checked again with every Send and ChannelBind.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from turn_broker.relay.stun import Endpoint

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def networks(*texts: str) -> tuple[Network, ...]:
    """Networks from their CIDR text; ValueError for anything else."""
    return tuple(ipaddress.ip_network(text) for text in texts)


LOOPBACK = networks("127.0.0.0/8", "::1/128")
NEVER_BY_DEFAULT = networks(
    "0.0.0.0/8", "169.254.0.0/16", "240.0.0.0/4", "::/128", "fe80::/10", "fd00:ec2::254/128"
)
"""Cloud metadata, link-local and not-an-address; stays out when the allowed list is widened."""
_NAT64 = networks("64:ff9b::/96", "64:ff9b:1::/48")
_V4_COMPATIBLE = ipaddress.IPv6Network("::/96")


def embedded(address: Address) -> list[Address]:
    """The address itself and every IPv4 address that a gateway could read out of it."""
    found: list[Address] = [address]
    if isinstance(address, ipaddress.IPv4Address):
        return found
    inner = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    low = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if any(address in network for network in _NAT64):
        inner.append(low)
    if address in _V4_COMPATIBLE and int(address) > 1:
        inner.append(low)
    found.extend(each for each in inner if each is not None)
    return found


@dataclass(frozen=True, slots=True)
class PeerPolicy:
    """Allowed and denied networks, the lowest peer port, and endpoints that are the relay's own."""

    allowed: tuple[Network, ...] = LOOPBACK
    denied: tuple[Network, ...] = NEVER_BY_DEFAULT
    min_port: int = 1024
    own_ports: frozenset[int] = frozenset()
    """The relay's listening ports: not reachable on any address, or the relay could be made to
    answer itself."""

    def permits_host(self, host: str) -> bool:
        """Whether a permission for `host` may be installed."""
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return all(self._permits(each) for each in embedded(address))

    def permits_port(self, port: int) -> bool:
        """Whether data may go to `port` of a permitted host."""
        return port >= self.min_port and port not in self.own_ports

    def permits(self, peer: Endpoint) -> bool:
        """Both."""
        return self.permits_port(peer[1]) and self.permits_host(peer[0])

    def _permits(self, address: Address) -> bool:
        if address.is_multicast or address.is_unspecified:
            return False
        if address.packed == b"\xff\xff\xff\xff":
            return False
        return _within(address, self.allowed) and not _within(address, self.denied)


def _within(address: Address, nets: Iterable[Network]) -> bool:
    return any(address in network for network in nets)
