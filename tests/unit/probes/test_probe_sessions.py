"""Bounds of probe sessions, and reports that keep no address unless the visitor agrees."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from probes import sessions
from probes.messages import MAX_REPORT_BYTES
from probes.reports import AGREED, FORMAT, Reports, read_report
from probes.sessions import SessionUse
from probes.settings import ProbeSettings


def test_peers_are_bounded_by_session_and_by_node() -> None:
    use = SessionUse(ProbeSettings(peers=3, peers_per_session=2))
    assert [use.open_peer("a") for _ in range(3)] == [True, True, False]
    assert [use.open_peer("b") for _ in range(2)] == [True, False]
    use.close_peer("a")
    assert use.open_peer("b")
    assert use.peers == 3


def test_a_peer_that_outlives_its_forgotten_session_still_frees_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 1)
    use = SessionUse(ProbeSettings(peers=1))
    assert use.open_peer("a")
    assert not use.open_peer("b")
    assert len(use) == 1
    use.close_peer("a")
    assert use.open_peer("c")


def test_reports_per_session_are_bounded() -> None:
    use = SessionUse(ProbeSettings(reports_per_session=1))
    assert [use.take_report("a"), use.take_report("a"), use.take_report("b")] == [True, False, True]


def body(**fields: object) -> bytes:
    return json.dumps({"format": FORMAT, **fields}).encode()


def test_addresses_leave_a_report() -> None:
    texts = {
        "192.0.2.7:3478 refused": "[address]:3478 refused",
        "turn:[2001:db8::5]:3478": "turn:[[address]]:3478",
        "fe80::1%eth0, ::1": "[address], [address]",
        "0b0d1b2c-aaaa-bbbb-cccc-0123456789ab.local": "[address]",
        "at 12:30:01.5 on 2026-11-21T15:00:00.000Z": "at 12:30:01.5 on 2026-11-21T15:00:00.000Z",
        "Chrome/156.0.8078.79": "Chrome/156.0.8078.79",
        "turn.example.org:3478": "turn.example.org:3478",
    }
    report = read_report(body(checks=[{"why": list(texts)}], **{"10.0.0.1": 1}))
    assert isinstance(report, dict)
    assert report["checks"][0]["why"] == list(texts.values())
    assert report["[address]"] == 1
    assert report[AGREED] is False


def test_addresses_stay_when_the_visitor_agrees() -> None:
    report = read_report(body(why="192.0.2.7", include_addresses=True))
    assert isinstance(report, dict)
    assert report["why"] == "192.0.2.7"
    again = read_report(body(why="192.0.2.7", include_addresses="yes"))
    assert isinstance(again, dict)
    assert again["why"] == "[address]"


@pytest.mark.parametrize(
    ("text", "flaw"),
    [
        (b"", "bad_request"),
        (b"[]", "bad_request"),
        (b'{"format": "other"}', "bad_request"),
        (b"\xff", "bad_request"),
        (b"[" * 100_000, "payload_too_large"),
        (b"[" * 30_000, "bad_request"),
        (body(deep=eval("[" * 17 + "]" * 17)), "bad_request"),
        (b" " * (MAX_REPORT_BYTES + 1), "payload_too_large"),
    ],
    ids=["empty", "list", "format", "bytes", "long", "nested", "deep", "spaces"],
)
def test_bad_reports_are_refused(text: bytes, flaw: str) -> None:
    assert read_report(text) == flaw


def test_reports_end_and_give_way_to_newer_ones() -> None:
    reports = Reports("", most=2, life_s=10)
    assert reports.keep("a", "ta", {"n": 1}, now=100) == 110
    reports.keep("b", "tb", {"n": 2}, now=105)
    assert reports.find("a", 110) == b'{"n":1}'
    assert reports.find("a", 111) is None
    reports.keep("c", "tc", {"n": 3}, now=106)
    assert len(reports) == 2
    assert reports.find("a", 107) is None
    reports.keep("d", "td", {"n": 4}, now=200)
    assert len(reports) == 1
    reports.close()


def test_large_reports_cannot_fill_the_memory() -> None:
    reports = Reports("", most=1000, life_s=10, most_bytes=100)
    for place, text in enumerate(("x" * 30, "x" * 30, "x" * 80)):
        reports.keep(str(place), "t", {"n": text}, now=place)
    assert len(reports) == 1
    assert reports.find("2", 3) is not None
    reports.keep("3", "t", {}, now=3)
    assert len(reports) == 2, "what fits stays"
    reports.close()


def test_only_the_delete_token_takes_a_report_back() -> None:
    reports = Reports("", most=2, life_s=10)
    reports.keep("a", "secret", {}, now=0)
    assert not reports.remove("a", "guess")
    assert not reports.remove("b", "secret")
    assert reports.remove("a", "secret")
    assert reports.find("a", 0) is None
    reports.close()


def test_reports_in_a_file_survive_the_process(tmp_path: Path) -> None:
    path = str(tmp_path / "reports.db")
    first = Reports(path, most=2, life_s=10)
    first.keep("a", "t", {"n": 1}, now=0)
    first.close()
    second = Reports(path, most=2, life_s=10)
    assert second.find("a", 5) == b'{"n":1}'
    second.close()
