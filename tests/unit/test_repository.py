"""The repository keeps its own rules: size of modules, and a protocol page that is true."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from signal_server.wire import messages as m
from signal_server.wire.codes import CloseCode, ErrorCode
from signal_server.wire.receipts import Stage, Why

ROOT = Path(__file__).resolve().parents[2]
PROTOCOL = ROOT / "docs" / "protocol.md"
ROOMS = ("signal_server", "turn_broker", "probes")
MODULES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
MAX_LINES = 400


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_modules_are_short(path: Path) -> None:
    lines = len(path.read_text("utf-8").splitlines())
    assert lines <= MAX_LINES, f"{_name(path)} has {lines} lines"


@pytest.mark.parametrize(
    "path", [path for path in MODULES if path.name == "__init__.py"], ids=_name
)
def test_packages_have_nothing_to_say(path: Path) -> None:
    assert path.read_bytes() == b""


# docs/protocol.md -------------------------------------------------------------------------------


def table(heading: str) -> dict[str, list[str]]:
    """Rows of the tables under `## heading`, to the next `## `: other cells by the first's name."""
    text = PROTOCOL.read_text("utf-8")
    found = re.search(
        rf"^## {re.escape(heading)}\s*$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL
    )
    assert found, f"docs/protocol.md has no heading '## {heading}'"
    rows: dict[str, list[str]] = {}
    for line in found[1].splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]
        first = re.fullmatch(r"`([^`]+)`", cells[0]) if cells else None
        if first:
            assert first[1] not in rows, f"'{first[1]}' has two rows under '{heading}'"
            rows[first[1]] = cells[1:]
    return rows


def names_in(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def fields_of(kind: type[Any]) -> set[str]:
    """Field names as on the wire; optional ones end in a question mark."""
    return {
        field.encode_name if field.required or field.name == "seq" else f"{field.encode_name}?"
        for field in msgspec.structs.fields(kind)
    }


def test_errors() -> None:
    rows = table("Errors")

    assert set(rows) == {code.value for code in ErrorCode}
    for code in ErrorCode:
        assert rows[code.value][0] == ("yes" if code.retryable else "no"), code


def test_receipts() -> None:
    assert set(table("Receipts")) == {each.value for kind in (Stage, Why) for each in kind}


def test_close_codes() -> None:
    rows = table("Close codes")

    assert set(rows) == {str(code.value) for code in CloseCode}
    for code in CloseCode:
        assert rows[str(code.value)][0].strip("`") == code.name.lower(), code
        if code >= 4000:
            assert code.reconnect is (code < 4500), code


@pytest.mark.parametrize(
    ("heading", "kinds", "everywhere"),
    [
        ("Client messages", m.CLIENT_MESSAGES, {"id?", "ack?"}),
        ("Server messages", m.SERVER_MESSAGES, set()),
    ],
    ids=["client", "server"],
)
def test_messages(heading: str, kinds: tuple[type[Any], ...], everywhere: set[str]) -> None:
    rows = table(heading)
    tags = {str(kind.__struct_config__.tag): kind for kind in kinds}

    assert set(rows) == set(tags)
    for tag, kind in tags.items():
        assert set(names_in(rows[tag][0])) == fields_of(kind) - everywhere, tag
