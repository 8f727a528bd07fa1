"""Settings: where they come from, and that every flaw names its key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from turn_broker.config import BrokerSettings, SettingsError, TurnSettings, convert, load
from turn_broker.parts import accounts_of, broker_of, node_list_of, nodes_of, ring_of

AC1, SK1 = "AC" + "1" * 32, "SK" + "1" * 32
S1, S2, S3, S4 = (f"{n}-0123456789abcdef0123456789abcdef" for n in "1234")
FILE = f"""
[server]
port = 1
workers = 2

[backplane]
url = "redis://x"

[turn]
secret = "{S1}"
min_ttl_s = 30

[[turn.nodes]]
id = "a"
region = "eu"
urls = ["turn:a"]

[[accounts]]
sid = "{AC1}"
auth_token = "{S2}"

[[accounts.keys]]
sid = "{SK1}"
secret = "{S3}"
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "parley.toml"
    path.write_text(FILE)
    return path


def test_file(path: Path) -> None:
    settings = load(path, {})

    assert settings.server.port == 1
    assert settings.turn.min_ttl_s == 30
    assert [node.region for node in nodes_of(settings.turn)] == ["eu"]
    assert accounts_of(settings.accounts).key(SK1) is not None
    assert broker_of(settings.turn).policy.min_ttl_s == 30


def test_environment_goes_over_the_file(path: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(S4 + "\n")

    settings = load(
        path,
        {
            "PARLEY_SERVER_PORT": "2",
            "PARLEY_SERVER_HOST": "::",
            "PARLEY_TURN_SECRET_FILE": str(secret),
            "PARLEY_TURN_RETIRING_SECRETS": f"{S1}, {S2}",
            "PARLEY_TURN_MIN_TTL_S": "1",
            "PARLEY_TURN_URLS": "turn:b, turns:b:443",
            "PARLEY_ACCOUNTS_AUTH_TOKEN": S1,
            "PARLEY_ACCOUNTS_KEY_SECRET": S2,
        },
    )

    assert (settings.server.host, settings.server.port) == ("::", 2)
    assert ring_of(settings.turn).accepted(0) == (S4, S1, S2)
    assert settings.turn.min_ttl_s == 1
    assert [node.id for node in nodes_of(settings.turn)] == ["default", "a"]
    account = accounts_of(settings.accounts).by_sid(AC1)
    assert account is not None
    assert (account.auth_token, account.api_keys[0].secret) == (S1, S2)


def test_environment_without_a_key_keeps_the_files(path: Path) -> None:
    settings = load(path, {"PARLEY_ACCOUNTS_AUTH_TOKEN": S1})

    assert settings.accounts[0].auth_token == S1
    assert settings.accounts[0].keys[0].secret == S3


def test_environment_alone() -> None:
    settings = load(
        None,
        {
            "PARLEY_TURN_SECRET": S1,
            "PARLEY_TURN_URLS": "turn:b",
            "PARLEY_ACCOUNTS_SID": AC1,
            "PARLEY_ACCOUNTS_AUTH_TOKEN": S2,
            "PARLEY_ACCOUNTS_KEY_SID": SK1,
            "PARLEY_ACCOUNTS_KEY_SECRET": S3,
        },
    )

    assert accounts_of(settings.accounts).key(SK1) is not None
    assert ring_of(settings.turn).active == S1


@pytest.mark.parametrize(
    ("raw", "key"),
    [
        ({"turn": {"sceret": S1}}, "turn.sceret"),
        ({"turn": {"secret": 5}}, "turn.secret"),
        ({"turn": {"nodes": [{"id": "a b", "urls": ["turn:h"]}]}}, "turn.nodes[0].id"),
        ({"turn": {"nodes": [{"id": "a"}]}}, "turn.nodes[0].urls"),
        ({"accounts": [{"sid": AC1}]}, "accounts[0].auth_token"),
        ({"server": {"port": 70000}}, "server.port"),
        ({"turn": 5}, "turn"),
    ],
)
def test_shape(raw: dict[str, Any], key: str) -> None:
    with pytest.raises(SettingsError) as caught:
        convert(raw, BrokerSettings)

    assert caught.value.key == key


@pytest.mark.parametrize(
    ("environment", "key"),
    [
        ({"PARLEY_TURN_MIN_TTL_S": "soon"}, "turn.min_ttl_s"),
        ({"PARLEY_TURN_SECRET_FILE": "/nowhere"}, "PARLEY_TURN_SECRET_FILE"),
        ({"PARLEY_TURN_SECRET_FILE": "/x", "PARLEY_TURN_SECRET": S1}, "PARLEY_TURN_SECRET"),
        ({"PARLEY_SERVER_PORT": "http"}, "server.port"),
    ],
)
def test_environment_flaws(path: Path, environment: dict[str, str], key: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(path, environment)

    assert caught.value.key == key


@pytest.mark.parametrize("text", ["turn = 5", "accounts = 5", "accounts = [5]", "[", "\x00"])
def test_file_flaws(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(SettingsError):
        load(path, {"PARLEY_TURN_SECRET": S1, "PARLEY_ACCOUNTS_SID": AC1})
    with pytest.raises(SettingsError):
        load(tmp_path / "missing.toml", {})


@pytest.mark.parametrize(
    ("turn", "key"),
    [
        ({}, "turn.secret"),
        ({"secret": "short"}, "turn.secret"),
        ({"secret": "a" * 40}, "turn.secret"),
        ({"secret": "CHANGEME-0123456789abcdef0123456789"}, "turn.secret"),
        ({"secret": "example-0123456789abcdef0123456789"}, "turn.secret"),
        ({"retiring_secrets": ["x"]}, "turn.retiring_secrets[0]"),
        ({"identity_secret": "x"}, "turn.identity_secret"),
        ({"urls": []}, "turn.urls"),
        ({"urls": ["turn:h:53"]}, "turn.urls"),
        ({"urls": ["stun:h"]}, "turn.urls"),
        ({"nodes": [{"id": "a", "urls": ["http://h"]}]}, "turn.nodes[0].urls"),
        ({"nodes": [{"id": "default", "urls": ["turn:h"]}]}, "turn.nodes"),
        ({"min_ttl_s": 0}, "turn"),
        ({"max_urls": 9}, "turn"),
    ],
)
def test_turn_flaws(turn: dict[str, Any], key: str) -> None:
    base: dict[str, Any] = {"urls": ["turn:h"]} | ({"secret": S1} if turn else {})
    with pytest.raises(SettingsError) as caught:
        broker_of(convert(base | turn, TurnSettings))

    assert caught.value.key == key


@pytest.mark.parametrize(
    ("accounts", "key"),
    [
        ([], "accounts"),
        ([{"sid": "AC1", "auth_token": S1}], "accounts[0].sid"),
        ([{"sid": AC1, "auth_token": "tok"}], "accounts[0].auth_token"),
        ([{"sid": AC1, "auth_token": S1}] * 2, "accounts"),
        (
            [{"sid": AC1, "auth_token": S1, "keys": [{"sid": SK1, "secret": "x"}]}],
            "accounts[0].keys[0].secret",
        ),
        (
            [{"sid": AC1, "auth_token": S1, "keys": [{"sid": "SK", "secret": S2}]}],
            "accounts[0].keys[0]",
        ),
        (
            [{"sid": AC1, "auth_token": S1, "keys": [{"sid": SK1, "algorithm": "RS256"}]}],
            "accounts[0].keys[0]",
        ),
    ],
)
def test_account_flaws(accounts: list[dict[str, Any]], key: str) -> None:
    with pytest.raises(SettingsError) as caught:
        accounts_of(convert({"accounts": accounts}, BrokerSettings).accounts)

    assert caught.value.key == key


def test_the_relay_can_hand_in_its_own_node(path: Path) -> None:
    settings = load(path, {})
    nodes = nodes_of(settings.turn)

    assert node_list_of(TurnSettings(secret=S1), nodes).nodes == tuple(nodes)


def test_secrets_do_not_show(path: Path) -> None:
    assert not any(secret in repr(load(path, {})) for secret in (S1, S2, S3))


def test_browsers_and_proxies_of_a_broker_alone(path: Path) -> None:
    with path.open("a") as file:
        file.write('[cors]\norigins = ["https://a.example.org"]\n[guesses]\nfailures = 3\n')
    settings = load(path, {"PARLEY_SERVER_TRUSTED_PROXIES": "10.0.0.1, 10.0.0.2"})

    assert settings.cors.origins == ["https://a.example.org"]
    assert settings.guesses.failures == 3
    assert settings.server.trusted_proxies == ["10.0.0.1", "10.0.0.2"]
    both = load(path, {"PARLEY_CORS_ORIGINS": "https://b.example.org,http://127.0.0.1:3000"})
    assert both.cors.origins == ["https://b.example.org", "http://127.0.0.1:3000"]
    assert load(path, {"PARLEY_CORS_ORIGINS": "*"}).cors.origins == ["*"]


@pytest.mark.parametrize(
    ("environment", "key"),
    [
        ({"PARLEY_CORS_ORIGINS": "https://a.example.org/"}, "cors.origins"),
        ({"PARLEY_CORS_ORIGINS": "a.example.org"}, "cors.origins"),
        ({"PARLEY_CORS_ORIGIN": "https://a.example.org"}, "PARLEY_CORS_ORIGIN"),
    ],
)
def test_origins_that_no_browser_sends(path: Path, environment: dict[str, str], key: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(path, environment)

    assert caught.value.key == key
