"""docs/configuration.md lists every key with the default that is in the code, and no other."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from probes.settings import DeploymentRegion, ProbeTarget
from signal_server.config import Settings
from turn_broker.config import NodeSettings
from turn_broker.coturn.settings import CoturnSettings
from turn_broker.nodes.regions import RegionSettings

DOCUMENT = Path(__file__).parents[2] / "docs" / "configuration.md"
INSIDE: dict[str, type[msgspec.Struct]] = {
    "turn.nodes[].": NodeSettings,
    "turn.regions[].": RegionSettings,
    "turn.coturn.": CoturnSettings,
    "regions[].": DeploymentRegion,
    "probes.targets[].": ProbeTarget,
}
REQUIRED = object()


def test_every_key_is_documented_with_its_default() -> None:
    rows = re.findall(
        r"^\| `([a-z0-9_.\[\]]+)` \| (`.+?`|required) \|", DOCUMENT.read_text("utf-8"), re.MULTILINE
    )
    assert len({key for key, _ in rows}) == len(rows)
    documented = {
        key: REQUIRED if cell == "required" else json.loads(cell.strip("`")) for key, cell in rows
    }
    expected = dict(_flat(msgspec.to_builtins(Settings())))
    for prefix, kind in INSIDE.items():
        expected |= {f"{prefix}{name}": value for name, value in _defaults(kind)}
    assert documented == expected


def _defaults(kind: type[msgspec.Struct]) -> Iterator[tuple[str, Any]]:
    for field in msgspec.structs.fields(kind):
        if field.default is not msgspec.NODEFAULT:
            yield field.name, msgspec.to_builtins(field.default)
        elif field.default_factory is not msgspec.NODEFAULT:
            yield field.name, msgspec.to_builtins(field.default_factory())
        else:
            yield field.name, REQUIRED


def _flat(value: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Tables by dotted key; a rate is one value."""
    for key, inner in value.items():
        if isinstance(inner, dict) and set(inner) != {"per_s", "burst"}:
            yield from _flat(inner, f"{path}{key}.")
        else:
            yield f"{path}{key}", inner
