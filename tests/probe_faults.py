"""What can be wrong between a client and a deployment, and what a probe must say of it.

One table for the terminal and for Chromium: a browser is told less, and what it says instead is in
`browser`. `test_probe_faults.py` and `test_browser_probe_faults.py` run it.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import deployments as d
from bad_proxies import forgetful_nginx, frame_swallower, stale_sessions
from networks import Network
from two_networks import SERVER_ADDRESS

Make = Callable[[Path], AbstractContextManager[d.Deployment]]
Strike = Callable[[Network, d.Deployment], AbstractContextManager[object]]
_DIRECT = 8090
"""Of a node that stands behind a proxy at NODE_PORT."""
_PROXIED_WEST = 8091
_EVERYBODY = "denied-peer-ip=0.0.0.0-255.255.255.255"


def _nothing(_: Network, __: d.Deployment) -> AbstractContextManager[object]:
    return contextlib.nullcontext()


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A cell of the matrix. Checks that `reasons` does not name have passed."""

    name: str
    deployment: Make = d.whole
    """Takes a folder for its files; a fault of the deployment itself is in it from the start."""
    strikes: Strike = _nothing
    """A fault of the network, or one that begins later."""
    state: str
    says: str
    """Of the verdict's sentence, a regular expression."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """By check (`api`, `turn udp`, `ws west`, `quality-audio`): `state reason`; * for any state."""
    browser: Mapping[str, str] = field(default_factory=dict)
    """What a browser says otherwise: `state` and `says` of the verdict, and by check."""
    asks: tuple[str, ...] = ()
    """Protocols that the network's owner is asked to allow."""


def terminal(network: Network, deployment: d.Deployment, *options: str) -> list[str]:
    """`parley probe all` from the client's side, with the shortest quality check."""
    command = [network.command(sys.executable), "-m", "probes", "all", deployment.url, "--json"]
    if deployment.authority is not None:
        command += ["--ca", str(deployment.authority)]
    return [*command, "--duration", "5", *options]


def seen_by_check(report: dict[str, Any]) -> dict[str, str]:
    """Of the JSON: `state reason` by check."""
    return {
        " ".join(part for part in (one["name"], one["transport"], one["region"]) if part): (
            f"{one['state']} {one['reason']}".strip()
        )
        for one in report["checks"]
    }


def _drops(*packets: str) -> Strike:
    return lambda network, _: network.drops(*packets)


def _turn_blocked(network: Network, deployment: d.Deployment) -> AbstractContextManager[None]:
    assert deployment.turn is not None
    ports = f"{{ {deployment.turn.port}, {deployment.turn.tls_port} }}"
    return network.drops("ip protocol udp", f"tcp dport {ports}")


def _down(*regions: str) -> Strike:
    @contextlib.contextmanager
    def strike(_: Network, deployment: d.Deployment) -> Iterator[None]:
        for region in regions:
            deployment.others[region].kill()
        yield

    return strike


@contextlib.contextmanager
def _all_down(_: Network, deployment: d.Deployment) -> Iterator[None]:
    deployment.node.kill()
    yield


@contextlib.contextmanager
def _expired(home: Path) -> Iterator[d.Deployment]:
    direct = {"here": d.address(_DIRECT)}
    with (
        d.whole(home, port=_DIRECT, regions=direct) as deployment,
        stale_sessions(d.NODE_PORT, _DIRECT, d.SECRET),
    ):
        deployment.url = d.address(d.NODE_PORT)
        yield deployment


@contextlib.contextmanager
def _west_behind(
    proxy: Callable[[Path], AbstractContextManager[None]], home: Path
) -> Iterator[d.Deployment]:
    urls = {"here": d.address(d.NODE_PORT), "west": d.address(_PROXIED_WEST)}
    with (
        d.whole(home, regions=urls) as deployment,
        d.node(port=_DIRECT, region="west", regions=urls),
        proxy(home),
    ):
        yield deployment


def _no_upgrade(home: Path) -> AbstractContextManager[d.Deployment]:
    return _west_behind(lambda home: forgetful_nginx(home, _PROXIED_WEST, _DIRECT), home)


def _no_frames(home: Path) -> AbstractContextManager[d.Deployment]:
    return _west_behind(lambda _: frame_swallower(_PROXIED_WEST, _DIRECT), home)


def _relays(outcome: str, *transports: str) -> dict[str, str]:
    return {f"turn {transport}": outcome for transport in transports or ("udp", "tcp", "tls")}


def _quality(outcome: str) -> dict[str, str]:
    return {"quality-audio": outcome, "quality-video": outcome}


NO_QUALITY = _quality("skipped not_offered")
"""Without a relay that works there is nothing to measure."""
_REJECTED = "The relay does not accept the server's credentials."
_PARTLY = "Calls work from here, but not every region can be reached"

FAULTS = (
    Fault(name="nothing", state="passed", says="Calls work well from here."),
    Fault(
        name="UDP blocked",
        strikes=_drops("ip protocol udp"),
        state="warning",
        says="This network blocks UDP; calls work over TCP",
        reasons=_relays("failed unreachable", "udp"),
        asks=("UDP",),
    ),
    Fault(
        name="UDP and TCP 3478 blocked",
        strikes=_drops("ip protocol udp", f"tcp dport {d.TURN_PORT}"),
        state="warning",
        says="This network blocks UDP; calls work over TLS",
        reasons=_relays("failed unreachable", "udp", "tcp"),
        asks=("UDP",),
    ),
    Fault(
        name="all TURN blocked",
        strikes=_turn_blocked,
        state="failed",
        says="The relay cannot be reached from here.",
        reasons={**_relays("failed unreachable"), **NO_QUALITY},
        asks=("UDP", "TCP", "TCP"),
    ),
    Fault(
        name="wrong credential",
        deployment=lambda home: d.whole(home, secret="another-secret-than-the-relay-has"),
        state="failed",
        says=_REJECTED,
        reasons={**_relays("failed credential_rejected"), **NO_QUALITY},
    ),
    Fault(
        name="expired credential",
        deployment=_expired,
        state="failed",
        says=_REJECTED,
        reasons={**_relays("failed credential_expired"), **NO_QUALITY},
    ),
    Fault(
        name="bad certificate",
        deployment=lambda home: d.whole(home, self_signed=True),
        state="warning",
        says="Calls work from here, but the relay cannot be used over TLS.",
        reasons=_relays("failed tls_certificate", "tls"),
        browser={
            **_relays("failed unreachable", "tls"),
            "state": "passed",
            "says": "Calls can connect from here.",
        },
    ),
    Fault(
        name="hairpin denied",
        deployment=lambda home: d.whole(home, f"denied-peer-ip={SERVER_ADDRESS}"),
        state="warning",
        says="The relay does not carry calls between two people who both need it.",
        reasons=_relays("warning hairpin"),
    ),
    Fault(
        name="peers denied",
        deployment=lambda home: d.whole(home, _EVERYBODY),
        state="failed",
        says="The relay answers, but does not carry anything.",
        reasons={**_relays("failed peer_denied"), **NO_QUALITY},
    ),
    Fault(
        name="10 % loss",
        strikes=lambda network, _: network.loses(10),
        state="warning",
        says="packets get lost on the way",
        reasons={
            **_relays("warning packet_loss", "udp"),
            "quality-audio": "warning high_loss",
            "quality-video": "failed high_loss",
        },
    ),
    Fault(
        name="300 kbit/s",
        strikes=lambda network, _: network.carries(300),
        state="warning",
        says="with reduced quality|but no video",
        reasons={"quality-video": "* bandwidth_too_low"},
    ),
    Fault(
        name="300 ms delay",
        strikes=lambda network, _: network.takes(300),
        state="warning",
        says="Calls work from here, with reduced quality.",
        reasons=_quality("warning high_delay"),
    ),
    Fault(
        name="one region down",
        deployment=d.three_regions,
        strikes=_down("west"),
        state="warning",
        says=f"{_PARTLY}: west.",
        reasons={"ws west": "failed connection_refused"},
        browser={"ws west": "failed unreachable"},
        asks=("HTTPS",),
    ),
    Fault(
        name="two of three regions down",
        deployment=d.three_regions,
        strikes=_down("west", "east"),
        state="warning",
        says=f"{_PARTLY}: east, west.",
        reasons={f"ws {one}": "failed connection_refused" for one in ("west", "east")},
        browser={f"ws {one}": "failed unreachable" for one in ("west", "east")},
        asks=("HTTPS", "HTTPS"),
    ),
    Fault(
        name="a proxy refuses upgrades",
        deployment=_no_upgrade,
        state="warning",
        says=f"{_PARTLY}: west.",
        reasons={"ws west": "failed upgrade_refused"},
        asks=("HTTPS",),
    ),
    Fault(
        name="a proxy swallows frames",
        deployment=_no_frames,
        state="warning",
        says=f"{_PARTLY}: west.",
        reasons={"ws west": "failed frames_blocked"},
        asks=("HTTPS",),
    ),
    Fault(
        name="all down",
        strikes=_all_down,
        state="failed",
        says="Calls do not work from here: the server cannot be reached.",
        reasons={"api": "failed connection_refused"},
        browser={"api": "failed unreachable"},
        asks=("HTTPS",),
    ),
)
