"""The agenda: one deadline per key, earliest first, bounded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from signal_server.core.deadlines import Deadlines


def test_earliest_first_and_only_once() -> None:
    agenda: Deadlines[str] = Deadlines()
    agenda.set("b", 2.0)
    agenda.set("a", 1.0)
    agenda.set("c", 2.0)

    assert agenda.next() == 1.0
    assert agenda.due(0.5) == []
    assert agenda.due(2.0) == ["a", "b", "c"]
    assert agenda.due(9.0) == []
    assert agenda.next() is None


def test_a_new_deadline_replaces_the_old_one() -> None:
    agenda: Deadlines[str] = Deadlines()
    agenda.set("a", 5.0)
    agenda.set("a", 1.0)
    agenda.set("a", 5.0)
    agenda.set("b", 3.0)
    agenda.set("b", None)

    assert len(agenda) == 1
    assert agenda.next() == 5.0
    assert agenda.due(4.0) == []
    assert agenda.due(5.0) == ["a"]


def test_stale_entries_do_not_pile_up() -> None:
    agenda: Deadlines[int] = Deadlines()
    for i in range(10_000):
        agenda.set(i % 3, float(i))

    assert len(agenda) == 3
    assert len(agenda._heap) <= 65
    assert agenda.due(1e9) == [9997 % 3, 9998 % 3, 9999 % 3]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 5),
            st.one_of(st.none(), st.integers(0, 20).map(float)),
            st.integers(0, 20).map(float),
        )
    )
)
def test_against_a_dict(steps: list[tuple[int, float | None, float]]) -> None:
    agenda: Deadlines[int] = Deadlines()
    expected: dict[int, float] = {}
    for key, at, now in steps:
        agenda.set(key, at)
        expected.pop(key, None)
        if at is not None:
            expected[key] = at
        assert agenda.next() == min(expected.values(), default=None)
        due = agenda.due(now)
        assert sorted(due) == sorted(k for k, when in expected.items() if when <= now)
        times = [expected.pop(k) for k in due]
        assert times == sorted(times)
        assert len(agenda) == len(expected)
