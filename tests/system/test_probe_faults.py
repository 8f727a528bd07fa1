"""`parley probe all` against every fault of the table: verdict, reasons and exit code.

Each cell has a network of its own, so a few run side by side.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from networks import network
from probe_faults import FAULTS, Fault, seen_by_check, terminal
from rtc import is_root

from probes.reasons import EXIT_CODES, State

ROOT = Path(__file__).parents[2]
AT_ONCE = 4
RUN_S = 150
TRIES = 5
TOO_BUSY = "skipped timeout"
"""What the check itself says of a machine that keeps it waiting: it is asked again."""
pytestmark = [
    pytest.mark.root,
    pytest.mark.coturn,
    pytest.mark.timeout(TRIES * RUN_S + 30),
    pytest.mark.skipif(not is_root(), reason="network namespaces need root"),
]
Outcome = tuple[int, dict[str, Any]]


def probe(fault: Fault, home: Path) -> Outcome:
    """Exit code and JSON of a run from the client's side."""
    with (
        network(home) as link,
        fault.deployment(home) as deployment,
        fault.strikes(link, deployment),
    ):
        command = terminal(link, deployment, "--quiet")
        for _ in range(TRIES):
            done = subprocess.run(
                command, cwd=ROOT, capture_output=True, text=True, timeout=RUN_S, check=False
            )
            assert done.stderr == ""
            report = json.loads(done.stdout)
            if seen_by_check(report).get("quality-audio") != TOO_BUSY:
                break
        return done.returncode, report


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Outcome]]]:
    """Of every fault that is selected."""
    items = [item for item in request.session.items if item.path == request.path]
    faults = [item.callspec.params["fault"] for item in items if hasattr(item, "callspec")]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {
            fault.name: pool.submit(probe, fault, tmp_path_factory.mktemp("fault"))
            for fault in faults
        }


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_verdict_and_its_reasons(fault: Fault, outcomes: dict[str, Future[Outcome]]) -> None:
    code, report = outcomes[fault.name].result(TRIES * RUN_S)
    seen = seen_by_check(report)
    expected = {name: fault.reasons.get(name, "passed") for name in seen}
    assert fault.reasons.keys() <= seen.keys()
    wrong = {name: one for name, one in seen.items() if not fnmatch(one, expected[name])}
    assert wrong == {}, report
    assert (report["result"], code) == (fault.state, EXIT_CODES[State(fault.state)])
    assert re.search(fault.says, report["text"])
    assert tuple(ask["protocol"] for ask in report["asks"]) == fault.asks
