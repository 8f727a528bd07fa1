"""The weighted choice that stays put."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turn_broker.nodes.wheel import Wheel

CHANCES = st.floats(0, 1, exclude_max=True)
WEIGHTED = st.dictionaries(st.integers(), st.integers(1, 1000), min_size=1, max_size=8).map(
    lambda weights: list(weights.items())
)


@given(WEIGHTED, CHANCES)
def test_picks_an_item_and_a_new_chance(weighted: list[tuple[int, int]], chance: float) -> None:
    item, within = Wheel(weighted).pick(chance)

    assert item in dict(weighted)
    assert 0 <= within < 1


@given(WEIGHTED, CHANCES)
def test_never_picks_what_is_left_out(weighted: list[tuple[int, int]], chance: float) -> None:
    wheel = Wheel(weighted)
    for item, _ in weighted:
        other = wheel.pick_other(chance, item)
        assert (other is None) == (len(weighted) == 1)
        assert other != item


@pytest.mark.parametrize("out", range(3))
def test_shares_follow_the_weights(out: int) -> None:
    weights = {0: 1, 1: 2, 2: 5}
    wheel = Wheel(list(weights.items()))
    chances = [(i + 0.5) / 840 for i in range(840)]

    picked = [wheel.pick(chance)[0] for chance in chances]
    assert [picked.count(item) for item in weights] == [105, 210, 525]

    others = [wheel.pick_other(chance, out) for chance in chances]
    rest = 8 - weights[out]
    for item, weight in weights.items():
        assert others.count(item) == (0 if item == out else 840 * weight // rest)


def test_what_is_not_on_it_leaves_nothing_out() -> None:
    assert Wheel([("a", 1)]).pick_other(0.5, "b") == "a"
    assert Wheel[str]([]).pick_other(0.5, "b") is None
    assert "a" in Wheel([("a", 1)])
    with pytest.raises(IndexError):
        Wheel[str]([]).pick(0.5)


def test_rounding_at_the_end_stays_on_the_wheel() -> None:
    wheel = Wheel([("a", 5), ("b", 1)])
    almost = 1 - 2**-53

    item, within = wheel.pick(almost)
    assert (item, within < 1) == ("b", True)
    assert wheel.pick_other(almost, "a") == "b"
    assert wheel.pick_other(almost, "b") == "a"
