"""Key material: made, kept once, and fit for the settings that it prints."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import click
import msgspec
import pytest
from click.testing import CliRunner

from signal_server.cli import keys as key_material
from signal_server.cli.main import parley
from signal_server.config import check, load

URLS = {"PARLEY_TURN_URLS": "turn:turn.test"}


def generated(style: str) -> str:
    result = CliRunner().invoke(parley, ["keys", "generate", "--format", style])
    assert result.exit_code == 0
    return result.stdout


def test_printed_environment_is_good_for_production() -> None:
    variables = dict(line.split("=", 1) for line in generated("env").splitlines())
    settings = load(None, {**variables, **URLS})
    check(settings)
    assert settings.accounts[0].keys[0].secret == variables["PARLEY_ACCOUNTS_KEY_SECRET"]


def test_printed_file_is_good_for_production(tmp_path: Path) -> None:
    path = tmp_path / "parley.toml"
    path.write_text(generated("toml"))
    settings = load(path, URLS)
    check(settings)
    assert settings.accounts[0].keys[0].sid.startswith("SK")


def test_printed_json_is_every_key() -> None:
    made = json.loads(generated("json"))
    assert set(made) == set(key_material.Keys.__struct_fields__)
    assert len(set(made.values())) == len(made)
    assert made != json.loads(generated("json"))


def test_kept_keys_are_made_once_and_only_for_their_owner(tmp_path: Path) -> None:
    state = tmp_path / "a" / "state"
    first = key_material.kept(state)
    assert key_material.kept(state) == first
    assert [entry.name for entry in state.iterdir()] == ["keys.json"]
    assert stat.S_IMODE((state / "keys.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(state.stat().st_mode) == 0o700


def test_a_node_that_lost_the_race_takes_the_winners_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    winners, losers = key_material.generate(), key_material.generate()

    def beaten() -> key_material.Keys:
        (tmp_path / "keys.json").write_bytes(msgspec.json.encode(winners))
        return losers

    monkeypatch.setattr(key_material, "generate", beaten)
    assert key_material.kept(tmp_path) == winners
    assert [entry.name for entry in tmp_path.iterdir()] == ["keys.json"]


def test_damaged_keys_are_named(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("{")
    with pytest.raises(click.ClickException, match=r"keys\.json is damaged"):
        key_material.kept(tmp_path)
