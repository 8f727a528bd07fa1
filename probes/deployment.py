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


@dataclass(frozen=True, slots=True)
class Relays:
    """A fresh credential."""

    servers: dict[Transport, IceServers]
    """By transport; [] where there is none."""
    region: str
    """Of the first one, "" without any."""
    expires_at: int | None = None
    """Of the credential, Unix seconds; None without one."""
    wait_s: float = 0.0
    """Until another credential may be asked for, where this one was refused for that."""


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
    turn_regions: Callable[[], Sequence[str]]
    """Where this deployment has relays."""
    relays: Callable[[str, str | None, str | None], Relays]
    """For an identity; for the address that asks, None for the node itself; of one of
    `turn_regions`, None for what a call from that address gets."""
    address_of: Callable[[Request], str]
    """The client's, for limits and for the nearest relay."""
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
