"""Time-limited TURN credentials (TURN REST API, draft-uberti-behave-turn-rest-00).

Pure: the expiry is an argument, randomness and clocks live elsewhere. The same credential works on
coturn with `use-auth-secret` and on the embedded relay.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass

from msgspec import Struct

_OPAQUE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}\Z")
_USERNAME = re.compile(r"([0-9]{1,10}):([A-Za-z0-9._-]{1,128})\Z")
MAX_EXPIRY = 2**32 - 1
"""coturn reads the timestamp as 32 bits and answers 401 above."""


class TurnCredential(Struct, frozen=True):
    """A username with its password; the password never shows in a repr."""

    username: str
    password: str

    def __repr__(self) -> str:
        return f"TurnCredential(username={self.username!r})"


@dataclass(frozen=True, slots=True)
class TurnUsername:
    """A parsed `<expiry>:<opaque-id>`."""

    expires_at: int
    """Unix seconds; valid while `expires_at >= now`, as coturn has it."""
    opaque_id: str


def mint(secret: str, opaque_id: str, expires_at: int) -> TurnCredential:
    """Credential for `opaque_id` (`[A-Za-z0-9._-]`, at most 128) until `expires_at` (Unix seconds).

    Raises ValueError for an id or expiry that coturn would refuse.
    """
    if not _OPAQUE_ID.match(opaque_id):
        raise ValueError("opaque id has characters that TURN usernames here may not have")
    if not 0 < expires_at <= MAX_EXPIRY:
        raise ValueError("expiry does not fit coturn's 32 bits")
    username = f"{expires_at}:{opaque_id}"
    return TurnCredential(username, password_of(secret, username))


def password_of(secret: str, username: str) -> str:
    """base64(HMAC-SHA1(secret, username)); SHA-1 is what coturn and every TURN server agree on."""
    digest = hmac.digest(secret.encode(), username.encode(), "sha1")
    return base64.b64encode(digest).decode()


def parse_username(username: str) -> TurnUsername | None:
    """The inverse of `mint`'s naming; None for anything else."""
    match = _USERNAME.match(username)
    if match is None or int(match[1]) > MAX_EXPIRY:
        return None
    return TurnUsername(int(match[1]), match[2])


def long_term_key(username: str, realm: str, password: str) -> bytes:
    """MD5(user:realm:password): the long-term mechanism's key (RFC 8489 section 9.2.2)."""
    return hashlib.md5(f"{username}:{realm}:{password}".encode()).digest()  # noqa: S324
