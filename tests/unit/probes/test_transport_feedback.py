"""Feedback about arrivals says what arrived, as a reader of the draft understands it."""

from __future__ import annotations

from struct import unpack, unpack_from

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probes.transport_feedback import INTERVAL_S, MAX_SPAN, ArrivalLog

TICK_S = 0.00025


def read(packet: bytes) -> dict[int, float | None]:
    """Arrival times in seconds by 16-bit number, None for what did not come."""
    version, kind, words, sender, media = unpack("!BBHLL", packet[:12])
    assert (version, kind, words, sender, media) == (0x8F, 205, len(packet) // 4 - 1, 1, 2)
    base, count = unpack_from("!HH", packet, 12)
    ticks = 256 * int.from_bytes(packet[16:19])
    symbols: list[int] = []
    at = 20
    while len(symbols) < count:
        (chunk,) = unpack_from("!H", packet, at)
        assert chunk >> 14 == 0b11
        symbols += [chunk >> (12 - 2 * place) & 0b11 for place in range(7)]
        at += 2
    found: dict[int, float | None] = {}
    for offset, symbol in enumerate(symbols[:count]):
        number = (base + offset) & 0xFFFF
        found[number] = None
        if symbol:
            form, size = ("!B", 1) if symbol == 1 else ("!h", 2)
            ticks += unpack_from(form, packet, at)[0]
            at += size
            found[number] = ticks * TICK_S
    assert len(packet) - at < 4
    assert not any(packet[at:])
    return found


def logged(*arrivals: tuple[int, float]) -> ArrivalLog:
    log = ArrivalLog()
    for sequence, at_s in arrivals:
        log.add(sequence, at_s)
    return log


def test_it_is_due_after_an_interval_with_arrivals() -> None:
    log = ArrivalLog()
    assert not log.is_due(10.0)
    log.add(1, 10.0)
    assert log.is_due(10.0)
    log.feedback(1, 2, 10.0)
    log.add(2, 10.01)
    assert not log.is_due(10.0 + INTERVAL_S / 2)
    assert log.is_due(10.0 + INTERVAL_S)


def test_what_is_missing_is_lost_also_between_two_feedbacks() -> None:
    log = logged((0xFFFE, 5.0), (0, 5.01))
    first = read(log.feedback(1, 2, 5.02))
    assert list(first) == [0xFFFE, 0xFFFF, 0]
    assert first[0xFFFF] is None
    log.add(3, 5.1)
    assert list(read(log.feedback(1, 2, 5.1)).items())[:2] == [(1, None), (2, None)]


def test_what_comes_after_it_was_reported_as_lost_stays_lost() -> None:
    log = logged((1, 1.0), (3, 1.0))
    log.feedback(1, 2, 1.0)
    log.add(2, 1.1)
    assert not log.is_due(2.0)


def test_a_large_gap_begins_anew() -> None:
    log = logged((1, 1.0), (1 + MAX_SPAN, 1.1))
    assert list(read(log.feedback(1, 2, 1.1))) == [1 + MAX_SPAN]


def test_a_time_that_no_delta_can_say_is_said_as_near_as_can_be() -> None:
    found = read(logged((1, 1.0), (2, 60.0)).feedback(1, 2, 60.0))
    assert found[2] == pytest.approx(1.0 + (2**15 - 1) * TICK_S, abs=0.07)


@given(
    start=st.integers(0, 0xFFFF),
    packets=st.lists(
        st.tuples(st.booleans(), st.floats(-0.4, 1.0, allow_nan=False)), min_size=1, max_size=60
    ),
)
def test_every_arrival_is_told_with_its_time(start: int, packets: list[tuple[bool, float]]) -> None:
    log, expected, at_s = ArrivalLog(), {}, 1000.0
    packets[0] = (True, packets[0][1])
    for offset, (comes, step_s) in enumerate(packets):
        at_s += step_s
        if comes:
            expected[(start + offset) & 0xFFFF] = at_s
            log.add((start + offset) & 0xFFFF, at_s)
    found = read(log.feedback(1, 2, at_s))
    assert {number: at for number, at in found.items() if at is not None}.keys() == expected.keys()
    for number, at in expected.items():
        assert found[number] == pytest.approx(at, abs=TICK_S)
