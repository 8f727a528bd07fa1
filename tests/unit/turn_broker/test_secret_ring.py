"""A credential is good while its secret is active or retiring, and not a moment longer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turn_broker.credentials import mint
from turn_broker.secret_ring import MAX_RETIRING, RetiringSecret, SecretRing

NOW = 1_800_000_000


@given(
    secrets=st.lists(st.text(min_size=1, max_size=40), min_size=1, max_size=6, unique=True),
    overlap=st.integers(0, 1000),
    gap=st.integers(0, 1000),
    ttl=st.integers(0, 3000),
    data=st.data(),
)
def test_minted_credentials_verify_while_their_secret_lives(
    secrets: list[str], overlap: int, gap: int, ttl: int, data: st.DataObject
) -> None:
    """Rotate through `secrets`, one every `gap` seconds, and ask at any time after."""
    ring = SecretRing(secrets[0])
    minted = [mint(secrets[0], "id.token", NOW + ttl)]
    for turn, secret in enumerate(secrets[1:], 1):
        ring = ring.begin(secret, NOW + turn * gap).promote(NOW + turn * gap, overlap)
        minted.append(mint(secret, "id.token", NOW + turn * gap + ttl))
    last_rotation = NOW + (len(secrets) - 1) * gap
    asked = last_rotation + data.draw(st.integers(0, 4000))
    for turn, credential in enumerate(minted):
        active = turn == len(secrets) - 1
        retired_at = NOW + (turn + 1) * gap + overlap
        alive = (active or asked <= retired_at) and asked <= NOW + turn * gap + ttl

        verified = ring.verify(credential.username, credential.password, asked)

        assert (verified is not None) is alive


def test_rotation_that_covers_the_ttl_ends_no_credential_early() -> None:
    credential = mint("old", "id", NOW + 3600)

    ring = SecretRing("old").begin("new", NOW).promote(NOW, overlap_s=3600)

    assert ring.verify(credential.username, credential.password, NOW + 3600) is not None
    assert ring.verify(credential.username, credential.password, NOW + 3601) is None
    assert ring.active == "new"


def test_a_listed_secret_without_an_end_stays() -> None:
    ring = SecretRing("new", (RetiringSecret("old"),))
    credential = mint("old", "id", NOW + 1)

    assert ring.verify(credential.username, credential.password, NOW) is not None
    assert ring.accepted(2**40) == ("new", "old")
    with pytest.raises(ValueError, match="already"):
        ring.begin("old", NOW)


@pytest.mark.parametrize(
    ("username", "password"),
    [
        ("", ""),
        ("alice", "x"),
        (f"{NOW}:a b", "x"),
        (f"{NOW + 60}:id", ""),
        (f"{NOW + 60}:id", "\ud800"),
        (f"{2**32}:id", "x"),
    ],
)
def test_what_was_never_minted(username: str, password: str) -> None:
    assert SecretRing("s").verify(username, password, NOW) is None


def test_secrets_do_not_show() -> None:
    shown = repr(SecretRing("ring-active", (RetiringSecret("ring-old"),)))

    assert "ring-active" not in shown
    assert "ring-old" not in shown


def test_the_next_secret_verifies_and_does_not_mint() -> None:
    ring = SecretRing("old").begin("new", NOW)
    credential = mint("new", "id", NOW + 1)

    assert ring.active == "old"
    assert ring.accepted(NOW) == ("old", "new")
    assert ring.verify(credential.username, credential.password, NOW) is not None
    with pytest.raises(ValueError, match="under way"):
        ring.begin("third", NOW)
    with pytest.raises(ValueError, match="already"):
        SecretRing("old").begin("old", NOW)
    with pytest.raises(ValueError, match="no next"):
        SecretRing("old").promote(NOW, 60)


def test_what_has_run_out_is_purged() -> None:
    ring = SecretRing("a").begin("b", NOW).promote(NOW, 60)

    assert ring.since == NOW
    assert ring.purge(NOW + 60) is ring
    assert ring.purge(NOW + 61) == SecretRing("b", since=NOW)


def test_former_secrets_are_bounded_until_the_oldest_has_run_out() -> None:
    ring = SecretRing("s0")
    for number in range(1, MAX_RETIRING + 1):
        ring = ring.begin(f"s{number}", number).promote(number, 1000)
    with pytest.raises(ValueError, match="too many former secrets"):
        ring.begin("one more", 1001)
    assert ring.begin("one more", 1002).next == "one more"
