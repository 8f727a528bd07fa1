"""Follows what agents and other brokers report, and reports what our own prober has found.

Who drains, which URLs work elsewhere, and figures for the metrics. It knows the fleet and the list
of nodes, and decides nothing about either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Self

from turn_broker.background import Background
from turn_broker.fleet.contract import REPORT_INTERVAL_S, Fleet, FleetUnavailable
from turn_broker.fleet.messages import HealthReport, NodeReport
from turn_broker.nodes.health import NodeList


class FleetWatch(Background):
    """Looks every `REPORT_INTERVAL_S` while it is entered."""

    def __init__(
        self, fleet: Fleet, nodes: NodeList, observer: str, clock: Callable[[], float]
    ) -> None:
        """`observer` names this broker among all of the realm; `clock` gives Unix seconds."""
        self._fleet = fleet
        self._nodes = nodes
        self._observer = observer
        self._clock = clock
        self.reports: tuple[NodeReport, ...] = ()
        """The last ones; empty while the fleet cannot be reached."""
        self.is_reached = False

    @property
    def lost_records(self) -> int:
        """Tokens that this broker could not have remembered."""
        return self._fleet.lost_records

    async def look(self) -> None:
        """Once. A fleet that cannot be reached leaves the draining nodes as they were, and what
        other brokers found is not known any more."""
        try:
            self.reports = await self._fleet.reports()
            draining = await self._fleet.draining()
            health = await self._fleet.health()
            if seen := self._nodes.seen():
                await self._fleet.report_health(HealthReport(observer=self._observer, urls=seen))
        except FleetUnavailable:
            self.reports, self.is_reached = (), False
            self._nodes.hear((), self._clock())
            return
        others = (each.urls for each in health if each.observer != self._observer)
        self._nodes.hear([seen for urls in others for seen in urls], self._clock())
        self.is_reached = True
        reported = {report.node for report in self.reports if report.is_draining}
        self._nodes.set_draining(draining | reported)

    async def __aenter__(self) -> Self:
        await self.look()
        return await super().__aenter__()

    async def _work(self) -> None:
        while True:
            await asyncio.sleep(REPORT_INTERVAL_S)
            await self.look()
