"""`parley turn mint|verify` and `parley token create|verify`: the broker's words at a shell.

Reads the same settings as the server and needs no running one. A result is one line on standard
output, a refusal one line on standard error with exit code 2.
"""

from __future__ import annotations

import secrets
import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from turn_broker.accounts.access_token import AccessTokens, Grants, TokenRefusal
from turn_broker.accounts.table import Account
from turn_broker.broker import ENTROPY_BYTES, GrantRefusal, Wishes
from turn_broker.clock import unix_now
from turn_broker.config import BrokerSettings, SettingsError, load
from turn_broker.parts import accounts_of, broker_of, ring_of

_GRANT_NAMES = [field.name for field in msgspec.structs.fields(Grants)]


class Refused(click.ClickException):
    """Exit code 2 (failed) with the reason on standard error."""

    exit_code = 2


config_option = click.option(
    "--config",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="parley.toml; the environment (PARLEY_TURN_SECRET, ...) goes over it.",
)
account_option = click.option("--account", "sid", help="Account SID; by default the first one.")


@click.command("mint")
@config_option
@account_option
@click.option("--identity", help="Whose credential; without it, an identity of its own.")
@click.option("--ttl", type=int, help="Seconds.")
@click.option("--region")
def mint(
    path: Path | None, sid: str | None, identity: str | None, ttl: int | None, region: str | None
) -> None:
    """Print ICE servers with a fresh TURN credential, as /v1/ice-servers answers."""
    from turn_broker.http import answer_of

    settings = _load(path)
    try:
        broker = broker_of(settings.turn)
        account = _account(settings, sid)
    except SettingsError as flaw:
        raise Refused(str(flaw)) from flaw
    grant = broker.grant(
        account.sid,
        identity,
        unix_now(),
        wishes=Wishes(ttl=ttl, region=region),
        entropy=secrets.token_bytes(ENTROPY_BYTES),
    )
    if isinstance(grant, GrantRefusal):
        raise Refused(grant.message)
    _print(answer_of(grant))


@click.command("verify")
@config_option
@click.argument("username")
@click.argument("password")
def verify(path: Path | None, username: str, password: str) -> None:
    """Tell whether a TURN credential is good now (PASSWORD `-` reads it from standard input)."""
    settings = _load(path)
    try:
        ring = ring_of(settings.turn)
    except SettingsError as flaw:
        raise Refused(str(flaw)) from flaw
    now = unix_now()
    parsed = ring.verify(username, _argument(password), now)
    if parsed is None:
        raise Refused("the credential has expired or is not of this secret")
    _print({"id": parsed.opaque_id, "expires_in": parsed.expires_at - int(now)})


@click.command("create")
@config_option
@account_option
@click.option("--key", "key_sid", help="API key SID; by default the account's first that can sign.")
@click.option("--identity", required=True)
@click.option("--room", help="Exact name, or a pattern with * and ?.")
@click.option("--name", help="Display name.")
@click.option("--ttl", type=int, default=3600, show_default=True, help="Seconds.")
@click.option("--grant", "granted", multiple=True, type=click.Choice(_GRANT_NAMES))
@click.option("--deny", "denied", multiple=True, type=click.Choice(_GRANT_NAMES))
def create_token(path: Path | None, sid: str | None, key_sid: str | None, **claims: Any) -> None:
    """Print an access token."""
    settings = _load(path)
    granted, denied = claims.pop("granted"), claims.pop("denied")
    wishes = dict.fromkeys(granted, True) | dict.fromkeys(denied, False)
    try:
        account = _account(settings, sid)
        tokens = AccessTokens(accounts_of(settings.accounts))
        signing = [key.sid for key in account.api_keys if key.signing_secret]
        token = tokens.issue(
            account,
            key_sid or next(iter(signing), "SK"),
            claims["identity"],
            room=claims["room"],
            name=claims["name"],
            grants=Grants(**wishes) if wishes else None,
            ttl_s=claims["ttl"],
            now=unix_now(),
        )
    except ValueError as flaw:
        raise Refused(str(flaw)) from flaw
    click.echo(token)


@click.command("verify")
@config_option
@click.argument("token")
def verify_token(path: Path | None, token: str) -> None:
    """Print what an access token allows (TOKEN `-` reads it from standard input)."""
    settings = _load(path)
    try:
        tokens = AccessTokens(accounts_of(settings.accounts))
    except SettingsError as flaw:
        raise Refused(str(flaw)) from flaw
    claims = tokens.verify(_argument(token), unix_now())
    if isinstance(claims, TokenRefusal):
        raise Refused(f"{claims.code}: {claims.message}")
    _print(claims)


def _load(path: Path | None) -> BrokerSettings:
    try:
        return load(path)
    except SettingsError as flaw:
        raise Refused(str(flaw)) from flaw


def _account(settings: BrokerSettings, sid: str | None) -> Account:
    accounts = accounts_of(settings.accounts)
    account = accounts.by_sid(sid or settings.accounts[0].sid)
    if account is None:
        raise SettingsError("accounts", f"no account {sid}")
    return account


def _argument(text: str) -> str:
    return sys.stdin.read().strip() if text == "-" else text


def _print(result: object) -> None:
    click.echo(msgspec.json.encode(result))
