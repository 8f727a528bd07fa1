"""Results as a table, as JSON and as JUnit XML. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

from msgspec import to_builtins

from probes.reasons import State
from probes.verdict import CheckResult, Verdict

MARKS: dict[State, str] = {
    State.WAITING: "..",
    State.RUNNING: "..",
    State.PASSED: "ok",
    State.WARNING: "!!",
    State.FAILED: "XX",
    State.SKIPPED: "--",
    State.ABORTED: "//",
}
_HEAD = ("", "check", "target", "state", "reason", "what was seen")


def title(result: CheckResult) -> str:
    """`turn udp`, `turn udp us` where there are several, `ws eu`, `quality-audio`."""
    parts = (result.name, result.transport, result.region)
    return " ".join(part for part in parts if part)


def table(results: Iterable[CheckResult], verdict: Verdict) -> str:
    """Columns as wide as they need to be, then the verdict."""
    rows = [_HEAD, *(_row(result) for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    lines += ["", f"{MARKS[verdict.state]}  {verdict.text}", f"    {verdict.meaning}"]
    lines += [f"    Ask for: {ask.protocol} to {ask.target}" for ask in verdict.asks]
    return "\n".join(lines)


def _row(result: CheckResult) -> tuple[str, ...]:
    return (
        MARKS[result.state],
        title(result),
        result.target or "",
        result.state.value,
        result.reason.value,
        result.detail,
    )


def as_json(
    results: Iterable[CheckResult], verdict: Verdict, *, base_url: str, duration_s: float
) -> dict[str, Any]:
    """What `--json` prints: the verdict, and every result with its figures."""
    return {
        "result": verdict.state.value,
        "text": verdict.text,
        "meaning": verdict.meaning,
        "asks": to_builtins(verdict.asks),
        "deployment": base_url,
        "duration_s": round(duration_s, 2),
        "checks": [to_builtins(result) for result in results],
    }


def junit(results: Sequence[CheckResult], duration_s: float) -> bytes:
    """One test case a check; a warning passes and says so in its output."""
    counted = {state: sum(result.state is state for result in results) for state in State}
    suite = Element(
        "testsuite",
        name="parley probe",
        tests=str(len(results)),
        failures=str(counted[State.FAILED]),
        errors=str(counted[State.ABORTED]),
        skipped=str(counted[State.SKIPPED]),
        time=f"{duration_s:.3f}",
    )
    for result in results:
        name = f"{title(result)} {result.target or ''}".strip()
        case = SubElement(
            suite,
            "testcase",
            classname=f"parley.{result.name}",
            name=name,
            time=f"{result.duration_ms / 1000:.3f}",
        )
        kind = {State.FAILED: "failure", State.ABORTED: "error", State.SKIPPED: "skipped"}
        if result.state in kind:
            SubElement(case, kind[result.state], message=result.detail, type=result.reason.value)
        elif result.detail:
            SubElement(case, "system-out").text = f"{result.state}: {result.detail}"
    root = Element("testsuites")
    root.append(suite)
    return b'<?xml version="1.0" encoding="utf-8"?>\n' + tostring(root)
