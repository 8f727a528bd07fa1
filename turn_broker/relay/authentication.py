"""Long-term authentication with time-limited credentials (RFC 8489 section 9.2, TURN REST API).

Pure. A nonce is stateless: its end and a MAC over that end and the client's 5-tuple, so nothing is
stored for a client that has shown no credential. Any of several secrets may have made a password.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from turn_broker.credentials import long_term_key, parse_username, password_of
from turn_broker.relay.stun import IPV4, Attribute, Message, has_integrity


class Flow(NamedTuple):
    """A client's side of the 5-tuple; the relay's side is always its one listener."""

    transport: str
    """"udp" or "tcp"."""
    host: str
    port: int


class Now(NamedTuple):
    """The two clocks: intervals by the first, credentials by the second."""

    monotonic: float
    unix: float


@dataclass(frozen=True, slots=True)
class RelayIdentity:
    """What the relay is: realm, secrets of the moment, keys, and the families it can serve."""

    realm: str
    secrets: Sequence[str] = field(repr=False)
    nonce_key: bytes = field(repr=False)
    families: frozenset[int] = frozenset({IPV4})


@dataclass(frozen=True, slots=True)
class Verified:
    """Who signed a request."""

    username: str
    opaque_id: str
    expires_at: int
    key: bytes = field(repr=False)

    @property
    def identity(self) -> str:
        """What all credentials of one identity share: the opaque id up to its dot."""
        return self.opaque_id.partition(".")[0]

    def seconds_left(self, now: Now) -> float:
        """Until the credential ends; the second it names still counts, as in coturn."""
        return self.expires_at + 1 - now.unix


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error response."""

    code: int
    reason: str
    challenge: bool = False
    """Whether realm and a fresh nonce go with it."""


UNAUTHORIZED = Refusal(401, "Unauthorized", challenge=True)
STALE_NONCE = Refusal(438, "Stale Nonce", challenge=True)
BAD_REQUEST = Refusal(400, "Bad Request")


class Nonces:
    """Makes and checks nonces."""

    def __init__(self, key: bytes, lifetime: float) -> None:
        self._key = key
        self._lifetime = lifetime

    def issue(self, flow: Flow, now: Now) -> bytes:
        """A nonce for this client, good for the configured lifetime."""
        ends = int(now.monotonic + self._lifetime) & 0xFFFFFFFF
        return self._seal(ends.to_bytes(4), flow)

    def valid(self, nonce: bytes, flow: Flow, now: Now) -> bool:
        """Whether `issue` made it for this client and it has not ended."""
        try:
            end = bytes.fromhex(nonce[:8].decode("ascii"))
        except ValueError:
            return False
        if len(end) != 4 or not hmac.compare_digest(nonce, self._seal(end, flow)):
            return False
        return int.from_bytes(end) >= now.monotonic

    def _seal(self, end: bytes, flow: Flow) -> bytes:
        text = f"{end.hex()} {flow.transport} {flow.host} {flow.port}"
        mac = hmac.digest(self._key, text.encode(), hashlib.sha256)
        return (end + mac[:10]).hex().encode()


class Authenticator:
    """Checks requests against a realm and the secrets valid at the moment."""

    def __init__(self, realm: str, secrets: Sequence[str], nonces: Nonces) -> None:
        self.realm = realm
        self.secrets = tuple(secrets)
        self.nonces = nonces

    def verify(self, message: Message, flow: Flow, now: Now) -> Verified | Refusal:
        """RFC 8489 section 9.2.4, in its order."""
        if message.integrity_at is None:
            return UNAUTHORIZED
        username = message.first(Attribute.USERNAME)
        nonce = message.first(Attribute.NONCE)
        if username is None or nonce is None or message.first(Attribute.REALM) is None:
            return BAD_REQUEST
        if not self.nonces.valid(nonce, flow, now):
            return STALE_NONCE
        return self._signer(message, username, now) or UNAUTHORIZED

    def _signer(self, message: Message, username: bytes, now: Now) -> Verified | None:
        try:
            name = username.decode("ascii")
        except ValueError:
            return None
        parsed = parse_username(name)
        if parsed is None:
            return None
        for secret in self.secrets:
            key = long_term_key(name, self.realm, password_of(secret, name))
            if has_integrity(message, key):
                verified = Verified(name, parsed.opaque_id, parsed.expires_at, key)
                return verified if verified.seconds_left(now) > 0 else None
        return None
