"""`parley config check|show|defaults`, and the option by which every command finds its settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from signal_server import config as settings_module
from signal_server.config import Settings
from turn_broker.cli import Refused
from turn_broker.config import SettingsError

DEFAULT_PATH = Path("parley.toml")
_SECRET_WORDS = ("secret", "token", "secrets")

config_option = click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Settings file; by default parley.toml, where there is one.",
)


def load_checked(path: Path | None) -> Settings:
    """The settings, fit for production; raises Refused."""
    try:
        settings = settings_module.load(_path(path), settings_module.environment())
        settings_module.check(settings)
    except SettingsError as flaw:
        raise Refused(str(flaw)) from flaw
    return settings


def _path(path: Path | None) -> Path | None:
    if path is not None:
        return path
    return DEFAULT_PATH if DEFAULT_PATH.exists() else None


@click.group()
def config() -> None:
    """Look at the settings."""


@config.command()
@config_option
def check(path: Path | None) -> None:
    """Exit 0 when `parley serve` would start, else name the flaw."""
    load_checked(path)
    click.echo("settings are good")


@config.command()
@config_option
def show(path: Path | None) -> None:
    """Print the settings in force as JSON, secrets masked."""
    settings = load_checked(path)
    click.echo(msgspec.json.format(msgspec.json.encode(_masked(msgspec.to_builtins(settings)))))


@config.command()
def defaults() -> None:
    """Print every key with its default."""
    click.echo(msgspec.json.format(msgspec.json.encode(Settings())))


def _masked(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _masked(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [_masked(inner, key) for inner in value]
    is_secret = isinstance(value, str) and any(word in key.split("_") for word in _SECRET_WORDS)
    return "***" if is_secret and value else value
