"""The vocabulary of refusals."""

from __future__ import annotations

import pytest

from signal_server.wire.codes import CloseCode, ErrorCode


def test_error_codes_are_the_contract() -> None:
    assert " ".join(ErrorCode) == (
        "bad_request unsupported_version unauthenticated token_expired forbidden not_found "
        "peer_unreachable resume_expired resume_gap superseded conflict room_full wrong_state "
        "stale_negotiation stale_generation candidate_after_end glare buffer_full "
        "payload_too_large rate_limited limit_exceeded draining unavailable internal"
    )


def test_what_may_be_retried() -> None:
    assert {code.value for code in ErrorCode if code.retryable} == {
        "peer_unreachable",
        "room_full",
        "buffer_full",
        "rate_limited",
        "limit_exceeded",
        "draining",
        "unavailable",
        "internal",
    }


@pytest.mark.parametrize("code", CloseCode)
def test_the_range_of_a_close_code_says_whether_to_reconnect(code: CloseCode) -> None:
    if code >= 4000:
        assert code.reconnect is (code < 4500)
    assert code < 1016 or 4000 <= code <= 4999


def test_a_normal_close_is_final() -> None:
    assert not CloseCode.NORMAL.reconnect
    assert CloseCode.GOING_AWAY.reconnect
