"""Settings of a deployment: precedence, and that every flaw names its key."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from signal_server.cli.main import parley
from signal_server.config import Settings, check, load
from signal_server.wire.limits import Limits
from turn_broker.config import SettingsError

AC1, SK1 = "AC" + "1" * 32, "SK" + "1" * 32
S1, S2, S3, S4, S5 = (f"{n}-0123456789abcdef0123456789abcdef" for n in "12345")
FILE = f"""
[server]
port = 9000
admin_token = "{S4}"

[node]
region = "eu"

[cors]
origins = ["https://app.test"]

[turn]
secret = "{S1}"
urls = ["turn:turn.test"]

[limits]
peers_per_room = 5

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


def test_file_over_defaults(path: Path) -> None:
    settings = load(path, {})
    check(settings)

    assert (settings.server.port, settings.server.host) == (9000, "127.0.0.1")
    assert (settings.node.region, settings.node.name) == ("eu", "node1")
    assert settings.limits == Limits(peers_per_room=5)
    assert load(None, {}) == Settings()


def test_environment_over_file(path: Path, tmp_path: Path) -> None:
    secret = tmp_path / "admin"
    secret.write_text(S5 + "\n")
    settings = load(
        path,
        {
            "PARLEY_SERVER_PORT": "9001",
            "PARLEY_SERVER_HOST": "::1",
            "PARLEY_NODE_NAME": "7",
            "PARLEY_CORS_ORIGINS": "https://a.test, https://b.test,",
            "PARLEY_LIMITS_EARLY_TTL_S": "1.5",
            "PARLEY_TURN_REALM": "realm",
            "PARLEY_ACCOUNTS_AUTH_TOKEN": S5,
            "PARLEY_LOG_LEVEL": "debug",
        },
    )
    assert (settings.server.port, settings.server.host, settings.node.name) == (9001, "::1", "7")
    assert settings.cors.origins == ["https://a.test", "https://b.test"]
    assert (settings.limits.early_ttl_s, settings.limits.peers_per_room) == (1.5, 5)
    assert (settings.turn.realm, settings.turn.secret) == ("realm", S1)
    assert settings.accounts[0].auth_token == S5
    assert settings.log.level == "debug"

    (tmp_path / "bare.toml").write_text(FILE.replace(f'admin_token = "{S4}"', ""))
    settings = load(tmp_path / "bare.toml", {"PARLEY_SERVER_ADMIN_TOKEN_FILE": str(secret)})
    assert settings.server.admin_token == S5


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[server]\nprot = 1", "server.prot"),
        ("[sever]\nport = 1", "sever"),
        ("[limits]\npeers = 1", "limits.peers"),
        ("[turn]\nurl = 'turn:x'", "turn.url"),
        ("[server]\nport = 'http'", "server.port"),
        ("[server]\nport = 65536", "server.port"),
        ("[server]\ndrain_s = -1", "server.drain_s"),
        ("[node]\nname = 'a b'", "node.name"),
        ("[log]\nlevel = 'loud'", "log.level"),
        ("[cors]\norigins = '*'", "cors.origins"),
        ("[[accounts]]\nsid = 'AC'", "accounts[0].auth_token"),
        ("server = 1", "server"),
    ],
)
def test_flaws_of_a_file(tmp_path: Path, text: str, key: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(SettingsError) as flaw:
        load(path, {})
    assert flaw.value.key == key


@pytest.mark.parametrize("content", [None, b"[server", b"\xff\xfe"])
def test_files_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "bad.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError) as flaw:
        load(path, {})
    assert flaw.value.key == str(path)


@pytest.mark.parametrize(
    ("variables", "key"),
    [
        ({"PARLEY_SERVER_PORT": "http"}, "server.port"),
        ({"PARLEY_LIMITS_PEERS_PER_ROOM": "1.5"}, "limits.peers_per_room"),
        ({"PARLEY_SERVER_ADMIN_TOKEN_FILE": "/nowhere"}, "PARLEY_SERVER_ADMIN_TOKEN_FILE"),
        (
            {"PARLEY_SERVER_HOST": "a", "PARLEY_SERVER_HOST_FILE": "/nowhere"},
            "PARLEY_SERVER_HOST",
        ),
    ],
)
def test_flaws_of_the_environment(variables: dict[str, str], key: str) -> None:
    with pytest.raises(SettingsError) as flaw:
        load(None, variables)
    assert flaw.value.key == key


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        (S1, "changeme-changeme-changeme-changeme", "turn.secret"),
        (S1, "", "turn.secret"),
        (S2, "short", "accounts[0].auth_token"),
        (S3, "example-" + S3, "accounts[0].keys[0].secret"),
        (S4, "a" * 40, "server.admin_token"),
        ('urls = ["turn:turn.test"]', "", "turn.urls"),
        ('urls = ["turn:turn.test"]', 'urls = ["http://x"]', "turn.urls"),
        ("https://app.test", "app.test", "cors.origins"),
        (AC1, "AC1", "accounts[0].sid"),
        ("[[accounts]]", "[[nobody]]", "nobody"),
    ],
)
def test_what_production_may_not_start_with(path: Path, old: str, new: str, key: str) -> None:
    text = FILE.replace(old, new)
    if key == "nobody":
        text = text[: text.index("[[nobody]]")]
        key = "accounts"
    path.write_text(text)
    with pytest.raises(SettingsError) as flaw:
        check(load(path, {}))
    assert flaw.value.key == key


@pytest.mark.parametrize(
    "name", [name for name in Limits.__struct_fields__ if name != "resume_window_s"]
)
@pytest.mark.parametrize("value", ["0", "-1"])
def test_a_limit_of_zero_is_not_unlimited(path: Path, name: str, value: str) -> None:
    settings = load(path, {f"PARLEY_LIMITS_{name.upper()}": value})
    with pytest.raises(SettingsError) as flaw:
        check(settings)
    assert flaw.value.key == f"limits.{name}"


class TestCommand:
    def test_check(self, path: Path) -> None:
        good = CliRunner().invoke(parley, ["config", "check", "--config", str(path)])
        assert (good.exit_code, good.output) == (0, "settings are good\n")
        path.write_text(FILE.replace(S1, ""))
        bad = CliRunner().invoke(parley, ["config", "check", "--config", str(path)])
        assert bad.exit_code == 2
        assert "turn.secret" in bad.output

    def test_show_masks_every_secret(self, path: Path) -> None:
        shown = CliRunner().invoke(parley, ["config", "show", "--config", str(path)])
        assert shown.exit_code == 0
        for secret in (S1, S2, S3, S4):
            assert secret not in shown.output
        settings = json.loads(shown.output)
        assert settings["turn"]["secret"] == settings["server"]["admin_token"] == "***"
        assert settings["turn"]["identity_secret"] == ""
        assert settings["accounts"][0]["sid"] == AC1

    def test_defaults_are_all_keys(self) -> None:
        shown = CliRunner().invoke(parley, ["config", "defaults"])
        assert msgspec.convert(json.loads(shown.output), Settings) == Settings()

    def test_the_default_file(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(path.parent)
        assert CliRunner().invoke(parley, ["config", "check"]).exit_code == 0
        path.unlink()
        assert CliRunner().invoke(parley, ["config", "check"]).exit_code == 2


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(
    "key",
    ["limits.early_ttl_s", "limits.resume_window_s", "guesses.window_s", "calls.lifetime_s"],
)
def test_a_number_that_is_none_is_refused(path: Path, key: str, value: str) -> None:
    section, _, name = key.partition(".")
    with pytest.raises(SettingsError, match=re.escape(key)):
        check(load(path, {f"PARLEY_{section.upper()}_{name.upper()}": value}))


def test_a_resume_window_below_zero_is_refused(path: Path) -> None:
    check(load(path, {"PARLEY_LIMITS_RESUME_WINDOW_S": "0"}))
    with pytest.raises(SettingsError, match=r"limits\.resume_window_s"):
        check(load(path, {"PARLEY_LIMITS_RESUME_WINDOW_S": "-1"}))


def test_what_decides_in_glare(path: Path) -> None:
    settings = load(path, {"PARLEY_NEGOTIATION_GLARE": "arbitrate"})
    assert settings.negotiation.glare == "arbitrate"
    with pytest.raises(SettingsError, match=r"negotiation\.glare"):
        load(path, {"PARLEY_NEGOTIATION_GLARE": "both"})


@pytest.mark.parametrize(
    "name",
    [
        "PARLEY_SERVER_PROT",
        "PARLEY_TURN_SECRETS",
        "PARLEY_ACCOUNTS_TOKEN",
        "PARLEY_BACKPLANE_URLS",
        "PARLEY_PROBES_PEER_FILE",
    ],
)
def test_a_variable_that_no_key_reads_is_refused_by_name(name: str) -> None:
    with pytest.raises(SettingsError, match=f"{name}: unknown key"):
        load(None, {name: "1"})


@pytest.mark.parametrize(
    "name", ["PARLEY_LONG", "PARLEY_IMAGE", "OTHER_SERVER_PROT", "PARLEY_COMPILE"]
)
def test_other_variables_are_nobody_elses_business(name: str) -> None:
    load(None, {name: "1"})
