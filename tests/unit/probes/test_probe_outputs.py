"""What the command line and Prometheus see of results, and how fast a quality check sends."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any
from xml.etree.ElementTree import fromstring

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probes.blackbox import DEFAULT_TIMEOUT_S, exposition, timeout_of
from probes.checks.api import Api
from probes.checks.outcome import in_ms, reason_of, spoken_ms, target_of
from probes.messages import ProbeLimits, ProbeSession
from probes.pacing import CEILING_BPS, FLOOR_BPS, Pace
from probes.reasons import Reason, State
from probes.runner import Kind, Plan, Run, offers_of
from probes.table import as_json, junit, table, title
from probes.verdict import CheckResult, verdict_of

RESULTS = [
    CheckResult(name="api", state=State.PASSED, target="a:443", detail="answers", duration_ms=12),
    CheckResult(
        name="turn",
        state=State.FAILED,
        reason=Reason.UNREACHABLE,
        transport="udp",
        target="t:3478",
        detail="nothing answers",
    ),
    CheckResult(
        name="turn",
        state=State.WARNING,
        reason=Reason.PACKET_LOSS,
        transport="tcp",
        target="t:3478",
        detail="40 of 50",
        figures={"round_trip_ms": 62.0, "loss_ratio": 0.2},
    ),
    CheckResult(
        name="turn",
        state=State.SKIPPED,
        reason=Reason.NOT_OFFERED,
        transport="tls",
        detail="not offered",
    ),
    CheckResult(name="ws", state=State.PASSED, region="eu", target="a:443"),
]


def test_the_table_names_what_to_ask_for() -> None:
    text = table(RESULTS, verdict_of(RESULTS))
    assert "XX  turn udp  t:3478  failed   unreachable" in text
    assert "This network blocks UDP" in text
    assert text.endswith("Ask for: UDP to t:3478")
    assert not any(line != line.rstrip() for line in text.splitlines())


def test_json_has_every_result() -> None:
    verdict = verdict_of(RESULTS)
    report = as_json(RESULTS, verdict, base_url="https://a", duration_s=1.234)
    assert (report["result"], report["duration_s"], len(report["checks"])) == ("warning", 1.23, 5)
    assert report["checks"][1]["reason"] == "unreachable"


def test_junit_counts_failures_and_skips() -> None:
    aborted = CheckResult(name="quality-audio", state=State.ABORTED, reason=Reason.ABORTED)
    suite = fromstring(junit([*RESULTS, aborted], 2.5)).find("testsuite")
    assert suite is not None
    found = {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped", "time")}
    assert found == {
        "tests": "6", "failures": "1", "errors": "1", "skipped": "1", "time": "2.500",
    }  # fmt: skip
    failure = suite.find("testcase/failure")
    assert failure is not None
    assert failure.get("type") == "unreachable"
    assert [case.get("name") for case in suite][1] == "turn udp t:3478"


def test_a_round_trip_keeps_its_microseconds() -> None:
    figures = {"round_trip_ms": in_ms(0.000_043_21)}
    result = CheckResult(name="ws", state=State.PASSED, region="here", figures=figures)
    run = Run(Plan(kind=Kind.WS, base_url="https://a"), lambda _: None)
    run.results = {("ws", "here"): result}
    page = exposition(run, 1, None).decode()
    line = 'probe_round_trip_seconds{check="ws",region="here",transport=""} '
    assert float(page.split(line)[1].split()[0]) == pytest.approx(43e-6)
    spoken = [spoken_ms(ms) for ms in (0.043, 0.12, 9.94, 31.4, 300.0)]
    assert spoken == ["under 1 ms", "0.1 ms", "9.9 ms", "31 ms", "300 ms"]


async def test_a_run_that_is_stopped_between_two_checks_has_not_passed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checked = asyncio.Event()

    async def first_check_then_nothing(run: Run, _: object) -> None:
        run.results["api", ""] = RESULTS[0]
        checked.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(Run, "_all", first_check_then_nothing)
    run = Run(Plan(kind=Kind.ALL, base_url="https://a"), lambda _: None)
    going = asyncio.ensure_future(run.go())
    await checked.wait()
    going.cancel()
    with pytest.raises(asyncio.CancelledError):
        await going
    assert run.verdict.state is State.ABORTED


def test_titles() -> None:
    assert [title(result) for result in RESULTS] == [
        "api",
        "turn udp",
        "turn tcp",
        "turn tls",
        "ws eu",
    ]


def test_prometheus_sees_results_reasons_and_figures() -> None:
    run = Run(Plan(kind=Kind.ALL, base_url="https://a"), lambda _: None)
    run.results = {(str(place), ""): result for place, result in enumerate(RESULTS)}
    run.duration_s = 1.5
    page = exposition(run, 9.5, None).decode()
    assert "probe_success 1.0" in page
    assert "probe_duration_seconds 1.5" in page
    assert "probe_timeout_seconds 9.5" in page
    assert "probe_last_success" not in page
    line = (
        'probe_result{check="turn",reason="unreachable",region="",result="failed",transport="udp"}'
    )
    assert f"{line} 1.0" in page
    assert 'probe_relay_rtt_seconds{region="",transport="tcp"} 0.062' in page
    assert 'probe_loss_ratio{check="turn",region="",transport="tcp"} 0.2' in page
    assert "probe_last_success_timestamp_seconds 7.0" in exposition(run, 1, 7.0).decode()


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        *((text, DEFAULT_TIMEOUT_S) for text in (None, "", "nan", "inf", "x", "9999")),
        ("10", 9.5),
        ("0.2", 0.5),
        ("-5", 0.5),
    ],
)
def test_the_time_that_prometheus_allows(header: str | None, seconds: float) -> None:
    assert timeout_of(header) == seconds


@given(st.floats(FLOOR_BPS, CEILING_BPS), st.booleans(), st.lists(st.floats(0, 1), max_size=9))
def test_pacing_stays_in_its_bounds(rate: float, is_settling: bool, losses: list[float]) -> None:
    pace = Pace(rate, is_settling=is_settling)
    for loss in losses:
        pace = pace.next(loss)
        assert FLOOR_BPS <= pace.rate_bps <= CEILING_BPS


@pytest.mark.parametrize("link", [150_000.0, 300_000.0, 1_000_000.0])
def test_pacing_finds_a_thin_link(link: float) -> None:
    pace, lost, sent = Pace(), [], []
    for _ in range(12):
        lost.append(max(0.0, 1 - link / pace.rate_bps))
        sent.append(pace.rate_bps)
        pace = pace.next(lost[-1])
    assert min(sent[-5:]) > 0.7 * link
    assert sum(lost[-5:]) / 5 < 0.05, "or the link's own limit would look like a lossy one"


def chained(outer: BaseException, inner: BaseException) -> BaseException:
    outer.__cause__ = inner
    return outer


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(), Reason.UNREACHABLE),
        (ConnectionRefusedError(), Reason.CONNECTION_REFUSED),
        (chained(OSError("x"), socket.gaierror(-2, "x")), Reason.DNS),
        (chained(OSError("x"), ssl.SSLCertVerificationError("x")), Reason.TLS_CERTIFICATE),
        (OSError("All connection attempts failed"), Reason.UNREACHABLE),
        (
            chained(OSError("x"), ExceptionGroup("x", [OSError(), ConnectionRefusedError()])),
            Reason.CONNECTION_REFUSED,
        ),
    ],
)
def test_reasons_of_exceptions(error: BaseException, reason: Reason) -> None:
    assert reason_of(error) is reason


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://a", "a:443"),
        ("http://a:81/x", "a:81"),
        ("wss://[::1]/x", "[::1]:443"),
        ("ws://a", "a:80"),
    ],
)
def test_targets(url: str, target: str) -> None:
    assert target_of(url) == target


def session_with(ice_servers: dict[Any, Any], **fields: Any) -> ProbeSession:
    return ProbeSession(
        token="",
        expires_at=0,
        now=0,
        ice_servers=ice_servers,
        regions=[],
        region="",
        node="",
        limits=ProbeLimits(ttl_s=1, peers=0, peer_s=1, reports=0, report_bytes=0),
        **fields,
    )


@pytest.mark.parametrize(
    ("turn_regions", "outcome"),
    [
        ([], (State.SKIPPED, Reason.NOT_OFFERED)),
        (["eu"], (State.FAILED, Reason.NO_CREDENTIALS)),
    ],
    ids=["no relays", "relays, and no credential"],
)
async def test_a_session_without_relays(
    turn_regions: list[str], outcome: tuple[State, Reason], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def begun(api: Api) -> CheckResult:
        api.session = session_with({"udp": [], "tcp": []}, turn_regions=turn_regions)
        return RESULTS[0]

    monkeypatch.setattr(Api, "check", begun)
    run = Run(Plan(kind=Kind.TURN, base_url="https://a"), lambda _: None)
    await run.go()
    relays = [result for result in run.results.values() if result.name == "turn"]
    assert len(relays) == 3
    assert {(result.state, result.reason) for result in relays} == {outcome}


def test_offers_are_the_relays_of_one_transport() -> None:
    turn = {
        "urls": ["turn:a:3478?transport=udp", "stun:a:3478"],
        "username": "u",
        "credential": "c",
    }
    session = session_with({"udp": [turn, {"urls": "stun:a:3478"}], "tcp": []})
    assert [(str(uri), one.username) for uri, one in offers_of(session, "udp")] == [
        ("turn:a:3478?transport=udp", "u")
    ]
    assert offers_of(session, "tls") == []
