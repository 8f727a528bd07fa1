"""What a fleet's shared memory can do, whether it is this process's or Redis.

One conformance suite (tests/contract) holds for every implementation. It does not know TURN, HTTP
or who asks.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from typing import Protocol

from turn_broker.fleet.messages import (
    Charge,
    Cut,
    HealthReport,
    NodeReport,
    Order,
    RealmSecrets,
    Revocation,
    TokenRecord,
    Usage,
)

REPORT_LIFE_S = 15
"""A report older than this says nothing any more; agents and brokers report every
`REPORT_INTERVAL_S`."""
REPORT_INTERVAL_S = 2
USAGE_LIFE_S = 31 * 86_400
"""Usage that nothing was added to for so long is forgotten."""
BATCH_LIFE_S = 600
"""So long a batch of charges is recognised."""
MAX_REVOCATIONS = 100_000


class FleetUnavailable(Exception):  # noqa: N818 - a state of the world, not a mistake
    """The shared memory cannot be reached now."""


class FleetFull(FleetUnavailable):
    """There is no room for more of it."""


class Fleet(Protocol):
    """Shared by every broker and node agent of one realm.

    Every coroutine raises FleetUnavailable within 5 s when the shared memory cannot be reached.
    """

    # Tokens

    def record(self, token: TokenRecord) -> None:
        """Remember a token until it expires; never waits. Bounded: see `lost_records`."""

    @property
    def lost_records(self) -> int:
        """Tokens that were forgotten, or never remembered, for want of room."""
        ...

    async def token(self, opaque_id: str) -> TokenRecord | None:
        """A token that has not expired."""
        ...

    # Revocations

    async def revoke(self, revocation: Revocation, wait_s: float = 1.0) -> Cut:
        """Remember, tell every agent, and wait up to `wait_s` for the nodes that report.

        Raises FleetFull when there is no room to remember it.
        """
        ...

    async def revocations(self) -> tuple[Revocation, ...]:
        """Those that have not run out."""
        ...

    def is_revoked(self, opaque_id: str) -> bool:
        """Whether a token's id, or an identity's digest alone, may use nothing now.

        From a local copy that orders keep fresh; never waits.
        """
        ...

    # Usage

    async def charge(self, charges: Sequence[Charge], batch: str = "") -> dict[str, Usage]:
        """Add to token, identity and account; the new totals of each charged token, by its id.

        A charge for an id without a record counts for its token and identity only. After
        FleetUnavailable it is not known whether the charges were made: repeat them under the same
        `batch` (a random name), which is counted once within `BATCH_LIFE_S`.
        """
        ...

    async def usage(self, scope: str, name: str) -> Usage:
        """`scope` is token, identity or account; zeros for what is unknown."""
        ...

    async def totals(self, names: Collection[tuple[str, str]]) -> dict[tuple[str, str], Usage]:
        """`usage` by scope and name, without `live`: cheap, for quotas of many."""
        ...

    # Nodes

    async def report(self, report: NodeReport) -> None: ...

    async def reports(self) -> tuple[NodeReport, ...]:
        """Not older than `REPORT_LIFE_S`, one for each node, without their `sessions`.

        Brokers look every second, and a realm has many sessions: only `usage` reads those.
        """
        ...

    async def report_health(self, report: HealthReport) -> None: ...

    async def health(self) -> tuple[HealthReport, ...]:
        """Not older than `REPORT_LIFE_S`, one for each observer."""
        ...

    async def drain(self, node: str, on: bool) -> None:
        """Remember and order it; an agent that starts later hears of it too."""

    async def draining(self) -> frozenset[str]:
        """The ids of nodes that are to take no new allocations."""
        ...

    # Secrets

    async def secrets(self) -> RealmSecrets | None:
        """None before the first `replace_secrets`."""
        ...

    async def replace_secrets(self, secrets: RealmSecrets) -> bool:
        """Compare and set: only if `secrets.version` is the stored one plus 1 (the first: 1)."""
        ...

    # Orders, for agents

    def orders(self, node: str) -> AsyncIterator[Order]:
        """First what holds now (secrets, revocations, drain), then each order as it is given.

        Lost connections are bridged: what was ordered meanwhile is delivered afterwards, or the
        state is delivered anew. Ends only by being closed.
        """
        ...

    async def answer(self, ticket: str, node: str, cut: int) -> None:
        """A node's answer to a `Revoke`."""

    async def close(self) -> None: ...
