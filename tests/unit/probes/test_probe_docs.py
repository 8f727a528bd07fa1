"""docs/probes.md is true: its reasons, verdicts, faults, options, routes and metrics are those of
the code."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from probe_faults import FAULTS, NO_QUALITY, Fault
from prometheus_client.parser import text_string_to_metric_families

from probes.blackbox import exposition
from probes.cli import probe
from probes.openapi import openapi_paths
from probes.reasons import EXIT_CODES, USAGE_EXIT_CODE, Reason, State
from probes.runner import Kind, Plan, Run
from probes.socket import PATH
from probes.verdict import CheckResult

TESTS = Path(__file__).parents[2]
DOCUMENT = (TESTS.parent / "docs" / "probes.md").read_text("utf-8")


def section(heading: str) -> str:
    return DOCUMENT.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def rows(heading: str) -> Iterator[list[str]]:
    """Cells of the tables, without their heads."""
    for line in section(heading).splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if cells and not set("".join(cells)) <= {"-"}:
            yield cells


def test_every_reason_is_documented() -> None:
    documented = [cells[0].strip("`") for cells in rows("Reasons")][2:]
    assert documented == [reason.value for reason in Reason if reason.value]


def test_every_verdict_is_documented_and_no_other() -> None:
    documented = [(state.strip("`"), text) for state, text in list(rows("Verdicts"))[1:]]
    said = {
        (row["state"], row["text"])
        for row in json.loads((TESTS / "vectors/verdicts.json").read_text("utf-8"))
    }
    forms = {(state, re.escape(text).replace("…", ".+")) for state, text in documented}
    # With a direct connection, a relay that does not work is a warning.
    forms |= {("warning", form) for state, form in forms if "relay" in form and state == "failed"}
    known = {
        one
        for one in said
        if any(form[0] == one[0] and re.fullmatch(form[1], one[1]) for form in forms)
    }
    assert said - known == set()
    for _, text in documented:
        form = re.escape(text).replace("…", ".+")
        assert any(re.fullmatch(form, other) for _, other in said), f"no vector says {text!r}"


def row_of(fault: Fault) -> list[str]:
    """As in the page's table."""

    def listed(outcomes: dict[str, str]) -> str:
        return ", ".join(f"`{check}` {outcome.split()[-1]}" for check, outcome in outcomes.items())

    seen = {check: one for check, one in fault.reasons.items() if NO_QUALITY.get(check) != one}
    browser = {check: one for check, one in fault.browser.items() if check not in ("state", "says")}
    otherwise = listed(browser)
    if "state" in fault.browser:
        otherwise += f"; `{fault.browser['state']}`"
    return [fault.name, f"`{fault.state}`", listed(seen), otherwise]


def test_every_fault_of_the_matrix_is_documented() -> None:
    assert list(rows("What each fault looks like"))[1:] == [row_of(fault) for fault in FAULTS]


def test_every_command_and_option_is_documented() -> None:
    text = section("Command line") + DOCUMENT.split("## What is tested")[0]
    assert all(kind.value in text for kind in Kind)
    commands = getattr(probe, "commands")  # noqa: B009 - click has no type for it
    options = {name for command in commands.values() for one in command.params for name in one.opts}
    missing = {name for name in options if name.startswith("--") and name not in text}
    assert missing == set()
    for state in (State.PASSED, State.WARNING, State.FAILED):
        assert f"{EXIT_CODES[state]} {state.value}" in text
    assert f"{EXIT_CODES[State.ABORTED]} stopped" in text
    assert f"{USAGE_EXIT_CODE} wrong usage" in text


def test_every_route_is_documented() -> None:
    named = {
        (method, path)
        for cell, _ in list(rows("HTTP and WebSocket"))[1:]
        for path in re.findall(r"(/v1/probes[a-z/{}]*)", cell)
        for method in re.findall(r"GET|POST|DELETE", cell)
    }
    served = {
        (method.upper(), path) for path, methods in openapi_paths().items() for method in methods
    }
    assert named == served | {("GET", PATH)}


def test_every_metric_of_probe_is_documented() -> None:
    run = Run(Plan(kind=Kind.ALL, base_url="https://a"), lambda _: None)
    figures = {"round_trip_ms": 1.0, "loss_ratio": 0.0, "mos": 4.0, "cert_expires_at": 2e9}
    run.results = {
        ("turn", ""): CheckResult(name="turn", state=State.PASSED, transport="udp", figures=figures)
    }
    page = exposition(run, 1.0, 1.0).decode()
    names = {family.name for family in text_string_to_metric_families(page)}
    assert names == set(re.findall(r"`(probe_[a-z_]+)", section("Prometheus")))
