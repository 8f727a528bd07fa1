"""Which accounts have used up their bytes, read from the fleet every few seconds.

So that nobody who asks for a credential waits for the fleet. While the fleet cannot be reached the
last figures hold: a quota is for billing, and no reason to refuse everybody.
"""

from __future__ import annotations

import asyncio
import contextlib

from turn_broker.accounts.table import Account, Accounts
from turn_broker.background import Background
from turn_broker.fleet.contract import Fleet, FleetUnavailable

INTERVAL_S = 5.0


class UsageWatch(Background):
    """Looks while it is entered."""

    def __init__(self, accounts: Accounts, fleet: Fleet, *, interval_s: float = INTERVAL_S) -> None:
        self._accounts = accounts
        self._fleet = fleet
        self._interval_s = interval_s
        self._bytes: dict[str, int] = {}

    def is_used_up(self, account: Account) -> bool:
        quota = account.limits.byte_quota
        return quota is not None and self._bytes.get(account.sid, 0) >= quota

    async def look(self) -> None:
        """Read the accounts that have a quota, and forget the others."""
        known = {
            account.sid: self._bytes.get(account.sid, 0)
            for account in self._accounts.all()
            if account.limits.byte_quota is not None
        }
        self._bytes = known
        with contextlib.suppress(FleetUnavailable):
            totals = await self._fleet.totals([("account", sid) for sid in known])
            known.update({sid: usage.bytes for (_, sid), usage in totals.items()})

    async def _work(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(self._interval_s)
