"""The times in docs/reliability.md are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

from signal_server.backplane import home, journaled, post, redis_journal

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "reliability.md").read_text()


def test_constants_are_as_documented() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \| ([0-9.]+) \|", TEXT, re.MULTILINE)
    known = {
        name: value
        for module in (redis_journal, home, post, journaled)
        for name, value in vars(module).items()
    }
    assert len(rows) >= 8
    assert {name: float(value) for name, value in rows} == {name: known[name] for name, _ in rows}


def test_named_tests_exist() -> None:
    folder = Path(__file__).resolve().parents[1]
    names = set(re.findall(r"`(test_[a-z_]+\.py)`", TEXT))
    assert names
    assert names <= {path.name for path in folder.rglob("test_*.py")}
