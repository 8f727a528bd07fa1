"""The numbered log: what it keeps, forgets and admits to have lost."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from signal_server.core.outbox import Outbox


def filled(count: int, max_messages: int = 100, max_bytes: int = 10_000) -> Outbox:
    outbox = Outbox(max_messages, max_bytes)
    for number in range(1, count + 1):
        outbox.append(b"%d" % number)
    return outbox


def test_what_follows_a_number() -> None:
    assert filled(4).since(2) == [b"3", b"4"]
    assert filled(4).since(4) == []
    assert filled(0).since(0) == []


def test_a_number_that_was_never_sent() -> None:
    outbox = filled(4)
    assert outbox.since(5) is None
    assert outbox.ack(5) is False


def test_an_acknowledgement_trims_once() -> None:
    outbox = filled(4)
    assert outbox.ack(3)
    assert outbox.ack(2)
    assert (outbox.since(3), outbox.since(2), outbox.held_bytes) == ([b"4"], None, 1)


def test_the_oldest_give_way_to_count_and_size() -> None:
    assert filled(5, max_messages=2).since(3) == [b"4", b"5"]
    assert filled(5, max_messages=2).since(2) is None
    assert filled(5, max_bytes=3).since(2) == [b"3", b"4", b"5"]


@given(st.lists(st.one_of(st.none(), st.integers(0, 30))), st.integers(1, 5))
def test_like_a_list(steps: list[int | None], most: int) -> None:
    """None appends, a number acknowledges."""
    outbox, everything, acked = Outbox(most, 10_000), list[bytes](), 0
    for step in steps:
        if step is None:
            everything.append(b"%d" % len(everything))
            outbox.append(everything[-1])
        elif outbox.ack(step):
            acked = max(acked, step)
        first_kept = max(acked, len(everything) - most)
        for after in range(len(everything) + 2):
            expected = everything[after:] if first_kept <= after <= len(everything) else None
            assert outbox.since(after) == expected
        assert outbox.held_bytes == sum(map(len, everything[first_kept:]))
