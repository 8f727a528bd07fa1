"""Bounded tables of a fleet: what makes room for what, also under a flood."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from turn_broker.fleet.messages import Revocation, Revoke
from turn_broker.fleet.tables import ExpiringTable, Revocations

NOW = 1_800_000_000.0


def revoke(name: str, until: float = NOW + 60) -> Revoke:
    return Revoke(name, Revocation(scope="token", name=name, until=int(until)))


def test_an_entry_holds_up_to_and_including_its_time() -> None:
    table: ExpiringTable[str, int] = ExpiringTable(3)
    table.put("a", 1, NOW, NOW)
    assert (table.get("a", NOW), table.get("a", NOW + 1)) == (1, None)
    assert list(table.values(NOW)) == [1]
    assert list(table.values(NOW + 1)) == []
    table.put("b", 2, NOW + 9, NOW + 1)
    assert (len(table), table.lost) == (1, 0)


def test_the_one_put_longest_ago_makes_room() -> None:
    table: ExpiringTable[int, int] = ExpiringTable(3)
    for number in (1, 2, 3, 1, 4):
        table.put(number, number, NOW + 60, NOW)
    assert list(table.values(NOW)) == [3, 1, 4]
    assert table.lost == 1


def test_short_lives_do_not_drive_out_long_ones() -> None:
    """Tokens of anonymous probes live minutes, those of users a day."""
    table: ExpiringTable[int, str] = ExpiringTable(100)
    for user in range(50):
        table.put(-user - 1, "user", NOW + 86_400, NOW)
    for probe in range(5000):
        table.put(probe, "probe", NOW + probe + 30, NOW + probe)
    assert list(table.values(NOW + 5000)).count("user") == 50
    assert (len(table) <= 100, table.lost) == (True, 0)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(-2, 5), st.integers(0, 3))))
def test_nothing_is_lost_while_there_is_room(puts: list[tuple[int, int, int]]) -> None:
    table: ExpiringTable[int, int] = ExpiringTable(10)
    expected: dict[int, tuple[float, int]] = {}
    now = NOW
    for key, life, later in puts:
        now += later
        table.put(key, life, now + life, now)
        expected[key] = (now + life, life)
        known = {key: value for key, (until, value) in expected.items() if until >= now}
        assert {key: table.get(key, now) for key in known} == known
    assert table.lost == 0


def test_a_flood_costs_the_same_for_each() -> None:
    """A full table whose front is deleted again and again."""
    table: ExpiringTable[int, int] = ExpiringTable(20_000)
    began = time.process_time()
    for number in range(100_000):
        table.put(number, 0, NOW + 600, NOW)
    assert time.process_time() - began < 5  # 0.1 s; quadratic would be minutes
    assert (len(table), table.lost) == (20_000, 80_000)


def test_no_flood_of_revocations_makes_one_forgotten() -> None:
    revocations = Revocations(3)
    assert [revocations.add(revoke(name), NOW) for name in "abcde"] == [True, True, True] + [
        False
    ] * 2
    assert [revocations.is_revoked(name, NOW) for name in "abcd"] == [True, True, True, False]
    assert revocations.add(revoke("a", NOW + 90), NOW)  # a longer one of the same name has room
    assert revocations.add(revoke("b", NOW + 9), NOW)
    assert revocations.is_revoked("b", NOW + 60)  # and a shorter one changes nothing
    assert revocations.add(revoke("f", NOW + 90), NOW + 61)
    assert {order.ticket for order in revocations.orders(NOW + 61)} == {"a", "f"}
