"""`parley probe` stopped in each phase, and servers that go away in the middle of one.

What was known by then is in the result, and it comes at once.
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
from contextlib import AbstractContextManager
from pathlib import Path
from subprocess import PIPE
from typing import Any

import deployments as d
import pytest
from networks import Network, network
from probe_faults import seen_by_check, terminal
from rtc import is_root
from two_networks import SERVER_ADDRESS

ROOT = Path(__file__).parents[2]
SILENT_PORT = 8099
RUN_S = 60
SOON_S = 8
"""For a stopped run to end: it says goodbye to servers; a loaded machine takes its time."""
pytestmark = [
    pytest.mark.root,
    pytest.mark.coturn,
    pytest.mark.skipif(not is_root(), reason="network namespaces need root"),
]
Act = Callable[[d.Deployment, subprocess.Popen[str]], None]


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


def run(
    home: Path,
    deployment: Callable[[Path], AbstractContextManager[d.Deployment]],
    moment: str,
    act: Act,
    strikes: Callable[[Network], AbstractContextManager[object]] | None = None,
) -> tuple[int, dict[str, Any], float]:
    """Exit code, JSON, and the seconds that the run went on after `act`, done at `moment`."""
    with network(home) as link, deployment(home) as started, contextlib.ExitStack() as stack:
        if strikes is not None:
            stack.enter_context(strikes(link))
        command = terminal(link, started)
        child = stack.enter_context(
            subprocess.Popen(command, cwd=ROOT, text=True, stdout=PIPE, stderr=PIPE)
        )
        assert child.stderr is not None
        watchdog = threading.Timer(RUN_S, child.kill)
        watchdog.start()
        try:
            progress = []
            for line in child.stderr:
                progress.append(line)
                if line.startswith(moment):
                    break
            else:
                pytest.fail(f"no {moment!r} in {progress}")
            acted = time.monotonic()
            act(started, child)
            output, _ = child.communicate()
        finally:
            watchdog.cancel()
        return child.returncode, json.loads(output), time.monotonic() - acted


@pytest.mark.parametrize(
    ("deployment", "strikes", "moment", "stopped", "done"),
    [
        (silent_api, None, "..  api", {"api"}, set()),
        (silent_region, None, "ok  turn tls", {"ws west"}, {"api", "ws here", "turn tls"}),
        (
            d.whole,
            lambda link: link.drops("ip protocol udp"),
            "ok  ws here",
            {"turn udp"},
            {"api", "ws here"},
        ),
        (
            d.whole,
            None,
            "..  quality-video",
            {"quality-audio", "quality-video"},
            {"api", "ws here", "turn udp", "turn tcp", "turn tls"},
        ),
    ],
    ids=["api", "ws", "turn", "quality"],
)
def test_an_interrupt_keeps_what_is_known(
    deployment: Any, strikes: Any, moment: str, stopped: set[str], done: set[str], tmp_path: Path
) -> None:
    code, report, took_s = run(tmp_path, deployment, moment, interrupt, strikes)
    seen = seen_by_check(report)
    assert (code, report["result"], report["text"]) == (3, "aborted", "The test was stopped.")
    assert {name: seen[name] for name in stopped} == dict.fromkeys(stopped, "aborted aborted")
    assert {name: seen[name] for name in done} == dict.fromkeys(done, "passed")
    assert took_s < SOON_S


@pytest.mark.parametrize(
    ("moment", "act", "gone"),
    [
        ("..  quality-video", kill_node, {"quality-audio", "quality-video"}),
        ("..  quality-video", kill_relay, {"quality-audio", "quality-video"}),
        ("ok  turn udp", kill_relay, {"turn tcp", "turn tls"}),
    ],
    ids=["node in the quality check", "relay in the quality check", "relay in the relay check"],
)
def test_a_server_that_goes_away_is_said_to_have_gone(
    moment: str, act: Act, gone: set[str], tmp_path: Path
) -> None:
    code, report, _ = run(tmp_path, d.whole, moment, act)
    seen = seen_by_check(report)
    assert (code, report["result"]) == (2, "failed"), seen
    assert report["text"] == "The server stopped answering during the test."
    assert {name: seen[name] for name in gone} == dict.fromkeys(gone, "failed server_gone")
