"""Token buckets: exact bursts, whole refusals, bounded tables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turn_broker.issue_limits import Buckets, IssueLimiter, IssueLimits

LIMITS = IssueLimits(
    identity_per_s=1,
    identity_burst=3,
    account_per_s=10,
    account_burst=5,
    address_per_s=2,
    address_burst=4,
    anonymous_per_s=0.5,
    anonymous_burst=2,
    anonymous_total_per_s=1,
    anonymous_total_burst=3,
    tracked=16,
)


def identity(limiter: IssueLimiter, subject: str, now: float, address: str = "") -> float | None:
    return limiter.identity("AC", subject, address, None, None, now)


def test_an_identity_has_a_burst_and_then_its_rate() -> None:
    limiter = IssueLimiter(LIMITS)

    assert [identity(limiter, "alice", 0.0) for _ in range(3)] == [None] * 3
    assert identity(limiter, "alice", 0.0) == pytest.approx(1)
    assert identity(limiter, "alice", 0.4) == pytest.approx(0.6)
    assert identity(limiter, "bob", 0.4) is None
    assert identity(limiter, "alice", 1.0) is None


def test_a_refused_request_costs_nobody_anything() -> None:
    limiter = IssueLimiter(LIMITS)
    for _ in range(3):
        identity(limiter, "alice", 0.0, "a")
    for _ in range(50):
        assert identity(limiter, "alice", 0.0, "a") is not None

    assert identity(limiter, "bob", 0.0, "a") is None
    assert identity(limiter, "carol", 0.0, "a") == pytest.approx(0.5)  # the address
    assert identity(limiter, "carol", 0.0, "b") is None
    assert identity(limiter, "dave", 0.0, "c") == pytest.approx(0.1)  # the account


def test_an_account_may_have_a_rate_of_its_own() -> None:
    limiter = IssueLimiter(LIMITS)

    assert [limiter.account("AC", None, None, 0.0) for _ in range(5)] == [None] * 5
    assert limiter.account("AC", None, None, 0.0) == pytest.approx(0.1)
    assert limiter.account("AC2", 1.0, 1, 0.0) is None
    assert limiter.account("AC2", 1.0, 1, 0.0) == pytest.approx(1)


def test_anonymous_probes_share_a_bucket() -> None:
    limiter = IssueLimiter(LIMITS)

    assert [limiter.anonymous("a", 0.0) for _ in range(2)] == [None] * 2
    assert limiter.anonymous("a", 0.0) == pytest.approx(2)
    assert limiter.anonymous("b", 0.0) is None
    assert limiter.anonymous("c", 0.0) == pytest.approx(1)


def test_tables_are_bounded() -> None:
    limiter = IssueLimiter(LIMITS)
    for n in range(1000):
        identity(limiter, str(n), float(n), str(n))

    assert len(limiter._identities) == len(limiter._addresses) == 16


@given(st.lists(st.floats(0, 5), max_size=80), st.integers(1, 5), st.floats(0.5, 20))
def test_never_more_than_burst_plus_rate(gaps: list[float], burst: int, per_s: float) -> None:
    buckets, now, passed = Buckets(16), 0.0, list[float]()
    for gap in gaps:
        now += gap
        if not buckets.wait("k", per_s, burst, now):
            buckets.charge("k", per_s, now)
            passed.append(now)
    for first, begin in enumerate(passed):
        for last in range(first, len(passed)):
            allowed = burst + (passed[last] - begin) * per_s
            assert last - first + 1 <= allowed + 1e-3
