"""`parley probe` stopped in each phase, and servers that go away in the middle of one.

What was known by then is in the result, and it comes at once. Each run has a network of its own, so
a few go side by side.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from typing import Any

import deployments as d
import pytest
from networks import LINK, Network, network
from probe_faults import seen_by_check, terminal
from rtc import is_root
from two_networks import SERVER_ADDRESS

ROOT = Path(__file__).parents[2]
SILENT_PORT = 8099
AT_ONCE = 4
RUN_S = 90
SOON_S = 20
"""For a stopped run to end: it says goodbye to servers; a loaded machine takes its time."""
SOME_SECONDS_OF_A_CALL = 150_000
"""Bytes."""
pytestmark = [
    pytest.mark.root,
    pytest.mark.coturn,
    pytest.mark.skipif(not is_root(), reason="network namespaces need root"),
]
Act = Callable[[d.Deployment, "subprocess.Popen[str]"], None]
QUALITY = ("quality-audio", "quality-video")
RELAYS = ("turn udp", "turn tcp", "turn tls")


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """A server that accepts and never answers."""
    with socket.create_server((SERVER_ADDRESS, SILENT_PORT)):
        yield


@contextlib.contextmanager
def silent_api(home: Path) -> Iterator[d.Deployment]:
    with d.whole(home) as deployment, silence():
        deployment.url = d.address(SILENT_PORT)
        yield deployment


@contextlib.contextmanager
def silent_region(home: Path) -> Iterator[d.Deployment]:
    urls = {"here": d.address(d.NODE_PORT), "west": d.address(SILENT_PORT)}
    with d.whole(home, regions=urls) as deployment, silence():
        yield deployment


def interrupt(_: d.Deployment, child: subprocess.Popen[str]) -> None:
    child.send_signal(signal.SIGINT)


def kill_node(deployment: d.Deployment, _: subprocess.Popen[str]) -> None:
    deployment.node.kill()


def kill_relay(deployment: d.Deployment, _: subprocess.Popen[str]) -> None:
    assert deployment.turn is not None
    deployment.turn.kill()


def kill_relay_in_a_call(deployment: d.Deployment, child: subprocess.Popen[str]) -> None:
    """Once sound and picture flow."""
    enough = carried_bytes() + SOME_SECONDS_OF_A_CALL
    deadline = time.monotonic() + RUN_S
    while carried_bytes() < enough:
        assert time.monotonic() < deadline
        assert child.poll() is None
        time.sleep(0.05)
    kill_relay(deployment, child)


def carried_bytes() -> int:
    """To this side of the link."""
    lines = Path("/proc/thread-self/net/dev").read_text().splitlines()
    (line,) = (line for line in lines if line.strip().startswith(f"{LINK}:"))
    return int(line.split(":")[1].split()[0])


@dataclass(frozen=True, kw_only=True)
class Case:
    name: str
    moment: str
    """Beginning of the progress line after which `act` is done."""
    act: Act = interrupt
    deployment: Callable[[Path], AbstractContextManager[d.Deployment]] = d.whole
    strikes: Callable[[Network], AbstractContextManager[object]] = lambda _: (
        contextlib.nullcontext()
    )
    hit: tuple[str, ...]
    """Checks that are aborted, or whose server went away."""
    passed: tuple[str, ...] = ()
    may_be_over: bool = False
    """Whether some of `hit` may have passed by then: a busy machine decides their order."""


INTERRUPTS = (
    Case(name="api", deployment=silent_api, moment="..  api", hit=("api",)),
    Case(
        name="ws",
        deployment=silent_region,
        # Its own deadline comes soon, and relays may take longer than that.
        moment="ok  ws here",
        hit=("ws west",),
        passed=("api", "ws here"),
    ),
    Case(
        name="turn",
        strikes=lambda link: link.drops("ip protocol udp"),
        moment="ok  ws here",
        hit=("turn udp",),
        passed=("api", "ws here"),
    ),
    Case(
        name="quality",
        moment="..  quality-video",
        hit=QUALITY,
        passed=("api", "ws here", *RELAYS),
    ),
)
DEATHS = (
    Case(name="node in a call", moment="..  quality-video", act=kill_node, hit=QUALITY),
    Case(
        name="relay in a call",
        moment="..  quality-video",
        act=kill_relay_in_a_call,
        hit=QUALITY,
        passed=RELAYS,
    ),
    Case(
        name="relay under its check",
        moment="ok  turn",
        act=kill_relay,
        hit=RELAYS,
        may_be_over=True,
    ),
)
Outcome = tuple[int, dict[str, Any], float]


def run(case: Case, home: Path) -> Outcome:
    """Exit code, JSON, and the seconds that the run went on after `act`."""
    with (
        network(home) as link,
        case.deployment(home) as deployment,
        case.strikes(link),
        subprocess.Popen(
            terminal(link, deployment), cwd=ROOT, text=True, stdout=PIPE, stderr=PIPE
        ) as child,
    ):
        watchdog = threading.Timer(RUN_S, child.kill)
        watchdog.start()
        assert child.stderr is not None
        try:
            progress = []
            for line in child.stderr:
                progress.append(line)
                if line.startswith(case.moment):
                    break
            else:
                pytest.fail(f"no {case.moment!r} in {progress}")
            case.act(deployment, child)
            acted = time.monotonic()
            output, _ = child.communicate()
        finally:
            watchdog.cancel()
        return child.returncode, json.loads(output), time.monotonic() - acted


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Outcome]]]:
    """Of every case that is selected."""
    items = [item for item in request.session.items if item.path == request.path]
    cases = [item.callspec.params["case"] for item in items if hasattr(item, "callspec")]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {case.name: pool.submit(run, case, tmp_path_factory.mktemp("stop")) for case in cases}


@pytest.mark.parametrize("case", INTERRUPTS, ids=lambda case: case.name)
def test_an_interrupt_keeps_what_is_known(case: Case, outcomes: dict[str, Future[Outcome]]) -> None:
    code, report, took_s = outcomes[case.name].result(RUN_S)
    seen = seen_by_check(report)
    assert (code, report["result"], report["text"]) == (3, "aborted", "The test was stopped.")
    assert {name: seen[name] for name in case.hit} == dict.fromkeys(case.hit, "aborted aborted")
    assert {name: seen[name] for name in case.passed} == dict.fromkeys(case.passed, "passed")
    assert took_s < SOON_S


@pytest.mark.parametrize("case", DEATHS, ids=lambda case: case.name)
def test_a_server_that_goes_away_is_said_to_have_gone(
    case: Case, outcomes: dict[str, Future[Outcome]]
) -> None:
    code, report, _ = outcomes[case.name].result(RUN_S)
    seen = seen_by_check(report)
    assert (code, report["result"]) == (2, "failed"), report
    assert report["text"] == "The server stopped answering during the test."
    gone = {name for name in case.hit if seen[name] == "failed server_gone"}
    assert gone
    over = set(case.hit) - gone
    assert not over or case.may_be_over
    assert {name: seen[name] for name in over} == dict.fromkeys(over, "passed")
    assert {name: seen[name] for name in case.passed} == dict.fromkeys(case.passed, "passed")
