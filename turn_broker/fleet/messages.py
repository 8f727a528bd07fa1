"""What brokers and TURN nodes tell each other: tokens, revocations, usage, reports, secrets.

Pure. An id is a token's opaque id (`<identity digest>.<token id>`), an identity the digest alone:
the fleet never sees a name that a client chose.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from turn_broker.secret_ring import SecretRing


class Terms(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a token allows beyond its expiry, enforced by the node agents."""

    hard_expiry: bool = False
    """Cut running allocations when the credential expires."""
    max_bytes: int | None = None
    """Payload bytes in both directions over the token's life."""
    identity_bytes: int | None = None
    """The same for all tokens of the identity together."""
    account_bytes: int | None = None
    """The same for all tokens of the account together."""
    max_allocations: int | None = None
    """Live allocations of the identity; those above it are cut, the newest first."""
    address: str | None = None
    """Only a client with this address (IPv6: this /64) may allocate."""


class TokenRecord(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A token that was handed out."""

    id: str
    account: str
    """Account SID."""
    issued_at: int
    expires_at: int
    dialect: str
    label: str | None = None
    """A tag of the account's choice (Cloudflare's customIdentifier); never a metric label."""
    terms: Terms = Terms()

    @property
    def identity(self) -> str:
        """The digest that all tokens of one identity share."""
        return self.id.partition(".")[0]


SKEW_S = 60
"""Clocks of brokers and nodes, and brokers that hear of a change late: what ends with a credential
holds so much longer."""


class Revocation(Struct, frozen=True, kw_only=True):
    """A token or an identity that may use nothing any more."""

    scope: Literal["token", "identity"]
    name: str
    """A token's id, or an identity's digest."""
    until: int
    """Unix seconds: no credential that it concerns lives longer."""

    @staticmethod
    def of_token(record: TokenRecord) -> Revocation:
        return Revocation(scope="token", name=record.id, until=record.expires_at + SKEW_S)


class Charge(Struct, frozen=True, kw_only=True):
    """What one token used on one node since the last charge."""

    id: str
    sent_bytes: int = 0
    """From the client."""
    received_bytes: int = 0
    """To the client."""
    opened: int = 0
    """Allocations."""

    def counted_for(self, record: TokenRecord | None) -> tuple[tuple[str, str], ...]:
        """Scope and name of every sum it goes into; the account's only if the token is known."""
        own = (("token", self.id), ("identity", self.id.partition(".")[0]))
        return own if record is None else (*own, ("account", record.account))


class Usage(Struct, frozen=True, kw_only=True):
    """What a token, an identity or an account has used as far as it is remembered."""

    sent_bytes: int = 0
    received_bytes: int = 0
    allocations: int = 0
    live: int = 0
    """Allocations open now, by the last reports of the nodes; only `Fleet.usage` tells it."""

    @property
    def bytes(self) -> int:
        return self.sent_bytes + self.received_bytes

    def plus(self, charge: Charge) -> Usage:
        return Usage(
            sent_bytes=self.sent_bytes + charge.sent_bytes,
            received_bytes=self.received_bytes + charge.received_bytes,
            allocations=self.allocations + charge.opened,
            live=self.live,
        )


class LiveSession(Struct, frozen=True, kw_only=True):
    """One allocation that is open now."""

    session: str
    """The node's own number for it."""
    id: str
    since: int
    """Unix seconds."""
    transport: str = ""
    """udp, tcp, tls, or empty where the server does not say."""


class NodeReport(Struct, frozen=True, kw_only=True):
    """A node agent's sign of life; a node without a recent one has no agent."""

    node: str
    at: int
    """Unix seconds."""
    software: str
    """`coturn 4.6.1`, `embedded`."""
    secrets_version: int
    """The newest version of the secrets that is in force there."""
    is_draining: bool = False
    sessions: tuple[LiveSession, ...] = ()
    """Bounded by `MAX_LISTED_SESSIONS`; `live` counts all of them."""
    live: int = 0
    cut: int = 0
    """Allocations this agent has ended since it started."""
    cuts: dict[str, int] = {}
    """The same by the guard's reason."""
    doubted: int = 0
    """Records of sessions that anybody could have written, not counted; since it started."""
    sent_bytes: int = 0
    received_bytes: int = 0
    """Since the agent started, of all allocations."""


MAX_LISTED_SESSIONS = 10_000


class SeenUrl(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One URL of one TURN node, as one broker's probes find it."""

    node: str
    url: str
    works: bool
    """After some misses in a row it does not, after some successes it does again."""
    verdict: Literal["up", "unproven", "down"]
    """Of the last probe."""
    reason: str = ""


class HealthReport(Struct, frozen=True, kw_only=True):
    """What one broker's probes have found."""

    observer: str
    """A name of the broker's own making."""
    urls: tuple[SeenUrl, ...] = ()


DEFAULT_RING = "*"
"""Names the ring of every account that has none of its own."""


class RealmSecrets(Struct, frozen=True, kw_only=True):
    """Every ring of one realm; `version` grows with each change."""

    version: int
    rings: dict[str, SecretRing]
    """By account SID; `DEFAULT_RING` is always there."""

    def ring(self, account: str) -> SecretRing:
        """The account's own ring, or the default one."""
        return self.rings.get(account) or self.rings[DEFAULT_RING]

    def accepted(self, now: float) -> tuple[str, ...]:
        """Every secret that a node of the realm must accept at `now`, without repetitions."""
        found = {secret: None for ring in self.rings.values() for secret in ring.accepted(now)}
        return tuple(found)

    def __repr__(self) -> str:
        return f"RealmSecrets(version={self.version}, ...)"


# Orders to node agents -------------------------------------------------------------------------


class Revoke(Struct, frozen=True, tag="revoke", tag_field="order"):
    """Cut what the revocation concerns, refuse it from now on, and answer with the number cut."""

    ticket: str
    """Names the answer."""
    revocation: Revocation


class UseSecrets(Struct, frozen=True, tag="use_secrets", tag_field="order"):
    """Put the realm's secrets in force and report the version."""

    secrets: RealmSecrets


class Drain(Struct, frozen=True, tag="drain", tag_field="order"):
    """Take no new allocations, or take them again; running ones go on."""

    node: str
    on: bool


Order = Revoke | UseSecrets | Drain


class Cut(Struct, frozen=True, kw_only=True):
    """How a revocation went."""

    relays: int
    """Allocations that were ended."""
    nodes: tuple[str, ...]
    """Nodes that answered in time."""
    silent: tuple[str, ...]
    """Nodes with a live agent that did not: it cuts when it hears of it."""
