"""A deployment with nothing wrong, tested again and again in one Chromium: no test may fail."""

from __future__ import annotations

import os
import statistics
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from deployments import Deployment, whole
from networks import Network, network
from people import CHROMIUM, FLAGS, OUTPUT
from playwright.sync_api import Browser, Page, expect, sync_playwright
from probe_pages import page_of
from rtc import needs_own_network

pytestmark = [
    pytest.mark.chromium,
    pytest.mark.coturn,
    pytest.mark.root,
    needs_own_network,
]

IS_LONG = os.environ.get("PARLEY_LONG") == "1"
RUNS, QUALITY_RUNS = (50, 10) if IS_LONG else (3, 1)
VISITS = 50 if IS_LONG else 1


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Network]:
    with network(tmp_path) as made:
        yield made


@pytest.fixture
def deployment(net: Network, tmp_path: Path) -> Iterator[Deployment]:
    with whole(tmp_path) as started:
        yield started


@pytest.fixture
def chromium(net: Network, deployment: Deployment) -> Iterator[Browser]:
    """Beyond the network; it trusts whatever certificate the relay has."""
    origin = f"--unsafely-treat-insecure-origin-as-secure={deployment.url}"
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=net.command(CHROMIUM),
            args=[*FLAGS, "--ignore-certificate-errors", origin],
            timeout=60_000,
        )
        yield launched
        launched.close()


@pytest.fixture
def page(chromium: Browser, deployment: Deployment) -> Iterator[Page]:
    with page_of(chromium.new_context(), deployment) as opened:
        yield opened


@pytest.mark.timeout(1800)
def test_clean_runs_never_fail(page: Page) -> None:
    found, advice = page.evaluate(
        """async ([runs, qualityRuns]) => {
      const timed = async (begin) => {
        const began = performance.now();
        const [found, ...reasons] = await begin();
        return { found, reasons: reasons.flat().filter(Boolean), ms: performance.now() - began };
      };
      const opentok = network();
      const advice = [];
      const test = {
        network: async () => {
          const { result, transports } = await probes.testNetworkConnectivity();
          const states = transports.map(({ state }) => state);
          return [[result, ...states], transports.map(({ reason }) => reason)];
        },
        sockets: async () => {
          const { result, regions } = await probes.testWebsocketConnectivity();
          return [[result], regions.map(({ reason }) => reason)];
        },
        connectivity: async () => {
          const { success, failedTests } = await opentok.testConnectivity();
          return [[success], failedTests.map(({ error }) => `${error.name} ${error.reason}`)];
        },
        quality: async () => {
          const { audio, video } = await opentok.testQuality().catch((error) => {
            throw new Error(`${error.name} ${error.reason}`);
          });
          advice.push(`${video.recommendedResolution} ${audio.rating} ${video.rating}`);
          return [[audio.supported, video.supported], [audio.reason, video.reason]];
        },
      };
      const all = { network: [], sockets: [], connectivity: [], quality: [] };
      for (let number = 0; number < runs; number += 1) {
        for (const name of ["network", "sockets", "connectivity"]) {
          all[name].push(await timed(test[name]));
        }
        if (number < qualityRuns) all.quality.push(await timed(test.quality));
      }
      return [all, advice];
    }""",
        [RUNS, QUALITY_RUNS],
    )
    OUTPUT.mkdir(parents=True, exist_ok=True)
    (OUTPUT / "probe-clean-runs.txt").write_text(_summary(found, advice))
    expected = {
        "network": ["passed", "passed", "passed", "passed"],
        "sockets": ["passed"],
        "connectivity": [True],
        "quality": [True, True],
    }
    for name, runs in found.items():
        assert len(runs) == (QUALITY_RUNS if name == "quality" else RUNS)
        wrong = [one for one in runs if one["found"] != expected[name] or one["reasons"]]
        assert wrong == [], name
    assert max(one["ms"] for one in found["network"]) < 5000
    assert max(one["ms"] for one in found["connectivity"]) < 8000


@pytest.mark.timeout(3600)
def test_clean_visits_never_fail(chromium: Browser, deployment: Deployment) -> None:
    """The diagnostics page, as visitors load it and press its button."""
    found: Counter[str] = Counter()
    page = chromium.new_page()
    for _ in range(VISITS):
        page.goto(f"{deployment.url}/diagnostics")
        page.click("#start")
        expect(page.locator("#report")).to_be_visible(timeout=90_000)
        states = page.locator("[data-check]").evaluate_all(
            "(rows) => rows.map(({ dataset }) => `${dataset.check} ${dataset.state}`)"
        )
        found.update([page.inner_text("#verdict-text"), *states])
    OUTPUT.mkdir(parents=True, exist_ok=True)
    (OUTPUT / "diagnostics-clean-visits.txt").write_text(
        "\n".join(f"{count} {one}" for one, count in found.items())
    )
    assert found["Calls work well from here."] == VISITS, found
    assert {one.split()[-1] for one in found if found[one]} <= {"here.", "passed"}, found


def _summary(found: dict[str, list[dict[str, Any]]], advice: list[str]) -> str:
    lines = [f"advice: {dict(Counter(advice))}"]
    for name, runs in found.items():
        times = sorted(one["ms"] for one in runs)
        lines.append(
            f"{name}: {len(runs)} runs, median {statistics.median(times):.0f} ms, "
            f"most {times[-1]:.0f} ms, results {sorted({str(one['found']) for one in runs})}"
        )
    return "\n".join(lines)
