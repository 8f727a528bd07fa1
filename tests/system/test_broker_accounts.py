"""A running broker follows the account file that `parley accounts` writes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from brokers import RunningBroker, start_broker
from click.testing import CliRunner
from twilio.base.exceptions import TwilioRestException
from twilio.rest import Client

from turn_broker.accounts.cli import accounts

DEADLINE_S = 10.0


def status_of(broker: RunningBroker, sid: str, user: str, password: str) -> int:
    client = Client(user, password, account_sid=sid)
    client.api.base_url = broker.url
    try:
        client.tokens.create()
    except TwilioRestException as refused:
        return int(refused.status)
    return 201


def becomes(broker: RunningBroker, status: int, *who: str) -> bool:
    """Within the deadline; servers look at the file once a second."""
    sid, user, password = who
    until = time.monotonic() + DEADLINE_S
    while status_of(broker, sid, user, password) != status:
        if time.monotonic() > until:
            return False
        # Each refusal counts as a guess, and the tenth would shut this address out.
        time.sleep(0.7)
    return True


def test_a_running_broker_follows_the_account_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TWILIO_EDGE", "TWILIO_REGION", "HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    extra = {
        "PARLEY_TURN_ACCOUNTS_FILE": str(tmp_path / "accounts.json"),
        "PARLEY_TURN_ACCOUNTS_KEY": "k-0123456789abcdef0123456789abcdef",
    }
    for name, value in extra.items():
        monkeypatch.setenv(name, value)

    def run(*words: str) -> Any:
        result = CliRunner().invoke(accounts, words)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout) if result.stdout else None

    with start_broker("turn:192.0.2.1", extra=extra) as broker:
        made = run("create", "--json")
        sid, token = made["sid"], made["auth_token"]
        key = run("key", "create", sid, "--json")
        assert becomes(broker, 201, sid, sid, token)
        assert becomes(broker, 201, sid, key["sid"], key["secret"])

        second = run("rotate", sid, "--json")["secondary_auth_token"]
        assert becomes(broker, 201, sid, sid, second)
        assert status_of(broker, sid, sid, token) == 201
        run("rotate", sid, "--promote", "--json")
        assert becomes(broker, 401, sid, sid, token)
        assert status_of(broker, sid, sid, second) == 201

        run("key", "disable", key["sid"])
        assert becomes(broker, 401, sid, key["sid"], key["secret"])
        run("disable", sid)
        assert becomes(broker, 401, sid, sid, second)
