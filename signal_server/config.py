"""Settings of a deployment: flags over environment over file over defaults, one frozen value.

Every flaw is a `SettingsError` that names its key, and no process starts with one. The broker's
sections are defined in `turn_broker.config`; limits in `wire.limits`. It builds nothing.
"""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from probes.settings import DeploymentRegion, ProbeSettings
from signal_server.core.call import CallLimits
from signal_server.core.rules import AddressRules, NegotiationRules
from signal_server.edge.webhook_queue import WebhookSettings, flaw_of
from signal_server.wire.limits import Limits
from signal_server.wire.rates import RateLimits
from turn_broker.config import (
    AccountSettings,
    BackplaneSettings,
    CorsSettings,
    SettingsError,
    TurnSettings,
    check_origins,
    check_secret,
    convert,
    from_environment,
    overlay_accounts,
    overlay_backplane,
    overlay_turn,
    refuse_unknown,
    section,
    shared_sections,
)
from turn_broker.fleet.redis_url import parse_redis_url
from turn_broker.guesses import GuessLimits
from turn_broker.parts import accounts_of, broker_of

PREFIX = "PARLEY_"
MAX_WORKERS = 64
_LISTS = frozenset({"origins", "trusted_proxies"})
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
Port = Annotated[int, Meta(ge=0, le=65535)]


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[server]`."""

    host: str = "127.0.0.1"
    port: Port = 8080
    """0 takes a free port."""
    admin_token: str = ""
    """The operator's, for the server API and TURN control; an empty one is nobody's."""
    trusted_proxies: list[str] = []
    """Addresses of proxies whose X-Forwarded-For is believed."""
    workers: Annotated[int, Meta(ge=1, le=MAX_WORKERS)] = 1
    """Processes that share the port; more than one need a backplane."""
    drain_s: Annotated[float, Meta(ge=0, le=3600)] = 10.0
    """How long SIGTERM waits for peers to go elsewhere."""


class NodeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[node]`: what this process is called."""

    name: Name = "node1"
    region: Name = "default"


class LogSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[log]`."""

    level: Annotated[str, Meta(pattern="^(debug|info|warning|error)$")] = "info"
    format: Annotated[str, Meta(pattern="^(json|text)$")] = "json"


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of parley.toml."""

    server: ServerSettings = ServerSettings()
    node: NodeSettings = NodeSettings()
    cors: CorsSettings = CorsSettings()
    log: LogSettings = LogSettings()
    turn: TurnSettings = TurnSettings()
    backplane: BackplaneSettings = BackplaneSettings()
    accounts: list[AccountSettings] = []
    limits: Limits = Limits()
    rates: RateLimits = RateLimits()
    calls: CallLimits = CallLimits()
    guesses: GuessLimits = GuessLimits()
    addresses: AddressRules = AddressRules()
    negotiation: NegotiationRules = NegotiationRules()
    webhooks: WebhookSettings = WebhookSettings()
    probes: ProbeSettings = ProbeSettings()
    regions: Annotated[list[DeploymentRegion], Meta(max_length=64)] = []


_OWN_SECTIONS: dict[str, type[msgspec.Struct]] = {
    "server": ServerSettings,
    "node": NodeSettings,
    "cors": CorsSettings,
    "log": LogSettings,
    "limits": Limits,
    "calls": CallLimits,
    "guesses": GuessLimits,
    "addresses": AddressRules,
    "negotiation": NegotiationRules,
    "probes": ProbeSettings,
}


def environment() -> Mapping[str, str]:
    """The process's environment; the only place that reads it."""
    return os.environ


def load(path: Path | None, variables: Mapping[str, str]) -> Settings:
    """Read `path` (None: no file) under `PARLEY_*` variables; raises SettingsError."""
    raw: dict[str, Any] = {}
    if path is not None:
        try:
            raw = tomllib.loads(path.read_text("utf-8"))
        except (OSError, UnicodeError, tomllib.TOMLDecodeError) as flaw:
            raise SettingsError(str(path), str(flaw)) from flaw
    own = {
        name: {field.name for field in msgspec.structs.fields(kind)}
        for name, kind in _OWN_SECTIONS.items()
    }
    refuse_unknown(variables, {**shared_sections(), **own})
    overlay_turn(raw, variables)
    overlay_accounts(raw, variables)
    overlay_backplane(raw, variables)
    for name, kind in _OWN_SECTIONS.items():
        _overlay(raw, name, kind, variables)
    return convert(raw, Settings)


def check(settings: Settings) -> None:
    """Refuse what production may not start with; raises SettingsError."""
    accounts_of(settings.accounts)
    broker_of(settings.turn)
    if settings.server.admin_token:
        check_secret("server.admin_token", settings.server.admin_token)
    _check_numbers(settings)
    for place, endpoint in enumerate(settings.webhooks.endpoints):
        flaw = flaw_of(endpoint)
        if flaw is not None:
            raise SettingsError(f"webhooks.endpoints[{place}]", flaw)
    check_origins(settings.cors.origins)
    if settings.backplane.url:
        try:
            parse_redis_url(settings.backplane.url)
        except ValueError as flaw:
            raise SettingsError("backplane.url", str(flaw)) from flaw


def _check_numbers(settings: Settings) -> None:
    for key, value in _figures(msgspec.to_builtins(settings)):
        if not math.isfinite(value):
            raise SettingsError(key, "must be a finite number")
    if settings.limits.resume_window_s < 0:
        raise SettingsError("limits.resume_window_s", "must not be less than zero")
    for field in msgspec.structs.fields(Limits):
        if field.name != "resume_window_s" and getattr(settings.limits, field.name) <= 0:
            raise SettingsError(f"limits.{field.name}", "must be greater than zero")
    if settings.rates.session.candidate.burst < settings.limits.candidates_per_message:
        raise SettingsError("rates.session.candidate.burst", "below limits.candidates_per_message")


def _figures(value: object, key: str = "") -> Iterator[tuple[str, float]]:
    """Every number that may have a fraction, under its dotted key."""
    if isinstance(value, float):
        yield key, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _figures(inner, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _figures(inner, f"{key}[{place}]")


def _overlay(
    raw: dict[str, Any], name: str, kind: type[msgspec.Struct], variables: Mapping[str, str]
) -> None:
    for field in msgspec.structs.fields(kind):
        text = from_environment(variables, f"{PREFIX}{name.upper()}_{field.name.upper()}")
        if text is None:
            continue
        value: object = text
        if field.name in _LISTS:
            value = [part.strip() for part in text.split(",") if part.strip()]
        elif not isinstance(field.default, str):
            value = _number(text)
        section(raw, name)[field.name] = value


def _number(text: str) -> int | float | str:
    try:
        return int(text)
    except ValueError:
        try:
            return float(text)
        except ValueError:
            return text
