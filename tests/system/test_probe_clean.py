"""Runs against a deployment that is well: none may fail. `PARLEY_LONG=1` makes fifty of them, from
the terminal and as Prometheus asks."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import deployments as d
import pytest
from networks import Network, network
from probe_faults import seen_by_check, terminal
from prometheus_client.parser import text_string_to_metric_families
from rtc import is_root

ROOT = Path(__file__).parents[2]
RUNS = 50 if os.environ.get("PARLEY_LONG") == "1" else 4
AT_ONCE = 2
RUN_S = 90
pytestmark = [
    pytest.mark.root,
    pytest.mark.coturn,
    pytest.mark.skipif(not is_root(), reason="network namespaces need root"),
]


@pytest.fixture(scope="module")
def link(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    with network(tmp_path_factory.mktemp("link")) as link:
        yield link


@pytest.fixture(scope="module")
def deployment(link: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[d.Deployment]:
    """With itself as a target, over what needs no certificate."""
    target = f'targets = [{{ id = "here", url = "{d.address(d.NODE_PORT)}" }}]'
    with d.whole(tmp_path_factory.mktemp("whole"), probes=[target]) as deployment:
        yield deployment


@pytest.mark.timeout(RUN_S * RUNS)
def test_no_run_fails_where_nothing_is_wrong(link: Network, deployment: d.Deployment) -> None:
    command = terminal(link, deployment, "--quiet")

    def one(_: int) -> tuple[int, dict[str, Any]]:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=RUN_S, check=False
        )
        return done.returncode, json.loads(done.stdout)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        outcomes = list(pool.map(one, range(RUNS)))
    failures = [(report["text"], seen_by_check(report)) for code, report in outcomes if code]
    assert failures == [], f"{len(failures)} of {RUNS}"
    for _, report in outcomes:
        of_tls = [one["figures"] for one in report["checks"] if one["transport"] == "tls"]
        assert all(time.time() < one["cert_expires_at"] for one in of_tls)
        assert len(of_tls) == 1


def test_prometheus_sees_a_deployment_that_is_well(deployment: d.Deployment) -> None:
    found = scraped("ws")
    assert values(found["probe_success"]) == [1.0]
    assert values(found["probe_timeout_seconds"]) == [29.5]
    (trip,) = (one for one in found["probe_round_trip_seconds"] if one.labels["region"] == "here")
    assert 0 < trip.value < 1
    assert found["probe_last_success_timestamp_seconds"][0].value > 1.7e9

    found = scraped("turn")
    assert values(found["probe_success"]) == [1.0]
    assert {one.labels["transport"] for one in found["probe_relay_rtt_seconds"]} == {"udp", "tcp"}
    results = {one.labels["transport"]: one.labels for one in found["probe_result"]}
    assert results["udp"]["result"] == "passed"
    assert results["tls"]["reason"] == "tls_certificate", "a node trusts no authority of a test"


def scraped(module: str) -> dict[str, list[Any]]:
    """Samples by metric family, as Prometheus' own parser reads them."""
    url = f"http://127.0.0.1:{d.NODE_PORT}/probe?target=here&module={module}"
    asked = urllib.request.Request(url, headers={"X-Prometheus-Scrape-Timeout-Seconds": "30"})
    with urllib.request.urlopen(asked, timeout=30) as answer:
        text = answer.read().decode()
    return {family.name: family.samples for family in text_string_to_metric_families(text)}


def values(samples: list[Any]) -> list[float]:
    return [sample.value for sample in samples]
