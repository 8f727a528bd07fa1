"""The account file: at rest, changing, and seen by servers; and the commands that write it."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from turn_broker.accounts import making
from turn_broker.accounts.access_token import AccessTokens, Claims, TokenRefusal
from turn_broker.accounts.cli import accounts as cli
from turn_broker.accounts.store import AccountStore, StoreError
from turn_broker.accounts.table import Account, AccountLimits, Accounts
from turn_broker.sealing import NONCE_BYTES, Seal

NOW = 1_800_000_000
AC9 = "AC" + "9" * 32
SECRETS = tuple(f"{n}-0123456789abcdef0123456789abcdef" for n in "abcd")
SEAL = Seal(SECRETS[0])


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> AccountStore:
    return AccountStore(tmp_path / "accounts.json", SEAL, Clock())


def look_again(store: AccountStore) -> None:
    clock = store._clock
    assert isinstance(clock, Clock)
    clock.now += 1.01


def made(store: AccountStore) -> tuple[str, str, str, str]:
    """SID, auth token, key SID and key secret of a new account."""
    with store.changing() as content:
        account, token = making.create_account(content, "shop", AccountLimits(per_s=5), NOW)
        key, secret = making.create_secret_key(content, account.sid, "web", store.seal, NOW)
    return account.sid, token, key.sid, secret


def test_nothing_that_logs_in_is_in_the_file(store: AccountStore) -> None:
    sid, token, key_sid, secret = made(store)
    with store.changing() as content:
        login, other = making.create_secret_key(content, sid, "", None, NOW)

    text = store.path.read_text()

    assert not any(word in text for word in (token, secret, other))
    assert store.path.stat().st_mode & 0o777 == 0o600
    assert not list(store.path.parent.glob(".accounts*"))
    (account,) = store.accounts()
    assert (account.sid, account.limits.per_s) == (sid, 5)
    keys = {key.sid: key for key in account.api_keys}
    assert keys[key_sid].signing_secret == secret
    assert keys[login.sid].signing_secret is None
    table = Accounts([account])
    for name, password in ((sid, token), (key_sid, secret), (login.sid, other)):
        assert table.authenticate_basic(sid, name, password) == account


def test_a_running_server_sees_every_change(store: AccountStore) -> None:
    table = Accounts([Account(AC9, "fixed")], store.changed)
    tokens = AccessTokens(table)
    sid, token, key_sid, _ = made(store)
    assert table.by_sid(sid) is None  # not looked at again within a second
    look_again(store)
    account = table.by_sid(sid)
    assert account is not None
    jwt = tokens.issue(account, key_sid, "alice", now=NOW)
    assert isinstance(tokens.verify(jwt, NOW), Claims)

    with store.changing() as content:
        second = making.begin_rotation(content, sid)
    look_again(store)
    assert table.authenticate_basic(None, sid, token) is not None
    assert table.authenticate_basic(None, sid, second) is not None
    with store.changing() as content:
        making.end_rotation(content, sid, promote=True)
    look_again(store)
    assert table.authenticate_basic(None, sid, token) is None
    assert table.authenticate_basic(None, sid, second) is not None

    with store.changing() as content:
        content.key(key_sid)[1].is_enabled = False
    look_again(store)
    assert isinstance(tokens.verify(jwt, NOW), TokenRefusal)
    with store.changing() as content:
        content.account(sid).is_enabled = False
    look_again(store)
    assert table.by_sid(sid) is None
    assert table.by_sid(AC9) is not None


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff", b'{"format": 2}', b'{"format": 1, "more": 1}', b"[" * 5000],
)
def test_a_broken_file_leaves_the_former_accounts(store: AccountStore, content: bytes) -> None:
    sid, *_ = made(store)
    table = Accounts([], store.changed)
    store.path.write_bytes(content)
    look_again(store)

    assert table.by_sid(sid) is not None
    assert store.failures == 1
    with pytest.raises(StoreError):
        store.accounts()
    store.path.unlink()
    look_again(store)
    assert table.by_sid(sid) is not None


def test_two_writers_lose_nothing(store: AccountStore) -> None:
    def write() -> None:
        own = AccountStore(store.path, SEAL)
        for _ in range(10):
            with own.changing() as content:
                making.create_account(content, "", AccountLimits(), NOW)

    writers = [threading.Thread(target=write) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()

    content = store.read()
    assert len(content.accounts) == content.revision == 40


def test_a_change_that_fails_is_not_written(store: AccountStore) -> None:
    sid, *_ = made(store)
    before = store.path.read_bytes()

    with pytest.raises(StoreError, match="is no ES256"), store.changing() as content:
        making.register_public_key(content, sid, "", "ES256", NOW, public_key="PEM")
    with pytest.raises(StoreError, match="https"), store.changing() as content:
        making.register_public_key(content, sid, "", "ES256", NOW, jwks_url="http://example.org")
    with pytest.raises(StoreError, match="printable"), store.changing() as content:
        making.create_account(content, "a\nb", AccountLimits(), NOW)
    content = store.read()
    for _ in range(63):
        making.create_secret_key(content, sid, "", SEAL, NOW)
    with pytest.raises(StoreError, match="64 keys"):
        making.create_secret_key(content, sid, "", SEAL, NOW)

    assert store.path.read_bytes() == before


def test_another_key_opens_nothing(store: AccountStore) -> None:
    made(store)

    for seal in (None, Seal(SECRETS[1])):
        with pytest.raises(StoreError, match="accounts_key"):
            AccountStore(store.path, seal).accounts()


def test_sealed_secrets_stay_where_they_are() -> None:
    sealed = SEAL.close("secret", "SK1", b"n" * NONCE_BYTES)

    assert SEAL.open(sealed, "SK1") == "secret"
    assert SEAL.open(sealed, "SK2") is None
    for broken in ("", "x", "é", sealed[:-4], "AAAA" + sealed[4:]):
        assert SEAL.open(broken, "SK1") is None


# The commands


@pytest.fixture
def run(tmp_path: Path) -> Any:
    config = tmp_path / "parley.toml"
    config.write_text(
        f'[turn]\nsecret = "{SECRETS[0]}"\nurls = ["turn:t"]\n'
        f'accounts_file = "{tmp_path}/accounts.json"\naccounts_key = "{SECRETS[1]}"\n'
        f'[[accounts]]\nsid = "{AC9}"\nauth_token = "{SECRETS[2]}"\n'
    )

    def invoke(*words: str) -> Result:
        path = ["--config", str(config)]
        return CliRunner().invoke(cli, [*words, *path])

    return invoke


def rows(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_commands(run: Any, tmp_path: Path) -> None:
    (account,) = rows(run("create", "--name", "shop", "--rate", "3", "--region", "eu", "--json"))
    sid = account["sid"]
    (key,) = rows(run("key", "create", sid, "--json"))
    (login,) = rows(run("key", "create", sid, "--login-only", "--json"))
    private = ec.generate_private_key(ec.SECP256R1())
    pem = tmp_path / "key.pem"
    pem.write_bytes(
        private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    rows(run("key", "create", sid, "--algorithm", "ES256", "--public-key", str(pem), "--json"))
    url = "https://example.org/jwks"
    rows(run("key", "create", sid, "--algorithm", "RS256", "--jwks-url", url, "--json"))

    listed = rows(run("key", "list", sid, "--json"))
    assert [row["kind"] for row in listed] == ["signing", "login", "public", "jwks"]
    (shown,) = rows(run("show", sid, "--json"))
    assert shown["limits"] == {"regions": ["eu"], "per_s": 3}
    everything = run("show", sid).output + run("list").output + run("key", "list", sid).output
    for secret in (account["auth_token"], key["secret"], login["secret"]):
        assert secret not in everything

    (rotated,) = rows(run("rotate", sid, "--json"))
    assert len(rotated["secondary_auth_token"]) == 64
    assert run("rotate", sid).exit_code == 2
    assert run("rotate", sid, "--discard").exit_code == 0
    assert run("rotate", sid, "--promote").exit_code == 2
    for words, enabled in ((("disable", sid), False), (("enable", sid), True)):
        assert run(*words).exit_code == 0
        assert rows(run("list", "--json"))[0]["enabled"] is enabled
    for word, enabled in (("disable", False), ("enable", True)):
        assert run("key", word, key["sid"]).exit_code == 0
        assert rows(run("key", "list", sid, "--json"))[0]["enabled"] is enabled
    assert run("limit", sid, "--max-ttl", "600").exit_code == 0
    assert rows(run("show", sid, "--json"))[0]["limits"] == {"max_ttl_s": 600}


@pytest.mark.parametrize(
    "words",
    [
        ("show", "AC1"),
        ("disable", "AC1"),
        ("key", "disable", "SK1"),
        ("key", "create", "AC1"),
        ("key", "create", "AC1", "--algorithm", "RS256"),
        ("key", "create", "AC1", "--jwks-url", "https://x"),
        ("key", "create", "AC1", "--algorithm", "RS256", "--public-key", "/nowhere.pem"),
        ("create", "--rate", "-1"),
        ("create", "--name", "x" * 200),
    ],
)
def test_what_cannot_be_done_is_one_line(run: Any, words: tuple[str, ...]) -> None:
    result = run(*words)

    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: ")
    assert len(result.stderr.splitlines()) == 1


def test_without_a_file_nothing_can_be_done(tmp_path: Path) -> None:
    config = tmp_path / "parley.toml"
    config.write_text(f'[turn]\nsecret = "{SECRETS[0]}"\n')
    result = CliRunner().invoke(cli, ["list", "--config", str(config)])

    assert (result.exit_code, result.stderr) == (2, "Error: turn.accounts_file: is not set\n")
