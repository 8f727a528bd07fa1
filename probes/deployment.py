"""What the probes need of the deployment they stand in, handed in by the composition root.

It does not know accounts, brokers or settings files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from probes.messages import Region, Transport
from probes.settings import DeploymentRegion

IceServers = list[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    region: str
    node: str
    regions: Sequence[DeploymentRegion]
    """As configured; empty: this node's own, at whatever address it was asked."""
    issue_token: Callable[[str, int], str]
    """Identity and seconds to an access token with the grant `probe` and no other."""
    identity_of: Callable[[str], str | None]
    """The identity of a good access token with the grant `probe`; None for any other text."""
    ice_servers: Callable[[str, str | None], dict[Transport, IceServers]]
    """A fresh credential for an identity, its URLs by transport; [] where there is none.

    The second argument is the address that asks, None for the node itself.
    """
    address_of: Callable[[Request], str]
    """Key of the client's address, for limits only."""
    unix: Callable[[], float]
    monotonic: Callable[[], float]

    def regions_seen_by(self, request: Request) -> list[Region]:
        """Every region with the URLs a client uses."""
        if not self.regions:
            base = f"{request.url.scheme}://{request.url.netloc}"
            return [region_at(self.region, base)]
        return [region_at(region.id, region.url) for region in self.regions]


def region_at(name: str, base: str) -> Region:
    """`base` is http(s)://host[:port]."""
    socket_base = "ws" + base.removeprefix("http")
    return Region(name, f"{socket_base}/v1/probes/ws", base)
