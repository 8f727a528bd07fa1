"""`[probes]` and `[[regions]]` of parley.toml: what visitors may test, and where. Pure."""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta, Struct

MAX_PORT = 65_535
_ORIGIN = re.compile(
    r"https?://(?:[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?"
)
RegionName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}\Z")]


class DeploymentRegion(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[[regions]]`: one region of this deployment, as clients reach it."""

    id: RegionName
    url: Annotated[str, Meta(max_length=256)]
    """Base URL without a path; signaling and probe sockets are at the same host."""

    def __post_init__(self) -> None:
        """Raises ValueError: the URL goes into the pages' Content-Security-Policy as it is."""
        _check_origin(self.url)


class ProbeTarget(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[[probes.targets]]`: a deployment that `GET /probe?target=ID` may test."""

    id: RegionName
    url: Annotated[str, Meta(max_length=256)]

    def __post_init__(self) -> None:
        """Raises ValueError."""
        _check_origin(self.url)


class ProbeSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[probes]`: bounds are for this node unless they say otherwise."""

    enabled: bool = True
    session_ttl_s: Annotated[int, Meta(ge=60, le=3600)] = 300
    """Life of a probe session's token and TURN credentials."""
    address_per_s: Annotated[float, Meta(gt=0, le=1e4)] = 0.2
    """Sessions for one address (IPv6: one /64)."""
    address_burst: Annotated[int, Meta(ge=1, le=10_000)] = 20
    total_per_s: Annotated[float, Meta(gt=0, le=1e6)] = 50.0
    """Sessions for everybody."""
    peers: Annotated[int, Meta(ge=0, le=256)] = 8
    """Server peers (aiortc) at the same time; 0 turns them off."""
    peers_per_session: Annotated[int, Meta(ge=1, le=16)] = 4
    peer_s: Annotated[int, Meta(ge=5, le=120)] = 45
    """Longest life of a server peer."""
    peer_start_bitrate_kbps: Annotated[int, Meta(ge=100, le=20_000)] = 2000
    """Where a browser begins that sends video to a server peer; its estimate of a receiver without
    transport-wide feedback hardly grows by itself."""
    peer_relay: bool = False
    """Server peers are reached through this deployment's own relay, for nodes that visitors' relays
    cannot reach directly; a relay that denies its own addresses then looks like a blocked one."""
    allow_private_peers: bool = False
    """Let server peers connect to private and loopback addresses, as `parley dev` must."""
    reports: Annotated[int, Meta(ge=0, le=1_000_000)] = 10_000
    """Shared reports that are kept; the oldest goes first. 0 turns sharing off."""
    reports_per_session: Annotated[int, Meta(ge=1, le=100)] = 5
    report_life_s: Annotated[int, Meta(ge=60, le=366 * 86_400)] = 30 * 86_400
    reports_file: str = ""
    """SQLite file; empty keeps reports in memory, until the process ends."""
    targets: Annotated[list[ProbeTarget], Meta(max_length=64)] = []


def _check_origin(url: str) -> None:
    found = _ORIGIN.fullmatch(url)
    if found is None or not 1 <= int(found[1] or 1) <= MAX_PORT:
        raise ValueError(f"url is no http(s)://host[:port]: {url!r}")
