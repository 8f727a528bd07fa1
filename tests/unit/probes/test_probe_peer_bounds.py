"""What a server peer takes and waits for: bounds of an offer, and a client that is gone."""

from __future__ import annotations

import time

import pytest

from probes import descriptions
from probes.attendance import CONNECT_S, MAX_PACKETS_PER_S, SILENT_S, Absence, Attendance

MEDIA = "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n"
CANDIDATE = "a=candidate:1 1 udp 2130706431 203.0.114.9 {port} typ host\r\n"


def looked(attendance: Attendance, *packets: int, connected: bool = True) -> list[Absence | None]:
    return [
        attendance.look(is_connected=connected, packets=count, elapsed_s=1.0) for count in packets
    ]


def test_a_client_that_never_connects_is_gone_after_its_time() -> None:
    found = looked(Attendance(), *[0] * int(CONNECT_S), connected=False)
    assert found == [*[None] * (int(CONNECT_S) - 1), "never_connected"]


def test_a_client_has_its_time_for_silence_after_it_has_connected() -> None:
    attendance = Attendance()
    assert set(looked(attendance, *[0] * (int(CONNECT_S) - 1), connected=False)) == {None}
    assert set(looked(attendance, 1, 2, 2, 2, 3)) == {None}
    found = looked(attendance, *[3] * int(SILENT_S))
    assert found == [*[None] * (int(SILENT_S) - 1), "silent"]


def test_a_machine_that_stood_still_does_not_blame_the_client() -> None:
    attendance = Attendance()
    assert looked(attendance, 1) == [None]
    assert attendance.look(is_connected=True, packets=1, elapsed_s=60.0) is None
    assert looked(attendance, 2) == [None]


def test_a_client_that_sends_more_than_a_probe_is_none() -> None:
    attendance, most = Attendance(), MAX_PACKETS_PER_S
    assert looked(attendance, most, 2 * most) == [None, None]
    assert attendance.look(is_connected=True, packets=5 * most, elapsed_s=3.0) is None
    assert looked(attendance, 6 * most + 1) == ["flood"]


def test_an_offer_is_bounded() -> None:
    assert descriptions.flaw_of("v=0\r\n" + descriptions.MAX_MEDIA * MEDIA) is None
    assert "media sections" in (descriptions.flaw_of(1000 * MEDIA) or "")
    assert "lines" in (descriptions.flaw_of("a=x\n" * (descriptions.MAX_LINES + 1)) or "")


def test_few_candidates_are_knocked_at() -> None:
    offer = MEDIA + "".join(CANDIDATE.format(port=port) for port in range(5000, 5900)) + "a=x\r\n"
    kept = descriptions.with_few_candidates(offer).splitlines()
    assert kept[0] + "\r\n" == MEDIA
    assert len(kept) == descriptions.MAX_CANDIDATES + 2
    assert kept[-1] == "a=x"


@pytest.mark.parametrize(
    "line",
    [
        "a=candidate:1  1 udp 2130706431 10.0.0.1 5000 typ host",
        "a=candidate:1\t1 udp 2130706431 10.0.0.1 5000 typ host",
        "a=candidate: 1 1 udp 2130706431 10.0.0.1 5000 typ host",
        "a=candidate:1 1 udp -1 10.0.0.1 5000 type host",
        "a=candidate:1 1 udp 2130706431 224.0.0.251 5353 typ host",
        "a=candidate:1 1 udp 2130706431 2002:a00:1::1 5000 typ host",
        "a=candidate:1 1 udp",
        "a=candidate:",
    ],
)
def test_no_spelling_hides_an_address(line: str) -> None:
    """Fields are what aiortc takes for them."""
    offer = "v=0\r\n" + CANDIDATE.format(port=1)
    assert descriptions.without_private(offer + line + "\r\n") == offer


def test_only_addresses_can_be_knocked_at() -> None:
    name = CANDIDATE.format(port=1).replace("203.0.114.9", "0b1f.local")
    assert descriptions.names_address(name + CANDIDATE.format(port=1))
    assert not descriptions.names_address(name + MEDIA)
    assert descriptions.without_end("a=x\r\na=end-of-candidates\r\n") == "a=x\r\n"


@pytest.mark.parametrize("part", ["a=candidate:", "a=candidate: ", "a=candidate:1 1 udp 1 "])
def test_a_long_line_takes_no_time(part: str) -> None:
    offer = part * (64 * 1024 // len(part))
    began = time.process_time()
    descriptions.without_private(descriptions.with_few_candidates(offer))
    descriptions.names_address(offer)
    assert time.process_time() - began < 0.2, "seconds, where fields are sought by backtracking"
