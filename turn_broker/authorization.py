"""The two forms of an `Authorization` header: Basic (RFC 7617) and Bearer (RFC 6750).

Pure. It does not know whether what it reads is valid.
"""

from __future__ import annotations

import binascii
from dataclasses import dataclass, field

MAX_HEADER_CHARS = 9000


@dataclass(frozen=True, slots=True)
class Basic:
    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Bearer:
    token: str = field(repr=False)


def parse_authorization(header: str | None) -> Basic | Bearer | None:
    """None for an absent header and for every other form."""
    if header is None or len(header) > MAX_HEADER_CHARS:
        return None
    scheme, _, rest = header.partition(" ")
    rest = rest.strip(" ")
    if scheme.lower() == "bearer" and rest:
        return Bearer(rest)
    if scheme.lower() != "basic":
        return None
    try:
        pair = binascii.a2b_base64(rest, strict_mode=True).decode("utf-8")
    except (binascii.Error, ValueError):
        return None
    username, colon, password = pair.partition(":")
    return Basic(username, password) if colon else None
