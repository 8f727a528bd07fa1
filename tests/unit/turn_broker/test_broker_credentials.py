"""Time-limited credentials: the vector every TURN server computes, and names that are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turn_broker.credentials import (
    MAX_EXPIRY,
    TurnUsername,
    long_term_key,
    mint,
    parse_username,
    password_of,
)


def test_known_vectors() -> None:
    """printf '%s' 1800000600:alice | openssl dgst -sha1 -hmac secret -binary | base64
    printf '%s' 1800000600:alice:turn.lab:GiZAyvCxXbP4ujSJT6cQWxYjyVE= | openssl dgst -md5
    """
    credential = mint("secret", "alice", 1_800_000_600)

    assert credential.username == "1800000600:alice"
    assert credential.password == "GiZAyvCxXbP4ujSJT6cQWxYjyVE="
    assert credential.password not in repr(credential)
    key = long_term_key(credential.username, "turn.lab", credential.password)
    assert key.hex() == "348cb50976ebb1ac7b0da1e378cd54f0"


@given(
    st.from_regex(r"[A-Za-z0-9._-]{1,128}", fullmatch=True),
    st.integers(1, MAX_EXPIRY),
    st.text(min_size=1),
)
def test_what_is_minted_parses(opaque_id: str, expires_at: int, secret: str) -> None:
    credential = mint(secret, opaque_id, expires_at)

    assert parse_username(credential.username) == TurnUsername(expires_at, opaque_id)
    assert credential.password == password_of(secret, credential.username)


@pytest.mark.parametrize("opaque_id", ["", "a b", "a:b", "a\n", "é", "x" * 129, "%s"])
def test_ids_coturn_or_a_log_would_choke_on(opaque_id: str) -> None:
    with pytest.raises(ValueError, match="opaque id"):
        mint("secret", opaque_id, 1)
    assert parse_username(f"1:{opaque_id}") is None


@pytest.mark.parametrize("expires_at", [0, -1, MAX_EXPIRY + 1])
def test_expiries_beyond_32_bits(expires_at: int) -> None:
    with pytest.raises(ValueError, match="32 bits"):
        mint("secret", "a", expires_at)


@pytest.mark.parametrize("name", ["", "1", ":a", "a:1", "1:", "4294967296:a", "12345678901:a"])
def test_other_names(name: str) -> None:
    assert parse_username(name) is None
