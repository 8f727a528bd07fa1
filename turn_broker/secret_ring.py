"""The TURN secrets of a realm: one that mints, and older ones that still verify.

Pure and immutable: a rotation returns a new ring. It does not know where secrets come from.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field

from turn_broker.credentials import TurnUsername, parse_username, password_of


@dataclass(frozen=True, slots=True)
class RetiringSecret:
    """A secret that mints no more; accepted until `until` (Unix seconds), or while it is listed."""

    secret: str = field(repr=False)
    until: int | None = None


@dataclass(frozen=True, slots=True)
class SecretRing:
    active: str = field(repr=False)
    retiring: tuple[RetiringSecret, ...] = ()

    def accepted(self, now: float) -> tuple[str, ...]:
        """Secrets that verify at `now`, the active one first."""
        alive = (old.secret for old in self.retiring if old.until is None or old.until >= now)
        return (self.active, *alive)

    def rotated(self, secret: str, now: float, overlap_s: int) -> SecretRing:
        """Ring that mints with `secret` and accepts the former one for `overlap_s` more.

        `overlap_s` should be the longest ttl that was granted, so that no credential dies early.
        """
        if secret in self.accepted(now):
            raise ValueError("this secret is already in the ring")
        kept = tuple(old for old in self.retiring if old.until is None or old.until >= now)
        return SecretRing(secret, (RetiringSecret(self.active, int(now) + overlap_s), *kept))

    def verify(self, username: str, password: str, now: float) -> TurnUsername | None:
        """The parsed name if the credential is unexpired and of an accepted secret."""
        parsed = parse_username(username)
        if parsed is None or parsed.expires_at < now:
            return None
        given = password.encode("utf-8", "surrogatepass")
        # Every secret is compared, so time does not tell which one matched.
        hits = [
            hmac.compare_digest(given, password_of(secret, username).encode())
            for secret in self.accepted(now)
        ]
        return parsed if any(hits) else None
