"""Rotates the TURN secrets of a realm without a refused client, and knows the ring that mints.

Every broker runs one; who changes what is stored is settled by compare-and-set, so a rotation goes
on whichever of them is restarted. It does not know Redis, TURN or HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection
from typing import Literal

from msgspec import Struct

from turn_broker.fleet.contract import Fleet, FleetUnavailable
from turn_broker.fleet.messages import DEFAULT_RING, SKEW_S, RealmSecrets
from turn_broker.fleet.rotation_steps import adopted, advanced, begun, forced, waiting_for
from turn_broker.secret_ring import SecretRing

log = logging.getLogger("parley.rotation")

POLL_S = 1.0
ATTEMPTS = 5
"""To store a change while other brokers store theirs."""


class RingStatus(Struct, frozen=True, kw_only=True):
    """One ring as operators see it: no secret."""

    ring: str
    """An account SID, or `*` for every account without a ring of its own."""
    state: Literal["active", "next"]
    """next: a rotation is under way."""
    active_since: int | None
    """Unix seconds; None: by configuration, not known."""
    retiring_until: tuple[int, ...]
    waiting_for: tuple[str, ...]
    """Nodes that have not reported the next secret."""
    version: int


class RotationRefusal(Struct, frozen=True):
    code: Literal["conflict", "unavailable"]
    message: str


class Rotation:
    def __init__(  # noqa: PLR0913 - the parts it stands on
        self,
        fleet: Fleet,
        configured: SecretRing,
        nodes: Collection[str],
        clock: Callable[[], float],
        *,
        max_ttl_s: int,
        new_secret: Callable[[], str],
        own_rings: Callable[[], Collection[str]] = tuple,
        poll_s: float = POLL_S,
    ) -> None:
        """`configured` is the default ring until the fleet knows another; `nodes` are ids.

        `own_rings` names the accounts that are to have a ring of their own.
        """
        self._fleet = fleet
        self._configured = configured
        self._nodes = frozenset(nodes)
        self._clock = clock
        self._overlap_s = max_ttl_s + SKEW_S
        self._new_secret = new_secret
        self._own_rings = own_rings
        self._poll_s = poll_s
        self._secrets = RealmSecrets(version=0, rings={DEFAULT_RING: configured})
        self._task: asyncio.Task[None] | None = None
        self.is_known = False
        """Whether the fleet has been asked: before that the configuration stands for it."""

    async def start(self) -> None:
        """Learn the realm's secrets, or give the fleet the configured ones, and keep going."""
        with contextlib.suppress(FleetUnavailable):
            await self.step()
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def ring(self, account: str) -> SecretRing:
        """The ring that mints for an account now."""
        return self._secrets.ring(account)

    def ages_s(self) -> dict[str, float]:
        """Age of each minting secret by ring name, where it is known."""
        rings = self._secrets.rings.items()
        return {name: self._clock() - ring.since for name, ring in rings if ring.since}

    async def status(self) -> tuple[RingStatus, ...]:
        """Raises FleetUnavailable."""
        secrets = await self._stored()
        reports = await self._fleet.reports()
        return tuple(
            RingStatus(
                ring=name,
                state="active" if ring.next is None else "next",
                active_since=ring.since or None,
                retiring_until=tuple(old.until for old in ring.retiring if old.until is not None),
                waiting_for=()
                if ring.next is None
                else waiting_for(secrets, ring, reports, self._nodes),
                version=secrets.version,
            )
            for name, ring in sorted(secrets.rings.items())
        )

    async def rotate(
        self, name: str = DEFAULT_RING, *, force: bool = False
    ) -> RingStatus | RotationRefusal:
        """Begin a rotation of the ring `name`; it goes on by itself. Raises FleetUnavailable.

        Refused while a node without a live agent would not hear of the new secret, unless `force`:
        then such nodes refuse clients until somebody gives them the secret. `force` also releases
        a rotation that waits for them.
        """
        live = {report.node for report in await self._fleet.reports()}
        deaf = sorted(self._nodes - live)
        if deaf and not force:
            return RotationRefusal("conflict", f"nodes without a live agent: {', '.join(deaf)}")
        for _ in range(ATTEMPTS):
            secrets = await self._stored()
            after = forced(secrets, name) if force else None
            if after is None:
                try:
                    after = begun(secrets, name, self._new_secret(), self._clock(), force=force)
                except ValueError as flaw:
                    return RotationRefusal("conflict", str(flaw))
            if await self._fleet.replace_secrets(after):
                self._secrets = after
                return next(one for one in await self.status() if one.ring == name)
        return RotationRefusal("unavailable", "other changes were faster; try again")

    async def step(self) -> None:
        """Take over what is stored, and do what is due. Raises FleetUnavailable."""
        secrets = await self._stored()
        now = self._clock()
        if not self.is_known:
            self.is_known = True
            after = adopted(secrets, self._configured, now, self._overlap_s)
            if after is None and self._configured.active not in secrets.accepted(now):
                log.warning("turn.secret is no longer in use: the realm's ring was rotated")
        else:
            after = advanced(
                secrets, await self._fleet.reports(), self._nodes, now, self._overlap_s
            )
        for account in self._own_rings():
            if account not in secrets.rings and after is None:
                after = begun(secrets, account, self._new_secret(), now)
        if after is not None and await self._fleet.replace_secrets(after):
            log.info("the realm's secrets changed", extra={"version": after.version})
            secrets = after
        self._secrets = secrets

    async def _stored(self) -> RealmSecrets:
        """What the fleet knows; a fleet that knows nothing is told what this broker knows.

        So a rotation survives a shared memory that forgot everything.
        """
        for _ in range(ATTEMPTS):
            stored = await self._fleet.secrets()
            if stored is not None:
                return stored
            mine = RealmSecrets(version=1, rings=self._secrets.rings)
            if await self._fleet.replace_secrets(mine):
                return mine
        raise FleetUnavailable("the realm's secrets change all the time")

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._poll_s)
            try:
                await self.step()
            except FleetUnavailable:
                continue
            except Exception:
                log.exception("a step of the rotation failed")
