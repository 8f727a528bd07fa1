"""Brute force on tokens: growing delays, then no more tries for a while."""

from __future__ import annotations

import pytest

from turn_broker.guesses import Guesses, GuessLimits

EVE, ALICE = "198.51.100.6", "192.0.2.1"


def test_each_failure_doubles_the_delay_up_to_the_longest() -> None:
    guesses = Guesses(GuessLimits())
    delays = [guesses.failed(EVE, 100.0) for _ in range(10)]
    assert delays == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25, 25])
    assert guesses.failed(ALICE, 100.0) == pytest.approx(0.1)
    assert guesses.failures == 11


def test_ten_failures_shut_an_address_out_until_the_first_is_old() -> None:
    guesses = Guesses(GuessLimits())
    for n in range(10):
        assert guesses.refused(EVE, 100.0 + n) is None
        guesses.failed(EVE, 100.0 + n)
    assert guesses.refused(EVE, 110.0) == pytest.approx(1790)
    assert guesses.refused(ALICE, 110.0) is None
    assert guesses.refused(EVE, 1899.0) == pytest.approx(1)
    assert guesses.refusals == 2
    assert guesses.refused(EVE, 1900.0) is None
    assert guesses.failed(EVE, 1900.0) == 25
    assert guesses.refused(EVE, 1900.5) == pytest.approx(0.5)


def test_failures_of_attempts_under_way_do_not_prolong_the_table() -> None:
    guesses = Guesses(GuessLimits(failures=3))
    for n in range(1000):
        guesses.failed(EVE, 100.0 + n / 1000)
    assert guesses.refused(EVE, 101.0) == pytest.approx(1800, abs=0.1)
    assert guesses.refused(EVE, 2901.0) is None


def test_old_failures_are_forgotten() -> None:
    guesses = Guesses(GuessLimits())
    for _ in range(5):
        guesses.failed(EVE, 100.0)
    assert len(guesses) == 1
    assert guesses.refused(EVE, 1900.0) is None
    assert len(guesses) == 0
    assert guesses.failed(EVE, 1900.0) == pytest.approx(0.1)


def test_addresses_that_are_over_leave_when_another_fails() -> None:
    guesses = Guesses(GuessLimits())
    for n in range(100):
        guesses.failed(f"192.0.2.{n}", 100.0)
    guesses.failed("192.0.2.0", 1000.0)
    guesses.failed(EVE, 1950.0)
    assert len(guesses) == 2
    assert guesses.failed("192.0.2.0", 1950.0) == pytest.approx(0.2)


def test_a_full_table_forgets_who_failed_longest_ago() -> None:
    guesses = Guesses(GuessLimits(addresses=16, failures=1))
    for n in range(15):
        guesses.failed(f"192.0.2.{n}", 100.0)
    guesses.failed(EVE, 101.0)
    guesses.failed("192.0.2.0", 102.0)
    for n in range(15):
        guesses.failed(f"203.0.113.{n}", 103.0)
        assert len(guesses) <= 16
    assert guesses.refused("192.0.2.0", 104.0) is not None
    assert guesses.refused(EVE, 104.0) is None


def test_no_flood_of_addresses_lets_somebody_in_again() -> None:
    guesses = Guesses(GuessLimits(addresses=16, failures=3))
    for _ in range(3):
        guesses.failed(EVE, 100.0)
    for n in range(1000):
        guesses.failed(f"203.0.113.{n}", 101.0)
        guesses.failed(f"203.0.113.{n}", 101.0)
    assert guesses.refused(EVE, 102.0) == pytest.approx(1798)
    assert len(guesses) == 17
    assert guesses.refused(EVE, 1901.0) is None
