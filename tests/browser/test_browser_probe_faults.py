"""The probes in Chromium against every fault of the table: verdict, reasons, and nothing left over.

Each cell has a network, a deployment and a browser of its own, so a few run side by side.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from deployments import Deployment
from far_browser import far_page
from networks import network
from playwright.sync_api import Page
from probe_faults import FAULTS, Fault
from rtc import needs_own_network

AT_ONCE = 3
RUN_S = 100
pytestmark = [pytest.mark.chromium, pytest.mark.coturn, pytest.mark.root, needs_own_network]

Found = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What the tests of quality say; `result reason`, or several that are as true."""

    loop: tuple[str, ...]
    """Of testPeerToPeerCallQuality."""
    call: tuple[str, ...]
    """Of testCallQuality."""
    audio: str | None = None
    """Whether OpenTok's test supports it, and why not; None: it rejects."""
    video: tuple[str, ...] = ()
    rejects: str = ""
    failed_tests: tuple[tuple[str, str], ...] = ()
    """Of OpenTok's connectivity test: type and name of the error."""


_LOSS = ("warning high_loss", "bad high_loss")
QUALITY: Mapping[str, Quality] = {
    "nothing": Quality(loop=("good",), call=("good",), audio="", video=("",)),
    "all TURN blocked": Quality(
        loop=("failed unreachable",),
        call=("failed unreachable",),
        rejects="PublishToSessionError unreachable",
        failed_tests=(("media", "PublishToSessionError"),),
    ),
    "10 % loss": Quality(loop=_LOSS, call=_LOSS, audio="", video=("Bandwidth too low.",)),
    "300 kbit/s": Quality(
        loop=("bad bandwidth_too_low",), call=("bad bandwidth_too_low",), audio="", video=("",)
    ),
    "300 ms delay": Quality(
        loop=("bad high_delay",), call=("bad high_delay",), audio="", video=("",)
    ),
}

CONNECTIVITY = """async () => {
  const [network, sockets] = await Promise.all([
    probes.testNetworkConnectivity(), probes.testWebsocketConnectivity(),
  ]);
  return { network, sockets };
}"""
QUALITY_TESTS = """async () => {
  const { NetworkTest } = await import("/js/parley-probes.js");
  const platform = { RTCPeerConnection: Counted };
  const test = () => new NetworkTest(null, { baseUrl: location.origin }, { platform });
  const named = ({ name, reason }) => `${name} ${reason}`;
  const { success, failedTests } = await test().testConnectivity();
  const failed = failedTests.map(({ type, error }) => [type, error.name]);
  const measured = await test().testQuality().catch((error) => ({ rejects: named(error) }));
  const videoTrack = await camera();
  const loop = await probes.testPeerToPeerCallQuality({ videoTrack, duration: 3 });
  const call = await probes.testCallQuality({ videoTrack, duration: 3 });
  videoTrack.stop();
  return { connectivity: { success, failed }, measured, loop, call };
}"""
VERDICT = """async (checks) => {
  const { verdictOf } = await import("/js/parley-probes.js");
  return verdictOf(checks);
}"""


def visit(fault: Fault, home: Path) -> Found:
    """What a visitor's browser finds in that cell."""
    with (
        network(home) as link,
        fault.deployment(home) as deployment,
        far_page(link, deployment) as page,
        fault.strikes(link, deployment),
    ):
        began = time.monotonic()
        found: Found = page.evaluate(CONNECTIVITY)
        found["seconds"] = time.monotonic() - began
        checks = [*found["network"]["checks"], *found["sockets"]["checks"]]
        if fault.name in QUALITY:
            found |= page.evaluate(QUALITY_TESTS)
            checks += found["measured"].get("checks", [])
        found |= {"checks": checks, "verdict": page.evaluate(VERDICT, checks)}
        found["all seconds"] = time.monotonic() - began
        no_peer_is_left(page, deployment)
    return found


def no_peer_is_left(page: Page, deployment: Deployment) -> None:
    """The page takes its leave without waiting for an answer, over whatever the network is."""
    deadline = time.monotonic() + 5
    while not deployment.node.is_killed and deployment.node.metric("probe_server_peers"):
        assert time.monotonic() < deadline, "the server still holds a peer"
        page.wait_for_timeout(50)


def word(state: str, reason: str | None) -> str:
    return f"{state} {reason or ''}".strip()


def seen(checks: list[Found]) -> dict[str, str]:
    return {
        f"{one['name']} {one.get('transport') or one.get('region') or ''}".strip(): word(
            one["state"], one.get("reason")
        )
        for one in checks
    }


@pytest.fixture(scope="module")
def visits(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Found]]]:
    """Of every fault that is selected."""
    items = [item for item in request.session.items if item.path == request.path]
    faults = [item.callspec.params["fault"] for item in items if hasattr(item, "callspec")]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {
            fault.name: pool.submit(visit, fault, tmp_path_factory.mktemp("fault"))
            for fault in faults
        }


@pytest.mark.timeout(RUN_S + 20)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_verdict_and_its_reasons(fault: Fault, visits: dict[str, Future[Found]]) -> None:
    found = visits[fault.name].result(RUN_S)
    print({k: found.get(k) for k in ("seconds","all seconds", "connectivity", "measured", "loop", "call")})
    print(seen(found["checks"]), found["verdict"])
