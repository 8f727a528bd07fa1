"""The tables of docs/broker.md are the code's."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from turn_broker.accounts.table import AccountLimits
from turn_broker.coturn.settings import IPV6_RELAY_SINCE, STATSDB_SINCE
from turn_broker.dialects import aws_kvs, cloudflare, matrix, turn_rest, twilio
from turn_broker.fleet.guard import Reason
from turn_broker.http import IceServersRequest, WishedTerms
from turn_broker.problem import STATUS_OF

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "broker.md").read_text("utf-8")
OF_SIGNALING = {"superseded", "resume_gap"}
DOCTOR = "".join(path.read_text() for path in (ROOT / "turn_broker" / "doctor").glob("*.py"))


def rows(heading: str) -> list[list[str]]:
    """Cells of every table row under the heading, without the heads of the tables."""
    section = re.split(rf"^#+ {heading}$", PAGE, flags=re.MULTILINE)[1]
    text = re.split(r"^#+ ", section, flags=re.MULTILINE)[0]
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def names(heading: str) -> list[str]:
    """What stands in backquotes in the first cells."""
    return [name for cells in rows(heading) for name in re.findall(r"`([^`]+)`", cells[0])]


def fields(kind: type[msgspec.Struct]) -> list[str]:
    return [field.name for field in msgspec.structs.fields(kind)]


def test_every_dialect_is_there() -> None:
    paths = (twilio.PATH, cloudflare.PATH, turn_rest.PATH, matrix.PATH, aws_kvs.PATH)
    for path in paths:
        assert f" {path}" in PAGE


def test_native_parameters() -> None:
    assert names("Native") == fields(IceServersRequest)
    (terms,) = (cells for cells in rows("Native") if cells[0] == "`terms`")
    assert re.findall(r"`([a-z_]+)`", terms[1]) == fields(WishedTerms)


def test_errors() -> None:
    seen = {cells[0].strip("`"): cells[1:] for cells in rows("Errors")}
    assert seen.keys() == STATUS_OF.keys() - OF_SIGNALING
    for code in STATUS_OF.keys() - OF_SIGNALING:
        expected = [
            str(STATUS_OF[code].value),
            str(twilio._CODE_OF.get(code, twilio._BAD_PARAMETER)),
            str(cloudflare._CODE_OF.get(code, cloudflare._BAD_REQUEST)),
            matrix._CODE_OF.get(code, "M_UNKNOWN"),
            aws_kvs._TYPE_OF.get(code, "") + (" (403)" if code == "unauthenticated" else ""),
        ]
        assert seen[code] == expected, code


def test_limits_of_accounts() -> None:
    assert names("Accounts") == fields(AccountLimits)


def test_reasons_to_cut() -> None:
    assert names("Taking back and metering") == [reason.value for reason in Reason]


def test_versions_of_coturn() -> None:
    below = [cells[0] for cells in rows("coturn versions")]
    assert below == [".".join(map(str, since)) for since in (IPV6_RELAY_SINCE, STATSDB_SINCE)]


def test_codes_of_the_doctor() -> None:
    documented = {name.partition(".")[0] for name in names("Doctor")}
    for name in documented:
        assert re.search(rf'"{name}[".]', DOCTOR), name
    literal = set(re.findall(r'code=f?"([a-z_]+)', DOCTOR))
    first_of_three = set(re.findall(r'return \(?\s*"([a-z_]+)",', DOCTOR))
    assert literal | first_of_three <= documented


def test_security_names_tests_that_exist() -> None:
    page = (ROOT / "docs" / "security.md").read_text("utf-8")
    named = re.findall(r"`([a-z_/]+\.py)::(\w+)`", page)
    assert len(named) > 20
    for file, test in named:
        assert f"def {test}(" in (ROOT / "tests" / file).read_text("utf-8"), f"{file}::{test}"


def test_links_lead_somewhere() -> None:
    for name in ("broker", "security", "operations"):
        page = ROOT / "docs" / f"{name}.md"
        for target in re.findall(r"\]\(([^)#:]+)[^)]*\)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{name}: {target}"
