"""What `parley turn agent` reads of parley.toml: `[turn]`, `[turn.coturn]` and `[backplane]`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from turn_broker.config import (
    SettingsError,
    TurnSettings,
    check_secret,
    convert,
    from_environment,
    overlay_turn,
)
from turn_broker.coturn.settings import CoturnSettings, CoturnSettingsError


class AgentSettings(Struct, frozen=True, kw_only=True):
    turn: TurnSettings
    coturn: CoturnSettings
    redis_url: str = ""

    @property
    def seal_key(self) -> str:
        """Seals the secrets in Redis: the same for every broker and agent of the realm."""
        return self.turn.identity_secret or self.turn.secret

    def __repr__(self) -> str:
        return "AgentSettings(...)"


def load_agent(
    path: Path | None, environment: Mapping[str, str], *, node: str | None = None
) -> AgentSettings:
    """`node` goes over `turn.coturn.node`. Raises SettingsError that names the key."""
    raw: dict[str, Any] = {}
    if path is not None:
        try:
            raw = tomllib.loads(path.read_text("utf-8"))
        except (OSError, UnicodeError, tomllib.TOMLDecodeError) as flaw:
            raise SettingsError(str(path), str(flaw)) from flaw
    own = {"turn": raw.get("turn", {})}
    overlay_turn(own, environment)
    if not isinstance(own["turn"], dict):
        raise SettingsError("turn", "must be a table")
    section = own["turn"].pop("coturn", {})
    if node is not None and isinstance(section, dict):
        section["node"] = node
    coturn = _under("turn.coturn", section, CoturnSettings)
    turn = _under("turn", own["turn"], TurnSettings)
    check_secret("turn.secret", turn.secret)
    try:
        coturn.check()
    except CoturnSettingsError as flaw:
        raise SettingsError(f"turn.coturn.{flaw.key}", flaw.reason) from flaw
    backplane = raw.get("backplane", {})
    url = from_environment(environment, "PARLEY_BACKPLANE_URL")
    if url is None and isinstance(backplane, dict):
        url = backplane.get("url", "")
    if not isinstance(url, str):
        raise SettingsError("backplane.url", "must be text")
    return AgentSettings(turn=turn, coturn=coturn, redis_url=url)


def _under(section: str, raw: object, kind: Any) -> Any:
    try:
        return convert(raw, kind)
    except SettingsError as flaw:
        raise SettingsError(f"{section}.{flaw.key}", flaw.reason) from flaw
