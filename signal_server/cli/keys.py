"""`parley keys generate`, and the key material that `parley dev` keeps in its state directory."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

import click
import msgspec

from turn_broker.cli import Refused


class Keys(msgspec.Struct, frozen=True):
    """Everything secret that a deployment needs."""

    account_sid: str
    auth_token: str
    key_sid: str
    key_secret: str
    admin_token: str
    turn_secret: str
    identity_secret: str = ""


def generate() -> Keys:
    """Fresh random keys."""
    return Keys(
        account_sid=f"AC{secrets.token_hex(16)}",
        auth_token=secrets.token_hex(32),
        key_sid=f"SK{secrets.token_hex(16)}",
        key_secret=secrets.token_hex(32),
        admin_token=secrets.token_hex(32),
        turn_secret=secrets.token_hex(32),
        identity_secret=secrets.token_hex(32),
    )


def kept(directory: Path) -> Keys:
    """The keys of a state directory, made on first use; readable by their owner only."""
    path = directory / "keys.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Keys)
    except FileNotFoundError:
        pass
    except msgspec.DecodeError as flaw:
        raise Refused(f"{path} is damaged: {flaw}") from flaw
    keys = generate()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = directory / f"keys.{os.getpid()}.tmp"
    draft.touch(mode=0o600)
    draft.write_bytes(msgspec.json.encode(keys))
    try:
        # A second node that starts at the same moment must end up with the same keys.
        os.link(draft, path)
    except FileExistsError:
        keys = msgspec.json.decode(path.read_bytes(), type=Keys)
    finally:
        draft.unlink()
    return keys


@click.group()
def keys() -> None:
    """Key material."""


@keys.command("generate")
@click.option(
    "--format",
    "style",
    type=click.Choice(["env", "toml", "json"]),
    default="env",
    show_default=True,
)
def generate_command(style: str) -> None:
    """Print fresh keys, as environment variables or as a start of parley.toml."""
    made = generate()
    if style == "json":
        click.echo(json.dumps(msgspec.to_builtins(made)))
    elif style == "toml":
        click.echo(
            f'[server]\nadmin_token = "{made.admin_token}"\n\n'
            f'[turn]\nsecret = "{made.turn_secret}"\n'
            f'identity_secret = "{made.identity_secret}"\n\n'
            f'[[accounts]]\nsid = "{made.account_sid}"\nauth_token = "{made.auth_token}"\n\n'
            f'[[accounts.keys]]\nsid = "{made.key_sid}"\nsecret = "{made.key_secret}"'
        )
    else:
        click.echo(
            f"PARLEY_SERVER_ADMIN_TOKEN={made.admin_token}\n"
            f"PARLEY_TURN_SECRET={made.turn_secret}\n"
            f"PARLEY_TURN_IDENTITY_SECRET={made.identity_secret}\n"
            f"PARLEY_ACCOUNTS_SID={made.account_sid}\n"
            f"PARLEY_ACCOUNTS_AUTH_TOKEN={made.auth_token}\n"
            f"PARLEY_ACCOUNTS_KEY_SID={made.key_sid}\n"
            f"PARLEY_ACCOUNTS_KEY_SECRET={made.key_secret}"
        )
