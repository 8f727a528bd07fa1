"""A ring of TURN secrets: one that mints, the next one, and older ones that still verify.

Pure and immutable: every step of a rotation returns a new ring. A secret's life is next -> active
-> retiring -> removed. It does not know whose ring it is, nor which nodes have heard of a secret.
"""

from __future__ import annotations

import hmac

from msgspec import Struct
from msgspec.structs import replace

from turn_broker.credentials import TurnUsername, parse_username, password_of

MAX_RETIRING = 32
"""A TURN server tries every secret at each allocation."""


class RetiringSecret(Struct, frozen=True, omit_defaults=True):
    """A secret that mints no more; accepted until `until` (Unix seconds), or while it is listed."""

    secret: str
    until: int | None = None

    def __repr__(self) -> str:
        return f"RetiringSecret(until={self.until})"


class SecretRing(Struct, frozen=True, omit_defaults=True):
    active: str
    """Mints."""
    retiring: tuple[RetiringSecret, ...] = ()
    """Newest first."""
    next: str | None = None
    """Accepted by the nodes, or on its way there; does not mint yet."""
    since: int = 0
    """Unix seconds at which `active` began to mint; 0 where that is not known."""
    is_forced: bool = False
    """`next` does not wait for nodes without an agent."""

    def __repr__(self) -> str:
        return "SecretRing(...)"

    def accepted(self, now: float) -> tuple[str, ...]:
        """Secrets that verify at `now`, the active one first."""
        coming = () if self.next is None else (self.next,)
        return (self.active, *coming, *(old.secret for old in self._alive(now)))

    def begin(self, secret: str, now: float, *, force: bool = False) -> SecretRing:
        """The ring with `secret` as the next one; ValueError while another rotation is under way.

        Also for a secret that the ring accepts already: a credential would outlive its retirement.
        """
        if self.next is not None:
            raise ValueError("a rotation is under way already")
        if secret in self.accepted(now):
            raise ValueError("this secret is already in the ring")
        if len(self._alive(now)) >= MAX_RETIRING:
            raise ValueError("too many former secrets are still accepted")
        return replace(self, next=secret, is_forced=force)

    def promote(self, now: float, overlap_s: int) -> SecretRing:
        """The ring that mints with its next secret and accepts the former one `overlap_s` more.

        `overlap_s` covers the longest ttl that was granted, so that no credential dies early.
        """
        if self.next is None:
            raise ValueError("there is no next secret")
        former = RetiringSecret(self.active, int(now) + overlap_s)
        return SecretRing(self.next, (former, *self._alive(now)), None, int(now))

    def purge(self, now: float) -> SecretRing:
        """The ring without what has run out; the same object where there is nothing to remove."""
        alive = self._alive(now)
        return self if len(alive) == len(self.retiring) else replace(self, retiring=alive)

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

    def _alive(self, now: float) -> tuple[RetiringSecret, ...]:
        return tuple(old for old in self.retiring if old.until is None or old.until >= now)
