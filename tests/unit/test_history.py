"""The judge of histories finds what it is there to find."""

from __future__ import annotations

from history import Fate, History


def conversation(*arrivals: str) -> History:
    """a sends m1, m2 and m3 to b, all promised; these arrive."""
    history = History()
    for mark in ("m1", "m2", "m3"):
        history.asks("a", "b", "message", mark).promised()
    for mark in arrivals:
        history.arrives("b", "a", mark)
    return history


def test_history_good() -> None:
    verdict = conversation("m1", "m2", "m3").verdict()
    assert verdict.is_good
    assert verdict.arrived == 3


def test_history_lost() -> None:
    history = conversation("m1", "m3")
    assert [item.mark for item in history.verdict().lost] == ["m2"]
    assert history.missing("b", "a") == 1
    history.gap("b")
    verdict = history.verdict()
    assert verdict.is_good
    assert verdict.excused == 1


def test_history_doubled_and_reordered() -> None:
    assert conversation("m1", "m2", "m2", "m3").verdict().doubled == ["m2 at b from a"]
    assert conversation("m1", "m3", "m2").verdict().reordered == ["m2 at b from a"]


def test_history_invented() -> None:
    history = conversation("m1", "m2", "m3")
    history.arrives("b", "a", "m4")
    history.arrives("c", "a", "m1")
    history.arrives("b", "x", "m1")
    history.asks("a", "b", "message", "no").refused()
    history.arrives("b", "a", "no")
    assert len(history.verdict().invented) == 4


def test_history_lanes_are_independent_and_needs_are_not() -> None:
    history = History()
    history.asks("a", "b", "description", "offer").promised()
    history.asks("a", "b", "candidate", "c1", needs="offer").promised()
    history.asks("a", "b", "message", "hello").promised()
    for mark in ("hello", "c1", "offer"):
        history.arrives("b", "a", mark)
    verdict = history.verdict()
    assert verdict.reordered == []
    assert verdict.too_early == ["c1 at b from a"]


def test_history_of_a_call_goes_to_who_answers() -> None:
    history = History()
    item = history.asks("a", "call", "description", "offer")
    assert item.fate is Fate.ASKED
    history.answers("call", "b")
    assert history.verdict().is_good, "without an answer of the server nothing is promised"
    item.promised()
    assert [lost.mark for lost in history.verdict().lost] == ["offer"]
    history.arrives("b", "a", "offer")
    assert history.verdict().is_good


def test_history_numbers() -> None:
    history = History()
    for seq in (1, 0, 2, 4, 5, 5):
        history.numbers("s", seq)
    assert history.verdict().misnumbered == ["s: 4 instead of 3", "s: 5 instead of 6"]
