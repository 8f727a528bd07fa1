"""Bounds of what the broker grants: how long a credential lives and how many URLs it gets.

Pure. It does not know who asks.
"""

from __future__ import annotations

from dataclasses import dataclass

TWILIO_MAX_TTL_S = 86_400
"""Also the Twilio dialect's default."""
CREDENTIAL_MAX_TTL_S = 48 * 3600
"""No policy may grant longer: a leaked credential of a use-auth-secret realm cannot be recalled."""
MAX_URLS = 4
"""Firefox warns at five STUN/TURN URLs and slows discovery down."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Raises ValueError for bounds that contradict each other."""

    min_ttl_s: int = 60
    max_ttl_s: int = 86_400
    default_ttl_s: int = 3600
    """For a native request without `ttl`; the Twilio dialect has its own default."""
    max_urls: int = MAX_URLS

    def __post_init__(self) -> None:
        if not 1 <= self.min_ttl_s <= self.default_ttl_s <= self.max_ttl_s <= CREDENTIAL_MAX_TTL_S:
            raise ValueError(
                f"1 <= min_ttl_s <= default_ttl_s <= max_ttl_s <= {CREDENTIAL_MAX_TTL_S}"
                " does not hold"
            )
        if not 1 <= self.max_urls <= MAX_URLS:
            raise ValueError(f"max_urls must be 1 to {MAX_URLS}")
