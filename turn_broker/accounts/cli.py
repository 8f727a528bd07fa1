"""`parley accounts ...`: makes, shows, rotates and disables what is in the account file.

Servers see a change within a second. A secret is shown once, when it is made. Exit code 2 with one
line on standard error when something cannot be done.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from turn_broker.accounts import making
from turn_broker.accounts.store import (
    AccountFile,
    AccountStore,
    StoredAccount,
    StoredKey,
    StoreError,
)
from turn_broker.accounts.table import AccountLimits
from turn_broker.cli import Refused, config_option
from turn_broker.clock import unix_now
from turn_broker.config import SettingsError, load
from turn_broker.parts import store_of

_Command = TypeVar("_Command", bound=Callable[..., Any])

_json_option = click.option("--json", "is_json", is_flag=True, help="One line of JSON.")
_name_option = click.option("--name", default="", help="For humans only.")


def _limit_options(command: _Command) -> _Command:
    for option in (
        click.option("--max-ttl", "max_ttl_s", type=int, help="Seconds."),
        click.option("--region", "regions", multiple=True, help="May be given several times."),
        click.option("--rate", "per_s", type=float, help="Credentials per second."),
        click.option("--burst", type=int, help="Credentials at once."),
        click.option("--byte-quota", type=int, help="Relayed bytes of all its tokens."),
        click.option("--token-bytes", type=int, help="Relayed bytes of each token."),
        click.option("--identity-bytes", type=int, help="Relayed bytes of one identity."),
        click.option("--allocations", type=int, help="Open relays of one identity."),
        click.option("--hard-expiry", is_flag=True, help="Relays end with their credential."),
        click.option("--bind-address", is_flag=True, help="Good where it was asked for only."),
        click.option("--own-secret", is_flag=True, help="A TURN secret of its own."),
    ):
        command = option(command)
    return command


@click.group("accounts")
def accounts() -> None:
    """Accounts and API keys of the account file (turn.accounts_file)."""


@accounts.command("create")
@config_option
@_name_option
@_limit_options
@_json_option
def create(path: Path | None, name: str, is_json: bool, **limits: Any) -> None:
    """Make an account; prints its SID and its auth token, which is not shown again."""
    with _changing(path) as content:
        account, token = making.create_account(content, name, _limits(limits), unix_now())
    _show({"sid": account.sid, "auth_token": token}, is_json)


@accounts.command("limit")
@config_option
@click.argument("sid")
@_limit_options
@_json_option
def limit(path: Path | None, sid: str, is_json: bool, **limits: Any) -> None:
    """Replace all limits of an account; without options it has none."""
    with _changing(path) as content:
        account = content.account(sid)
        account.limits = _limits(limits)
    _show(_account_row(account), is_json)


@accounts.command("list")
@config_option
@_json_option
def list_(path: Path | None, is_json: bool) -> None:
    """Print every account, one a line."""
    for account in _read(_store(path)).accounts:
        _show(_account_row(account), is_json)


@accounts.command("show")
@config_option
@click.argument("sid")
@_json_option
def show(path: Path | None, sid: str, is_json: bool) -> None:
    """Print one account with its limits and keys, without a secret."""
    account = _found(_store(path), sid)
    keys = [_key_row(key) for key in account.keys]
    limits = {
        name: value
        for name, value in msgspec.to_builtins(account.limits).items()
        if value is not None and value is not False and value != ()
    }
    _show(_account_row(account) | {"limits": limits, "keys": keys}, is_json)


@accounts.command("rotate")
@config_option
@click.argument("sid")
@click.option("--promote", "end", flag_value="promote", help="The secondary replaces the first.")
@click.option("--discard", "end", flag_value="discard", help="Drop the secondary.")
@_json_option
def rotate(path: Path | None, sid: str, end: str | None, is_json: bool) -> None:
    """Make a secondary auth token, good beside the first; later --promote it."""
    shown: dict[str, Any] = {"sid": sid}
    with _changing(path) as content:
        if end is None:
            shown["secondary_auth_token"] = making.begin_rotation(content, sid)
        else:
            making.end_rotation(content, sid, promote=end == "promote")
    _show(shown, is_json)


@accounts.command("disable")
@config_option
@click.argument("sid")
def disable(path: Path | None, sid: str) -> None:
    """Refuse the account and all its keys."""
    with _changing(path) as content:
        content.account(sid).is_enabled = False


@accounts.command("enable")
@config_option
@click.argument("sid")
def enable(path: Path | None, sid: str) -> None:
    """Take a disabled account back."""
    with _changing(path) as content:
        content.account(sid).is_enabled = True


@accounts.group("key")
def key() -> None:
    """API keys."""


@key.command("create")
@config_option
@click.argument("sid")
@_name_option
@click.option("--login-only", is_flag=True, help="Keep only a digest: it cannot sign.")
@click.option(
    "--algorithm", type=click.Choice(["RS256", "ES256", "EdDSA"]), help="Of a public key."
)
@click.option("--public-key", type=click.Path(path_type=Path, dir_okay=False), help="PEM file.")
@click.option("--jwks-url", default="", help="Where the account publishes its keys.")
@_json_option
def key_create(path: Path | None, sid: str, is_json: bool, **options: Any) -> None:
    """Make a key with a secret for the account SID, or register a public key or a key set."""
    name, algorithm = options["name"], options["algorithm"]
    pem_file: Path | None = options["public_key"]
    is_public = pem_file is not None or bool(options["jwks_url"])
    if is_public != (algorithm is not None) or (is_public and options["login_only"]):
        raise Refused("--algorithm goes with --public-key or --jwks-url, and only with them")
    store = _store(path)
    if not is_public and not options["login_only"] and store.seal is None:
        raise Refused("turn.accounts_key is needed for a key that signs; or give --login-only")
    with _changing(path) as content:
        if not is_public:
            seal = None if options["login_only"] else store.seal
            made, secret = making.create_secret_key(content, sid, name, seal, unix_now())
            shown = _key_row(made) | {"secret": secret}
        else:
            made = making.register_public_key(
                content,
                sid,
                name,
                algorithm,
                unix_now(),
                public_key=_read_pem(pem_file) if pem_file else "",
                jwks_url=options["jwks_url"],
            )
            shown = _key_row(made)
    _show(shown, is_json)


@key.command("list")
@config_option
@click.argument("sid")
@_json_option
def key_list(path: Path | None, sid: str, is_json: bool) -> None:
    """Print the keys of an account, one a line."""
    for stored in _found(_store(path), sid).keys:
        _show(_key_row(stored), is_json)


@key.command("disable")
@config_option
@click.argument("key_sid")
def key_disable(path: Path | None, key_sid: str) -> None:
    """Refuse a key."""
    with _changing(path) as content:
        content.key(key_sid)[1].is_enabled = False


@key.command("enable")
@config_option
@click.argument("key_sid")
def key_enable(path: Path | None, key_sid: str) -> None:
    """Take a disabled key back."""
    with _changing(path) as content:
        content.key(key_sid)[1].is_enabled = True


def _store(path: Path | None) -> AccountStore:
    try:
        store = store_of(load(path).turn)
    except SettingsError as flaw:
        raise Refused(str(flaw)) from flaw
    if store is None:
        raise Refused("turn.accounts_file: is not set")
    return store


@contextlib.contextmanager
def _changing(path: Path | None) -> Iterator[AccountFile]:
    try:
        with _store(path).changing() as content:
            yield content
    except StoreError as flaw:
        raise Refused(str(flaw)) from flaw


def _read(store: AccountStore) -> AccountFile:
    try:
        return store.read()
    except StoreError as flaw:
        raise Refused(str(flaw)) from flaw


def _found(store: AccountStore, sid: str) -> StoredAccount:
    try:
        return _read(store).account(sid)
    except StoreError as flaw:
        raise Refused(str(flaw)) from flaw


def _limits(options: dict[str, Any]) -> AccountLimits:
    try:
        return msgspec.convert(options, AccountLimits)
    except msgspec.ValidationError as flaw:
        raise Refused(str(flaw)) from flaw


def _read_pem(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except (OSError, UnicodeError) as flaw:
        raise Refused(f"{path}: is no PEM file") from flaw


def _account_row(account: StoredAccount) -> dict[str, Any]:
    return {
        "sid": account.sid,
        "name": account.name,
        "enabled": account.is_enabled,
        "created_at": account.created_at,
        "rotating": account.secondary is not None,
    }


def _key_row(stored: StoredKey) -> dict[str, Any]:
    return {
        "sid": stored.sid,
        "name": stored.name,
        "enabled": stored.is_enabled,
        "created_at": stored.created_at,
        "kind": stored.kind,
        "algorithm": stored.algorithm,
    }


def _show(row: dict[str, Any], is_json: bool) -> None:
    if is_json:
        click.echo(msgspec.json.encode(row))
        return
    plain = {
        name: msgspec.json.encode(value).decode() if isinstance(value, dict | list) else value
        for name, value in row.items()
    }
    click.echo("  ".join(f"{name}={value}" for name, value in plain.items() if value != ""))
