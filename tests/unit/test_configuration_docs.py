"""docs/configuration.md lists every key with the default that is in the code, and no other."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from signal_server.config import Settings

DOCUMENT = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_every_key_is_documented_with_its_default() -> None:
    rows = re.findall(r"^\| `([a-z_.]+)` \| `(.+?)` \|", DOCUMENT.read_text("utf-8"), re.MULTILINE)
    documented = {key: json.loads(default) for key, default in rows}
    assert documented == dict(_flat(msgspec.to_builtins(Settings())))


def _flat(value: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Tables by dotted key; a rate is one value."""
    for key, inner in value.items():
        if isinstance(inner, dict) and set(inner) != {"per_s", "burst"}:
            yield from _flat(inner, f"{path}{key}.")
        else:
            yield f"{path}{key}", inner
