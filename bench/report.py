"""From the runs of a benchmark to medians, and to tables with the ratio to the best peer."""

from __future__ import annotations

from statistics import median
from typing import Any

Result = dict[str, Any]

_RATED_BY = {
    "relay": ("messages_per_cpu_s", True),
    "setup": ("calls_per_cpu_s", True),
    "open": ("messages_per_cpu_s", True),
    "storm": ("joins_per_cpu_s", True),
    "return": ("joins_per_cpu_s", True),
    "idle": ("bytes_per_connection", False),
}
"""Of each workload: the figure that counts, and whether more of it is better."""

_COLUMNS = {
    "relay": ("messages_per_cpu_s", "messages_per_s", "p50_us", "p99_us"),
    "setup": ("calls_per_cpu_s", "calls_per_s", "call_p50_us", "call_p99_us"),
    "open": ("messages_per_cpu_s", "messages_per_s", "p50_us", "p99_us"),
    "storm": ("joins_per_cpu_s", "joins_per_s", "join_p50_us", "join_p99_us"),
    "return": ("joins_per_cpu_s", "joins_per_s", "join_p50_us", "join_p99_us"),
    "idle": ("bytes_per_connection", "empty_bytes"),
}
_CPU = ("server_cpu", "generator_cpu")
_ABOUT_RUN = ("round", "load_average")


def headline(workload: str, result: Result) -> str:
    """The figure that counts, for watching."""
    figure, _ = _RATED_BY[workload]
    return f"{result[figure]:>12,.0f} {figure}"


def medians(runs: list[Result]) -> list[Result]:
    """One entry for each workload and server, over the rounds."""
    grouped: dict[tuple[str, str], list[Result]] = {}
    for run in runs:
        grouped.setdefault((run["workload"], run["server"]), []).append(run)
    entries = []
    for (workload, server), same in grouped.items():
        figures = [key for key, value in same[0].items() if isinstance(value, int | float)]
        entry: Result = {"workload": workload, "server": server, "rounds": len(same)}
        for key in figures:
            if key not in _ABOUT_RUN:
                entry[key] = median(run[key] for run in same)
        figure, _ = _RATED_BY[workload]
        entry["spread"] = [min(run[figure] for run in same), max(run[figure] for run in same)]
        entries.append(entry)
    return entries


def tables(runs: list[Result], order: list[str], peers: list[str]) -> str:
    """Markdown, one table for each workload; above 1 in the last column is better than the peer."""
    middle = medians(runs)
    out: list[str] = []
    for workload, columns in _COLUMNS.items():
        entries = {entry["server"]: entry for entry in middle if entry["workload"] == workload}
        if not entries:
            continue
        figure, more_is_better = _RATED_BY[workload]
        rated = [entries[name][figure] for name in peers if name in entries]
        best = (max if more_is_better else min)(rated) if rated else None
        shown = [*columns, *(key for key in _CPU if key in next(iter(entries.values())))]
        out += ["", f"### {workload}", ""]
        out.append(f"| server | {' | '.join(shown)} | spread | vs best peer |")
        out.append(f"|---|{'---|' * len(shown)}---|---|")
        for name in order:
            if name not in entries:
                continue
            entry = entries[name]
            ratio = "" if best is None else f"{_ratio(entry[figure], best, more_is_better):.2f}"
            low, high = entry["spread"]
            cells = " | ".join(_shown(key, entry[key]) for key in shown)
            out.append(f"| {name} | {cells} | {low:,.0f} to {high:,.0f} | {ratio} |")
    return "\n".join(out)


def _ratio(value: float, best: float, more_is_better: bool) -> float:
    return value / best if more_is_better else best / value


def _shown(key: str, value: float) -> str:
    return f"{value:.2f}" if key in _CPU else f"{value:,.0f}"
