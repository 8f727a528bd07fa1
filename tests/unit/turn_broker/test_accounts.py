"""Who a Basic credential belongs to, and which tables cannot be built."""

from __future__ import annotations

import pytest

from turn_broker.accounts import Account, Accounts, ApiKey

AC1, AC2 = "AC" + "1" * 32, "AC" + "2" * 32
SK1, SK2, SK3 = ("SK" + digit * 32 for digit in "123")


@pytest.fixture
def accounts() -> Accounts:
    return Accounts(
        [
            Account(AC1, "token-one", (ApiKey(SK1, "secret-one"),)),
            Account(
                AC2,
                "token-two",
                (ApiKey(SK2, "secret-two"), ApiKey(SK3, algorithm="RS256", public_key="PEM")),
            ),
        ]
    )


@pytest.mark.parametrize(
    ("path_sid", "username", "password", "owner"),
    [
        (AC1, AC1, "token-one", AC1),
        (None, AC1, "token-one", AC1),
        (AC1, SK1, "secret-one", AC1),
        (None, SK2, "secret-two", AC2),
        (AC2, AC1, "token-one", None),
        (AC2, SK1, "secret-one", None),
        (AC1, AC1, "token-two", None),
        (AC1, AC1, "", None),
        (AC1, AC1, "token-one\x00", None),
        (AC1, AC1, "täken", None),
        (AC1, AC1, "\ud800", None),
        (AC1, AC1.lower(), "token-one", None),
        (AC1, SK1, "token-one", None),
        (None, "AC" + "9" * 32, "x" * 32, None),
        (None, "", "", None),
        (None, SK3, "", None),
        (None, SK3, "PEM", None),
    ],
)
def test_basic_credentials(
    accounts: Accounts, path_sid: str | None, username: str, password: str, owner: str | None
) -> None:
    account = accounts.authenticate_basic(path_sid, username, password)

    assert (account.sid if account else None) == owner


def test_tables_by_sid_and_key(accounts: Accounts) -> None:
    owner = accounts.by_sid(AC2)

    assert owner is not None
    assert accounts.key(SK2) == (owner, owner.api_keys[0])
    assert accounts.by_sid(SK2) is None
    assert accounts.key(AC2) is None
    assert [key.sid for key in accounts.api_keys()] == [SK1, SK2, SK3]


def test_a_sid_belongs_to_one() -> None:
    key = ApiKey(SK1, "secret")
    with pytest.raises(ValueError, match="twice"):
        Accounts([Account(AC1, "a"), Account(AC1, "b")])
    with pytest.raises(ValueError, match="twice"):
        Accounts([Account(AC1, "a", (key,)), Account(AC2, "b", (key,))])


def test_malformed_entries_are_refused() -> None:
    for sid in ("AC" + "1" * 31, "AC" + "g" * 32, AC1 + "\n", SK1, ""):
        with pytest.raises(ValueError, match="SID"):
            Account(sid, "token")
    with pytest.raises(ValueError, match="auth token"):
        Account(AC1, "")
    with pytest.raises(ValueError, match="SID"):
        ApiKey(AC1, "secret")
    for key in ({}, {"secret": "s", "public_key": "p"}, {"secret": "s", "algorithm": "RS256"}):
        with pytest.raises(ValueError, match="HS256 key has a secret"):
            ApiKey(SK1, **key)  # type: ignore[arg-type]


def test_secrets_do_not_show(accounts: Accounts) -> None:
    shown = repr([accounts.by_sid(AC1), accounts.by_sid(AC2), accounts.key(SK1)])

    assert SK1 in shown
    assert not any(secret in shown for secret in ("token-one", "secret-one", "secret-two", "PEM"))
