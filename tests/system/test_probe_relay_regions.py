"""Relays in several regions, each tested by name, by the command line and over the API."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deployments as d
import httpx
import pytest
from networks import Network, network
from probe_faults import seen_by_check
from rtc import is_root

from probes.reasons import USAGE_EXIT_CODE

ROOT = Path(__file__).parents[2]
RUN_S = 90
EAST_PORT = 3479
pytestmark = [
    pytest.mark.root,
    pytest.mark.coturn,
    pytest.mark.skipif(not is_root(), reason="network namespaces need root"),
    pytest.mark.timeout(2 * RUN_S),
]


@dataclass(frozen=True)
class World:
    """A node with relays `west` and `east`, and `east` can be silenced."""

    link: Network
    url: str

    def probe(self, *options: str) -> tuple[int, dict[str, str], dict[str, Any]]:
        """Exit code, `state reason` by check, and the whole of `parley probe turn --json`."""
        command = [self.link.command(sys.executable), "-m", "probes", "turn", self.url, "--json"]
        done = subprocess.run(
            [*command, "--quiet", *options],
            cwd=ROOT, capture_output=True, text=True, timeout=RUN_S, check=False,
        )  # fmt: skip
        report = json.loads(done.stdout) if done.stdout else {"text": done.stderr, "checks": []}
        return done.returncode, seen_by_check(report), report


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with (
        network(tmp_path_factory.mktemp("link")) as link,
        d.relay() as west,
        d.relay(port=EAST_PORT) as east,
        d.node(relays={"west": west, "east": east}) as deployment,
    ):
        yield World(link, deployment.url)


def test_every_region_has_its_lines(world: World) -> None:
    code, seen, report = world.probe("--transport", "udp", "--transport", "tcp")
    assert seen == {
        "api": "passed",
        **{
            f"turn {one} {region}": "passed"
            for region in ("west", "east")
            for one in ("udp", "tcp")
        },
    }
    ports = {check["region"]: check["target"].rsplit(":", 1)[1] for check in report["checks"][1:]}
    assert ports == {"west": str(d.TURN_PORT), "east": str(EAST_PORT)}
    assert (code, report["text"]) == (0, "Calls can connect from here.")


def test_one_region_by_name(world: World) -> None:
    code, seen, _ = world.probe("--region", "east", "--transport", "udp", "--transport", "tls")
    assert seen == {
        "api": "passed",
        "turn udp east": "passed",
        "turn tls east": "skipped not_offered",
    }
    assert code == 0


def test_a_region_that_nobody_has_is_wrong_usage(world: World) -> None:
    code, _, report = world.probe("--region", "south")
    assert code == USAGE_EXIT_CODE
    assert "no region south here, but west, east" in report["text"]


def test_a_region_whose_relay_is_down_is_named(world: World) -> None:
    with world.link.drops(f"udp dport {EAST_PORT}"):
        code, seen, report = world.probe("--transport", "udp")
    assert seen == {
        "api": "passed", "turn udp west": "passed", "turn udp east": "failed unreachable",
    }  # fmt: skip
    assert report["text"] == "Calls work from here, but not the relay of every region: east."
    assert [ask["protocol"] for ask in report["asks"]] == ["UDP"]
    assert code == 1


def test_the_api_gives_the_relays_of_one_region(world: World) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{d.NODE_PORT}") as http:
        plain = http.post("/v1/probes/sessions").json()
        assert (plain["turn_regions"], plain["turn_region"]) == (["west", "east"], "west")
        east = http.post("/v1/probes/sessions", json={"region": "east"}).json()
        assert east["turn_region"] == "east"
        urls = [
            url
            for servers in east["ice_servers"].values()
            for one in servers
            for url in one["urls"]
        ]
        assert len(urls) == 2
        assert all(f":{EAST_PORT}?" in url for url in urls), "no spare of another region"
        assert plain.keys() == east.keys()
        unknown = http.post("/v1/probes/sessions", json={"region": "south"})
        assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")
        for body in (b"{", b'{"other": 1}', b'{"region": 1}', b"[]"):
            refused = http.post("/v1/probes/sessions", content=body)
            assert (refused.status_code, refused.json()["code"]) == (400, "bad_request")
