"""docs/configuration.md lists every key with the default that is in the code, and no other."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec

from signal_server.config import Settings

DOCUMENT = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_every_key_is_documented_with_its_default() -> None:
    rows = re.findall(r"^\| `([a-z_.]+)` \| `(.+?)` \|", DOCUMENT.read_text("utf-8"), re.MULTILINE)
    documented = {key: json.loads(default) for key, default in rows}
    in_code: dict[str, object] = {}
    for section, value in msgspec.to_builtins(Settings()).items():
        if isinstance(value, dict):
            in_code.update({f"{section}.{key}": default for key, default in value.items()})
        else:
            in_code[section] = value
    assert documented == in_code
