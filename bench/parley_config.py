"""Writes settings and access tokens for a node under load: `parley_config.py DIRECTORY`.

Fresh keys, one HS256 token for each of many identities, every rate as high as it goes. Whatever a
node does for a client in production it does here too: token, TURN credential, limits, log, metrics.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import msgspec

from signal_server.cli.keys import generate
from signal_server.config import Settings
from turn_broker.accounts.access_token import AccessTokens
from turn_broker.config import AccountSettings, ApiKeySettings
from turn_broker.parts import accounts_of

IDENTITIES = 5000
_NO_LIMIT = "{ per_s = 1e6, burst = 1e6 }"


def write(directory: Path) -> None:
    """`parley.toml` and `tokens`, one a line."""
    keys = generate()
    lines = [
        "[server]",
        "port = 0",
        "drain_s = 0.0",
        "[cors]",
        'origins = ["*"]',
        "[turn]",
        f'secret = "{keys.turn_secret}"',
        'urls = ["turn:127.0.0.1:3478?transport=udp", "turn:127.0.0.1:3478?transport=tcp"]',
        "[[accounts]]",
        f'sid = "{keys.account_sid}"',
        f'auth_token = "{keys.auth_token}"',
        "[[accounts.keys]]",
        f'sid = "{keys.key_sid}"',
        f'secret = "{keys.key_secret}"',
        *_issue_rates(),
        *_rates(),
    ]
    (directory / "parley.toml").write_text("\n".join(lines) + "\n")
    key = ApiKeySettings(sid=keys.key_sid, secret=keys.key_secret)
    account = AccountSettings(sid=keys.account_sid, auth_token=keys.auth_token, keys=[key])
    accounts = accounts_of([account])
    tokens = AccessTokens(accounts)
    owner = accounts.by_sid(keys.account_sid)
    assert owner is not None
    issued = (
        tokens.issue(owner, keys.key_sid, f"identity-{number}", now=time.time())
        for number in range(IDENTITIES)
    )
    (directory / "tokens").write_text("\n".join(issued) + "\n")


def _issue_rates() -> list[str]:
    """Otherwise most clients of a storm would get no TURN credential, and be cheaper for it."""
    issue = getattr(Settings().turn, "issue", None)
    names = [field.name for field in msgspec.structs.fields(issue)] if issue is not None else []
    rates = [name for name in names if name.endswith(("_per_s", "_burst"))]
    return ["[turn.issue]", *(f"{name} = 1_000_000" for name in rates)] if rates else []


def _rates() -> list[str]:
    """Every rate of every scope; none in a version that has no such section."""
    rates = getattr(Settings(), "rates", None)
    lines: list[str] = []
    for scope in msgspec.structs.fields(rates) if rates is not None else ():
        section = getattr(rates, scope.name)
        if isinstance(section, msgspec.Struct):
            lines.append(f"[rates.{scope.name}]")
            lines += [f"{rate.name} = {_NO_LIMIT}" for rate in msgspec.structs.fields(section)]
    return lines


if __name__ == "__main__":
    write(Path(sys.argv[1]))
