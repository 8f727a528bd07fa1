"""The probes of one node, wired: routes, socket endpoint, server peers, reports and figures.

Built by the composition root. It does not know where settings come from.
"""

from __future__ import annotations

import asyncio
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from prometheus_client.registry import Collector
from starlette.routing import Route

from probes.deployment import Deployment
from probes.http import ProbeApi
from probes.metrics import Figures, ProbeCollector
from probes.reports import Reports
from probes.settings import ProbeSettings
from probes.socket import PATH, ProbeSocket

if TYPE_CHECKING:
    from probes.peers import PeerHost


class Probes:
    """`close` it when the node has served."""

    def __init__(self, settings: ProbeSettings, deployment: Deployment) -> None:
        """Raises sqlite3.Error when the reports' file cannot be used."""
        self._settings = settings
        self._deployment = deployment
        self._figures = figures = Figures()
        self.endpoints = {PATH: ProbeSocket(deployment.region, deployment.node)}
        self._host: PeerHost | None = None
        self._reports = None
        if settings.reports:
            path = settings.reports_file
            self._reports = Reports(path, settings.reports, settings.report_life_s)
        has_peers = settings.peers > 0 and find_spec("aiortc") is not None
        peers = self._peers if has_peers else None
        self._api = ProbeApi(settings, deployment, peers, self._reports, figures)
        self.collector: Collector = ProbeCollector(
            figures, self.endpoints[PATH].figures, lambda: len(self._host or ())
        )

    def routes(self) -> list[Route]:
        return [*self._api.routes(), *_blackbox(self._settings)]

    async def close(self) -> None:
        """Ends every server peer."""
        if self._host is not None:
            await self._host.close()
        if self._reports is not None:
            self._reports.close()

    async def _peers(self) -> PeerHost:
        if self._host is None:
            # aiortc takes half a second and 40 MB, which a node without visitors does not spend.
            await asyncio.to_thread(import_module, "probes.peers")
        if self._host is None:
            from probes.peers import PeerHost

            deployment = self._deployment
            self._host = PeerHost(
                self._settings,
                lambda owner: deployment.relays(owner, None, None).servers,
                deployment.unix,
                self._figures,
            )
        return self._host


def _blackbox(settings: ProbeSettings) -> list[Route]:
    """The runner's HTTP and WebSocket clients are loaded only where there is something to test."""
    if not settings.targets:
        return []
    from probes.blackbox import Blackbox

    return Blackbox(settings.targets).routes()
