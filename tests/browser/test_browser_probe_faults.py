"""The probes in Chromium against every fault of the table: verdict, reasons, and nothing left over.

Each cell has a network, a deployment and a browser of its own, so a few run side by side.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import pytest
from probe_faults import FAULTS
from probe_visits import BY_NAME, MEASURED, VISITS, Found
from rtc import needs_own_network

AT_ONCE = 3
RUN_S = 240
SOON_MS = 3000
"""Left to itself a test goes on for longer, or for ever; a busy machine takes its time."""
pytestmark = [
    pytest.mark.chromium,
    pytest.mark.coturn,
    pytest.mark.root,
    needs_own_network,
    pytest.mark.timeout(RUN_S + 20),
]


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What the tests of quality find."""

    loop: tuple[str, ...]
    """testPeerToPeerCallQuality: result and reason; one of these."""
    call: tuple[str, ...]
    """testCallQuality: the same."""
    transport: str = "udp"
    """That a call to the deployment goes over."""
    connectivity: tuple[tuple[str, str, str], ...] = ()
    """failedTests of OpenTok's testConnectivity: type, name and reason of the error."""
    audio: str = ""
    """Of OpenTok's testQuality: why it is not supported."""
    video: tuple[str, ...] = ("",)
    """The same; one of these."""
    rejects: str = ""


GONE = "The server stopped answering during the test."
_LOSSY = ("warning high_loss", "bad high_loss")
QUALITY: Mapping[str, Quality] = {
    "nothing": Quality(loop=("good",), call=("good",)),
    "UDP and TCP 3478 blocked": Quality(
        # Over TCP a busy computer's pause is a queue for a moment, and the grade takes the worst:
        # what the cell shows is that the call finds its way.
        loop=("good", "warning bandwidth_too_low", "bad bandwidth_too_low"),
        call=("good", "warning high_delay"),
        transport="tls",
    ),
    "all TURN blocked": Quality(
        loop=("failed unreachable",),
        call=("failed unreachable",),
        connectivity=(("media", "PublishToSessionError", "unreachable"),),
        rejects="PublishToSessionError unreachable",
    ),
    "10 % loss": Quality(
        loop=_LOSSY,
        call=_LOSSY,
        video=("Bandwidth too low.",),
    ),
    "300 kbit/s": Quality(
        loop=("bad bandwidth_too_low",),
        # The sender's first seconds overfill it, and weigh much in seven.
        call=("bad bandwidth_too_low", "bad high_loss"),
        # The smallest picture of the table needs half of it, or all: that depends on the loss.
        video=("", "Bandwidth too low."),
    ),
    "300 ms delay": Quality(loop=("bad high_delay",), call=("bad high_delay",)),
}


@pytest.fixture(scope="module")
def visits(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, Future[Found]]]:
    """Those whose tests are selected, under way."""
    items = [item for item in request.session.items if item.path == request.path]
    wanted = {item.callspec.params["name"] for item in items if hasattr(item, "callspec")}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {
            name: pool.submit(visit, tmp_path_factory.mktemp("visit"))
            for name, visit in VISITS.items()
            if name in wanted
        }


@pytest.fixture
def found(name: str, visits: Mapping[str, Future[Found]]) -> Found:
    """Of that visit."""
    return visits[name].result(RUN_S)


def word(state: str, reason: str | None) -> str:
    return f"{state} {reason or ''}".strip()


def said(results: Found) -> str:
    return word(results["result"], results["reason"])


def seen(checks: list[Found]) -> dict[str, str]:
    """Each check by its title: `turn udp`, `ws west`, `quality-audio`."""
    where = {"turn": "transport", "ws": "region"}
    return {
        f"{one['name']} {one.get(where.get(one['name'], '')) or ''}".strip(): word(
            one["state"], one.get("reason")
        )
        for one in checks
    }


@pytest.mark.parametrize("name", [fault.name for fault in FAULTS])
def test_the_verdict_and_its_reasons(
    name: str, found: Found, record_property: Callable[[str, object], None]
) -> None:
    for test in ("network", "sockets"):
        record_property(f"{test} (ms)", round(found[test]["durationMs"]))
    fault = BY_NAME[name]
    checks, verdict = seen(found["checks"]), found["verdict"]
    told = {**fault.reasons, **fault.browser}
    state, says = told.pop("state", fault.state), told.pop("says", fault.says)
    # Quality is measured in some of the cells.
    assert {title for title in told if not title.startswith("quality")} <= checks.keys()
    wrong = {
        title: one for title, one in checks.items() if not fnmatch(one, told.get(title, "passed"))
    }
    assert not wrong, f"{wrong}: {found}"
    assert verdict["state"] == state, f"{verdict}"
    assert re.search(says, verdict["text"]), f"{verdict}"
    assert tuple(ask["protocol"] for ask in verdict["asks"]) == fault.asks


@pytest.mark.parametrize("name", MEASURED)
def test_the_quality_of_a_call(name: str, found: Found) -> None:
    quality = QUALITY[name]
    for test, results in (("loop", quality.loop), ("call", quality.call)):
        assert said(found[test]) in results or _sees_loss(name, found[test]), found[test]
    assert tuple(tuple(one) for one in found["connectivity"]) == quality.connectivity
    opentok = found["opentok"]
    assert opentok.get("rejects", "") == quality.rejects
    if quality.rejects:
        return
    over = {test: found[test]["transport"] for test in ("loop", "call", "opentok")}
    assert over == dict.fromkeys(over, quality.transport)
    for kind, reasons in (("audio", (quality.audio,)), ("video", quality.video)):
        reason = opentok[kind].get("reason", "")
        assert reason in reasons, f"{kind}: {opentok}"
        assert opentok[kind]["supported"] == (reason == "")


def _sees_loss(name: str, result: Mapping[str, Any]) -> bool:
    """On a busy machine much of what is lost is not yet reported lost after seven seconds."""
    return name == "10 % loss" and result["data"].get("avgSendPacketLoss", 0) > 0.02


# Ends before the end ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["aborted unanswered", "aborted under way", "aborted at the server"]
)
def test_an_aborted_test_says_so_at_once(name: str, found: Found) -> None:
    for phase, ended in found.items():
        if phase == "opentok quality":
            assert (ended["result"], ended["reason"]) == ("QualityTestError", "aborted")
        elif phase == "opentok connectivity":
            assert (ended["results"]["stopped"], ended["results"]["failedTests"]) == (True, [])
        else:
            assert (ended["result"], ended["reason"]) == ("aborted", "aborted"), f"{phase}: {ended}"
        assert ended["lateMs"] < SOON_MS, f"{phase}: {ended}"
        if phase.startswith("network"):
            assert ended["verdict"]["text"] == "The test was stopped."


@pytest.mark.parametrize("name", ["aborted under way"])
def test_an_aborted_test_keeps_what_is_known(name: str, found: Found) -> None:
    sockets = found["sockets"]["results"]
    assert (sockets["passedRegions"], sockets["abortedRegions"]) == (["here"], ["west"])
    assert found["call opening"]["results"]["data"] == {}
    assert found["call measuring"]["results"]["data"]["avgSendBitsPerSecond"] is not None


@pytest.mark.parametrize("name", ["node killed"])
def test_a_relay_that_outlives_its_server_is_of_no_use(name: str, found: Found) -> None:
    network, sockets, again = found["network"], found["sockets"], found["again"]
    assert said(network) == "passed server_gone", f"{network}"
    assert network["verdict"]["text"] == GONE
    assert (said(sockets), sockets["failedRegions"]) == ("failed server_gone", ["here"]), (
        f"{sockets}"
    )
    assert said(again["network"]) == "failed unreachable", f"{again}"
    assert again["verdict"]["text"].startswith("Calls do not work from here"), f"{again['verdict']}"


@pytest.mark.parametrize("name", ["all killed"])
def test_a_relay_that_went_with_its_server_is_not_a_blocked_one(name: str, found: Found) -> None:
    network = found["network"]
    assert said(network) == "failed server_gone", f"{network}"
    assert network["verdict"]["text"] == GONE


@pytest.mark.parametrize("name", ["killed under calls"])
def test_a_server_that_goes_during_a_call(name: str, found: Found) -> None:
    assert said(found["call"]) == "failed server_gone", f"{found['call']}"
    assert found["opentok"] == {
        "name": "ConnectToSessionNetworkError",
        "reason": "server_gone",
    }
