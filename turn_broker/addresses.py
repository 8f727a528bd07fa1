"""What stands for one subscriber, to count and to compare: addresses as keys.

Pure. It does not know how an address was learned, nor whether a proxy may be believed.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache

_MAX_KEY_CHARS = 64


@lru_cache(maxsize=4096)
def address_key(address: str) -> str:
    """What stands for one subscriber: an IPv4 address, or the /64 of an IPv6 one.

    What is no IP address, such as a socket's path, stands for itself.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:_MAX_KEY_CHARS]
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return f"{ipaddress.IPv6Address(int(parsed) >> 64 << 64)}/64"
    return str(parsed)
