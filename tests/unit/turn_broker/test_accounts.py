"""Who a Basic credential belongs to, and which tables cannot be built."""

from __future__ import annotations

import pytest

from turn_broker.accounts.table import Account, Accounts, ApiKey, SecretDigest

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


def test_a_secondary_auth_token_is_as_good() -> None:
    accounts = Accounts([Account(AC1, "one", secondary_auth_token="two")])

    for token in ("one", "two"):
        assert accounts.authenticate_basic(AC1, AC1, token) is not None
    assert accounts.authenticate_basic(AC1, AC1, "three") is None


def test_a_digest_recognizes_its_secret_and_shows_nothing() -> None:
    digest = SecretDigest.of("secret", "salt")
    key = ApiKey(SK1, digest)
    accounts = Accounts([Account(AC1, digest, (key,))])

    assert digest.matches(b"secret")
    assert not digest.matches(b"Secret")
    assert digest != SecretDigest.of("secret", "pepper")
    assert digest.sha256 not in repr((digest, key))
    assert key.signing_secret is None
    assert accounts.authenticate_basic(None, SK1, "secret") is not None
    assert accounts.authenticate_basic(None, SK1, digest.sha256) is None


def test_accounts_of_a_source_come_and_go() -> None:
    news: list[list[Account] | None] = [[Account(AC2, "two", (ApiKey(SK2, "key"),))], None, None]
    accounts = Accounts([Account(AC1, "one")], lambda: news.pop(0) if news else None)

    assert accounts.by_sid(AC2) is not None
    assert accounts.key(SK2) is not None
    news.append([])
    assert accounts.authenticate_basic(None, SK2, "key") is None
    assert [account.sid for account in accounts.all()] == [AC1]


def test_a_source_takes_no_name_that_is_there() -> None:
    key = ApiKey(SK1, "mine")
    intruders = [Account(AC1, "x"), Account(AC2, "y", (ApiKey(SK1, "theirs"),))]
    accounts = Accounts([Account(AC1, "one", (key,))], lambda: intruders)

    assert accounts.authenticate_basic(None, AC1, "one") is not None
    assert accounts.authenticate_basic(None, SK1, "mine") is not None
    assert accounts.by_sid(AC2) is None


@pytest.mark.parametrize(
    "url", ["https://example.org/jwks", "http://127.0.0.1:9/j", "http://[::1]/"]
)
def test_key_set_urls(url: str) -> None:
    assert ApiKey(SK1, algorithm="ES256", jwks_url=url).jwks_url == url


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/",
        "https://",
        "ftp://x/",
        "https://u:p@x/",
        "https://x:0/",
        "http://[",
        "x",
    ],
)
def test_refused_key_set_urls(url: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        ApiKey(SK1, algorithm="ES256", jwks_url=url)
