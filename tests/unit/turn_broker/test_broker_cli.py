"""The broker's commands, run in process with real settings files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from turn_broker.cli import create_token, mint, verify, verify_token

AC1, SK1 = "AC" + "1" * 32, "SK" + "1" * 32
CONFIG = f"""
[turn]
secret = "1-0123456789abcdef0123456789abcdef"
urls = ["turn:h"]
[[accounts]]
sid = "{AC1}"
auth_token = "2-0123456789abcdef0123456789abcdef"
[[accounts.keys]]
sid = "{SK1}"
secret = "3-0123456789abcdef0123456789abcdef"
"""


@pytest.fixture
def config(tmp_path: Path) -> list[str]:
    path = tmp_path / "parley.toml"
    path.write_text(CONFIG)
    return ["--config", str(path)]


def succeeded(result: Result) -> str:
    assert result.exit_code == 0, result.stderr
    return result.stdout.strip()


def test_a_minted_credential_verifies(config: list[str]) -> None:
    run = CliRunner().invoke
    server = json.loads(succeeded(run(mint, [*config, "--identity", "alice", "--ttl", "90"])))
    turn = server["iceServers"][0]

    good = succeeded(run(verify, [*config, turn["username"], "-"], input=turn["credential"]))
    bad = run(verify, [*config, turn["username"], "nonsense"])

    assert json.loads(good)["id"] == server["id"]
    assert (bad.exit_code, bad.stdout) == (2, "")
    assert "expired" in bad.stderr


def test_a_created_token_verifies(config: list[str]) -> None:
    run = CliRunner().invoke
    wishes = ["--identity", "alice", "--room", "r-*", "--grant", "admin", "--deny", "call"]
    token = succeeded(run(create_token, [*config, *wishes]))

    claims = json.loads(succeeded(run(verify_token, [*config, "-"], input=token)))
    bad = run(verify_token, [*config, token + "x"])

    assert (claims["identity"], claims["room"], claims["account_sid"]) == ("alice", "r-*", AC1)
    assert (claims["grants"]["admin"], claims["grants"]["call"]) == (True, False)
    assert bad.exit_code == 2
    assert token not in bad.stderr


def test_refusals_are_one_line(config: list[str], tmp_path: Path) -> None:
    run = CliRunner().invoke
    empty = tmp_path / "empty.toml"
    empty.write_text("")
    results = [
        run(mint, [*config, "--ttl", "5"]),
        run(mint, [*config, "--account", "AC" + "9" * 32]),
        run(mint, ["--config", str(empty)]),
        run(verify, ["--config", str(empty), "a", "b"]),
        run(verify_token, ["--config", str(empty), "a"]),
        run(verify_token, ["--config", str(tmp_path / "missing"), "a"]),
        run(create_token, [*config, "--identity", ""]),
        run(create_token, [*config, "--identity", "a", "--key", "SK"]),
    ]
    for result in results:
        assert (result.exit_code, result.stdout) == (2, "")
        assert len(result.stderr.splitlines()) == 1
