"""Settings of the broker: the `[turn]` and `[[accounts]]` sections, which signaling shares.

Read from a TOML file under environment variables `PARLEY_<SECTION>_<KEY>`; `..._FILE` names a file
that holds a secret. Every flaw is a `SettingsError` that names its key. It does not know HTTP.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from turn_broker.accounts.table import (
    NO_LIMITS,
    AccountLimits,
    Algorithm,
)
from turn_broker.broker import MAX_REGION_CHARS
from turn_broker.coturn.settings import CoturnSettings
from turn_broker.guesses import GuessLimits
from turn_broker.issue_limits import IssueLimits
from turn_broker.nodes.prober import ProberSettings
from turn_broker.nodes.regions import RegionSettings

MIN_SECRET_CHARS = 32
_EXAMPLE_WORDS = ("changeme", "change-me", "change_me", "example", "secret-here", "your-secret")
_PREFIX = "PARLEY_"
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+")
_KEY_FIELDS = {"key_sid": "sid", "key_secret": "secret"}
_FIELD_FLAW = re.compile(r"Object (?:contains )?(missing required|unknown) field `([^`]*)`")
_LISTS = frozenset({"urls", "retiring_secrets", "trusted_proxies", "origins"})
_TABLES = frozenset({"nodes", "issue", "probing", "regions", "coturn"})
"""Of `[turn]`: set in the file only."""

Settings = TypeVar("Settings", bound=msgspec.Struct)
NodeName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}$")]


class SettingsError(ValueError):
    """A setting that keeps the process from starting; `key` says which."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key}: {reason}")
        self.key = key
        self.reason = reason


class NodeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[[turn.nodes]]`: one TURN server."""

    id: NodeName
    region: Annotated[str, Meta(min_length=1, max_length=MAX_REGION_CHARS)] = "default"
    urls: Annotated[list[str], Meta(min_length=1, max_length=16)]
    """Best first is not needed: the broker orders them."""
    weight: Annotated[int, Meta(ge=1, le=1000)] = 1
    """Its share of the clients of its region."""


class _Secretive(msgspec.Struct, frozen=True):
    """Settings with secrets in them stay out of logs and tracebacks."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(...)"


class TurnSettings(_Secretive, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[turn]`."""

    secret: str = ""
    """coturn's static-auth-secret: mints and verifies."""
    retiring_secrets: list[str] = []
    """Former secrets; credentials minted with them are still good on the embedded relay."""
    identity_secret: str = ""
    """Keys the identity digests in usernames; set it before the first rotation of `secret`."""
    realm: Annotated[str, Meta(min_length=1, max_length=127)] = "parley"
    urls: Annotated[list[str], Meta(max_length=16)] = []
    """Short for one node "default" in region "default"."""
    nodes: Annotated[list[NodeSettings], Meta(max_length=256)] = []
    min_ttl_s: int = 60
    max_ttl_s: int = 86_400
    default_ttl_s: int = 3600
    max_urls: int = 4
    accounts_file: str = ""
    """Where `parley accounts` keeps accounts; empty: only those of `[[accounts]]`."""
    accounts_key: str = ""
    """Seals the secrets of API keys that sign."""
    issue: IssueLimits = IssueLimits()
    state_file: str = ""
    """Where a broker without a backplane keeps rotated secrets, revocations and drains; without it
    they are gone when it ends."""
    probing: ProberSettings = ProberSettings()
    regions: Annotated[list[RegionSettings], Meta(max_length=64)] = []
    """Empty: the regions of the nodes, the first one by default."""
    default_region: str = ""
    """Of clients whose region is not known; empty: the first one."""
    geoip_file: str = ""
    """MaxMind DB file that tells countries, continents or positions of client addresses."""
    coturn: CoturnSettings | None = None
    """The coturn on this machine."""


class ApiKeySettings(_Secretive, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[[accounts.keys]]`: a secret for HS256; for the other algorithms a public key or a key set.

    The public key is a PEM, the key set (JWKS) a URL.
    """

    sid: str
    secret: str = ""
    algorithm: Algorithm = "HS256"
    public_key: str = ""
    jwks_url: str = ""


class AccountSettings(_Secretive, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[[accounts]]`."""

    sid: str
    auth_token: str
    keys: list[ApiKeySettings] = []
    limits: AccountLimits = NO_LIMITS


class ServerSettings(_Secretive, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[server]` of a broker that runs alone."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8080
    admin_token: str = ""
    """Opens nodes and secrets to the operator, as the default account's credentials do."""
    trusted_proxies: list[str] = []
    """Addresses of proxies whose X-Forwarded-For is believed."""


class BackplaneSettings(_Secretive, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[backplane]`: where the nodes of a deployment meet."""

    url: str = ""
    """`redis://`, `rediss://`, `redis+sentinel://`, `redis+cluster://`; empty: this node alone."""
    standby_bytes: Annotated[int, Meta(ge=0)] = 256 << 20
    """What a node may keep of accounts whose home is elsewhere, to go on when Redis is lost; 0:
    nothing, and their clients begin anew then."""


class CorsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[cors]`: browser origins."""

    origins: list[str] = []
    """Exact origins such as `https://app.example.org`; `["*"]` allows every one."""


class BrokerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The sections a broker alone reads; the others of parley.toml are signaling's."""

    server: ServerSettings = ServerSettings()
    turn: TurnSettings = TurnSettings()
    accounts: list[AccountSettings] = []
    backplane: BackplaneSettings = BackplaneSettings()
    cors: CorsSettings = CorsSettings()
    guesses: GuessLimits = GuessLimits()


def load(path: Path | None, environment: Mapping[str, str] | None = None) -> BrokerSettings:
    """Settings of `path` (None: no file) under `environment` (the process's by default).

    Raises SettingsError.
    """
    environment = os.environ if environment is None else environment
    raw: dict[str, Any] = {}
    if path is not None:
        try:
            raw = tomllib.loads(path.read_text("utf-8"))
        except (OSError, UnicodeError, tomllib.TOMLDecodeError) as flaw:
            raise SettingsError(str(path), str(flaw)) from flaw
    own: dict[str, Any] = {
        name: raw[name] for name in BrokerSettings.__struct_fields__ if name in raw
    }
    server = own.get("server")
    if isinstance(server, dict):
        # In a shared parley.toml this section has more keys, which signaling checks.
        known = ServerSettings.__struct_fields__
        own["server"] = {key: server[key] for key in known if key in server}
    refuse_unknown(environment, {**shared_sections(), "cors": CorsSettings.__struct_fields__})
    overlay_turn(own, environment)
    overlay_accounts(own, environment)
    overlay_backplane(own, environment)
    _overlay(own, "server", ServerSettings, environment)
    _overlay(own, "cors", CorsSettings, environment)
    settings = convert(own, BrokerSettings)
    check_origins(settings.cors.origins)
    return settings


def convert(raw: object, kind: type[Settings]) -> Settings:
    """`raw` as `kind`; raises SettingsError that names the key."""
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as flaw:
        reason, _, path = str(flaw).partition(" - at `$")
        key = path.rstrip("`").lstrip(".")
        named = _FIELD_FLAW.match(reason)
        if named is None:
            raise SettingsError(key or "settings", reason) from flaw
        verdict = "is missing" if named[1] == "missing required" else "unknown key"
        raise SettingsError(f"{key}.{named[2]}".lstrip("."), verdict) from flaw


def overlay_turn(raw: dict[str, Any], environment: Mapping[str, str]) -> None:
    """Put `PARLEY_TURN_*` over the `turn` section of `raw`; lists are comma-separated."""
    _overlay(raw, "turn", TurnSettings, environment)


def overlay_backplane(raw: dict[str, Any], environment: Mapping[str, str]) -> None:
    """Put `PARLEY_BACKPLANE_URL` over the `backplane` section of `raw`."""
    _overlay(raw, "backplane", BackplaneSettings, environment)


def _overlay(
    raw: dict[str, Any],
    name: str,
    kind: type[msgspec.Struct],
    environment: Mapping[str, str],
) -> None:
    for field in msgspec.structs.fields(kind):
        text = from_environment(environment, f"{_PREFIX}{name.upper()}_{field.name.upper()}")
        if text is None or field.name in _TABLES:
            continue
        value: object = text
        if field.name in _LISTS:
            value = [part.strip() for part in text.split(",") if part.strip()]
        elif text.isdecimal() and (field.type is int or isinstance(field.default, int)):
            value = int(text)
        section(raw, name)[field.name] = value


def refuse_unknown(environment: Mapping[str, str], sections: Mapping[str, Collection[str]]) -> None:
    """Refuse a `PARLEY_<SECTION>_...` variable that no key of that section reads.

    `sections` are keys by section, in lower case; variables of other sections are not looked at.
    """
    for name in environment:
        for section_name, keys in sections.items():
            prefix = f"{_PREFIX}{section_name.upper()}_"
            if name.startswith(prefix):
                key = name.removeprefix(prefix).removesuffix("_FILE").lower()
                if key not in keys and f"{key}_file" not in keys:
                    raise SettingsError(name, "unknown key")


def shared_sections() -> dict[str, Collection[str]]:
    """The keys of `[turn]`, `[[accounts]]` and `[backplane]` that the environment may set."""
    turn = {field.name for field in msgspec.structs.fields(TurnSettings)} - _TABLES
    return {
        "turn": turn,
        "accounts": {"sid", "auth_token", *_KEY_FIELDS},
        "backplane": {field.name for field in msgspec.structs.fields(BackplaneSettings)},
    }


def overlay_accounts(raw: dict[str, Any], environment: Mapping[str, str]) -> None:
    """Put `PARLEY_ACCOUNTS_SID|AUTH_TOKEN|KEY_SID|KEY_SECRET` over the first account of `raw`."""
    given = {
        name: text
        for name in ("sid", "auth_token", *_KEY_FIELDS)
        if (text := from_environment(environment, f"{_PREFIX}ACCOUNTS_{name.upper()}")) is not None
    }
    if not given:
        return
    first = _first(raw, "accounts")
    key = {_KEY_FIELDS[name]: given.pop(name) for name in list(given) if name in _KEY_FIELDS}
    first.update(given)
    if key:
        _first(first, "keys").update(key)


def section(raw: dict[str, Any], name: str) -> dict[str, Any]:
    """The table `name` of `raw`, made if it is not there."""
    table = raw.setdefault(name, {})
    if not isinstance(table, dict):
        raise SettingsError(name, "must be a table")
    return table


def _first(raw: dict[str, Any], name: str) -> dict[str, Any]:
    tables = raw.setdefault(name, [])
    if tables == []:
        tables.append({})
    if not isinstance(tables, list) or not isinstance(tables[0], dict):
        raise SettingsError(name, "must be an array of tables")
    return tables[0]


def from_environment(environment: Mapping[str, str], name: str) -> str | None:
    """The variable `name`, or the content of the file that `<name>_FILE` names."""
    path = environment.get(f"{name}_FILE")
    if path is None:
        return environment.get(name)
    if name in environment:
        raise SettingsError(name, f"set together with {name}_FILE")
    try:
        return Path(path).read_text("utf-8").strip()
    except (OSError, UnicodeError) as flaw:
        raise SettingsError(f"{name}_FILE", str(flaw)) from flaw


def check_origins(origins: Collection[str]) -> None:
    """Refuse what no browser sends as an origin (RFC 6454 section 6.1): no path, not a slash."""
    for origin in origins:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise SettingsError("cors.origins", f"{origin} is no scheme://host[:port]")


def check_secret(key: str, secret: str) -> None:
    """Refuse a secret that is missing, short, an example's, or one repeated character."""
    if not secret:
        raise SettingsError(key, "is missing")
    if any(word in secret.lower() for word in _EXAMPLE_WORDS):
        raise SettingsError(key, "is an example; generate one with `parley keys generate`")
    if len(secret) < MIN_SECRET_CHARS or len(set(secret)) < 8:
        raise SettingsError(key, f"must be at least {MIN_SECRET_CHARS} random characters")
