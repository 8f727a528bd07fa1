"""GCRA admission: separate classes, four scopes, bounded tables."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from signal_server.core.rate_limit import CLASS_OF, RateClass, RateKeys, RateLimiter
from signal_server.wire.messages import CLIENT_MESSAGES
from signal_server.wire.rates import (
    AddressRates,
    IdentityRates,
    Rate,
    RateLimits,
    RoomRates,
    SessionRates,
)

UPTIME = 1e7
"""A clock of four months: where sums of floats are at their worst."""
ALICE = RateKeys("s1", "AC1/alice", "192.0.2.1", "AC1/room")


def limits(**session: Rate) -> RateLimits:
    return RateLimits(session=SessionRates(**session))


def test_a_burst_passes_and_then_the_rate() -> None:
    limiter = RateLimiter(limits(message=Rate(10, 5)))
    assert [limiter.admit("message", 1, ALICE, UPTIME) for _ in range(5)] == [None] * 5
    assert limiter.admit("message", 1, ALICE, UPTIME) == pytest.approx(0.1, abs=1e-4)
    assert limiter.admit("message", 1, ALICE, UPTIME + 0.05) == pytest.approx(0.05, abs=1e-4)
    assert limiter.admit("message", 1, ALICE, UPTIME + 0.1) is None
    assert limiter.admit("message", 1, ALICE, UPTIME + 0.1) is not None
    assert limiter.refused[RateClass.MESSAGE] == 3
    assert limiter.admit("message", 1, ALICE, UPTIME + 60) is None


def test_waiting_as_told_is_enough() -> None:
    limiter = RateLimiter(limits(call=Rate(0.7, 3)))
    now = UPTIME
    for _ in range(50):
        wait = limiter.admit("call_invite", 1, ALICE, now)
        if wait is not None:
            now += wait
            assert limiter.admit("call_invite", 1, ALICE, now) is None


def test_the_whole_default_burst_passes_one_by_one_on_an_old_clock() -> None:
    limiter = RateLimiter(RateLimits())
    burst = int(RateLimits().session.candidate.burst)
    assert all(limiter.admit("candidate", 1, ALICE, UPTIME) is None for _ in range(burst))
    assert limiter.admit("candidate", 1, ALICE, UPTIME) is not None


def test_a_batch_costs_what_it_carries_and_is_never_impossible() -> None:
    limiter = RateLimiter(limits(candidate=Rate(10, 64)))
    assert limiter.admit("candidate", 60, ALICE, 100) is None
    assert limiter.admit("candidate", 5, ALICE, 100) == pytest.approx(0.1)
    assert limiter.admit("candidate", 4, ALICE, 100) is None
    assert limiter.admit("candidate", 1000, ALICE, 103.2) == pytest.approx(3.2)
    assert limiter.admit("candidate", 1000, ALICE, 106.4) is None


def test_exhausted_candidates_starve_nothing_else() -> None:
    limiter = RateLimiter(RateLimits())
    while limiter.admit("candidate", 64, ALICE, 100) is None:
        pass
    for tag, kind in CLASS_OF.items():
        if kind is not RateClass.CANDIDATE:
            assert limiter.admit(tag, 1, ALICE, 100) is None, tag


def test_nobody_in_a_room_starves_another_ones_answer_or_hangup() -> None:
    limiter = RateLimiter(RateLimits())
    for n in range(50):
        flooder = RateKeys(f"f{n}", f"AC1/{n}", f"198.51.100.{n}", "AC1/room")
        for tag in CLASS_OF:
            while limiter.admit(tag, 1, flooder, 100) is None:
                pass
    assert limiter.admit("answer", 1, ALICE, 100) is None
    assert limiter.admit("call_hangup", 1, ALICE, 100) is None
    assert limiter.admit("message", 1, ALICE, 100) is not None


@pytest.mark.parametrize("place", range(4))
def test_every_scope_limits_by_itself(place: int) -> None:
    tight = {"message": Rate(1, 1)}
    tables = [SessionRates, IdentityRates, AddressRates, RoomRates]
    names = RateKeys._fields
    limiter = RateLimiter(RateLimits(**{names[place]: tables[place](**tight)}))
    assert limiter.admit("message", 1, ALICE, 100) is None
    strangers = ["s2", "AC1/bob", "192.0.2.2", "AC1/other"]
    shares_one = RateKeys(*(ALICE[n] if n == place else strangers[n] for n in range(4)))
    shares_rest = RateKeys(*(strangers[n] if n == place else ALICE[n] for n in range(4)))
    assert limiter.admit("message", 1, shares_rest, 100) is None
    assert limiter.admit("message", 1, shares_one, 100) == pytest.approx(1)
    nobody = RateKeys(*(None if n == place else ALICE[n] for n in range(4)))
    assert limiter.admit("message", 1, nobody, 100) is None


def test_a_refused_message_charges_no_scope() -> None:
    limiter = RateLimiter(
        RateLimits(session=SessionRates(message=Rate(1, 1)), room=RoomRates(message=Rate(1, 2)))
    )
    assert limiter.admit("message", 1, ALICE, 100) is None
    for _ in range(10):
        assert limiter.admit("message", 1, ALICE, 100) is not None
    assert limiter.admit("message", 1, RateKeys("s2", room=ALICE.room), 100) is None


def test_the_longest_wait_is_told() -> None:
    limiter = RateLimiter(
        RateLimits(session=SessionRates(ping=Rate(1, 1)), address=AddressRates(ping=Rate(0.1, 1)))
    )
    assert limiter.admit("ping", 1, ALICE, 100) is None
    assert limiter.admit("ping", 1, ALICE, 100) == pytest.approx(10)


def test_every_client_message_has_a_class_and_an_unknown_one_counts_as_control() -> None:
    tags = {kind.__struct_config__.tag for kind in CLIENT_MESSAGES}
    assert tags <= CLASS_OF.keys()
    limiter = RateLimiter(limits(control=Rate(1, 1)))
    assert limiter.admit("unheard_of", 1, ALICE, 100) is None
    assert limiter.admit("answer", 1, ALICE, 100) is not None


def test_full_buckets_are_forgotten_as_new_keys_come() -> None:
    limiter = RateLimiter(RateLimits(tracked=1000))
    for n in range(500):
        limiter.admit("ping", 1, RateKeys(session=f"s{n}"), 100)
    assert limiter.tracked()["session"] == 500
    for n in range(600):
        limiter.admit("ping", 1, RateKeys(session=f"t{n}"), 1000 + 60 * n)
    assert limiter.tracked()["session"] <= 3
    assert limiter.tracked()["room"] == 0


def test_a_table_at_its_cap_forgets_the_oldest() -> None:
    slow = limits(message=Rate(0.001, 1))
    limiter = RateLimiter(msgspec.structs.replace(slow, tracked=16))
    for n in range(1000):
        assert limiter.admit("message", 1, RateKeys(session=n), 100) is None
        assert limiter.tracked()["session"] <= 16
    assert limiter.admit("message", 1, RateKeys(session=999), 100) is not None
    assert limiter.admit("message", 1, RateKeys(session=0), 100) is None


def test_a_client_is_shown_its_own_session() -> None:
    shown = limits(candidate=Rate(7, 70)).shown()
    assert shown["candidate_per_s"] == 7
    assert shown["candidate_burst"] == 70
    assert len(shown) == 2 * len(RateClass)


def test_rates_are_read_with_the_scopes_own_defaults() -> None:
    read = msgspec.convert({"room": {"message": {"per_s": 1, "burst": 2}}}, RateLimits)
    assert read.room.message == Rate(1, 2)
    assert read.room.candidate == RoomRates().candidate
    for flaw in ({"per_s": 0, "burst": 1}, {"per_s": 1, "burst": 0}, {"per_s": 1}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"session": {"ice": flaw}}, RateLimits)


@given(
    st.lists(
        st.tuples(st.floats(0, 3), st.integers(1, 12), st.sampled_from(["a", "b"])), max_size=60
    )
)
def test_never_more_than_burst_plus_rate_in_any_window(
    steps: list[tuple[float, int, str]],
) -> None:
    rate, burst = 4.0, 8.0
    limiter = RateLimiter(limits(candidate=Rate(rate, burst)))
    now = UPTIME
    admitted: dict[str, list[tuple[float, float]]] = {"a": [], "b": []}
    for pause, cost, session in steps:
        now += pause
        if limiter.admit("candidate", cost, RateKeys(session=session), now) is None:
            admitted[session].append((now, min(cost, burst)))
    for log in admitted.values():
        for first in range(len(log)):
            total = 0.0
            for at, cost_paid in log[first:]:
                total += cost_paid
                assert total <= burst + rate * (at - log[first][0]) + 1e-3
