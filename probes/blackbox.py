"""`GET /probe?module=&target=` for Prometheus, in the manner of blackbox_exporter.

Targets come from configuration only, so that nobody can make the server test foreign hosts. A run
takes as long as Prometheus allows, and as many run at once as is bounded here.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from probes.checks import certificate
from probes.reasons import State
from probes.runner import Kind, Plan, Run
from probes.settings import ProbeTarget
from probes.verdict import CheckResult
from turn_broker.problem import problem_response

MOST_AT_ONCE = 4
DEFAULT_TIMEOUT_S = 60.0
RESERVE_S = 0.5
"""Kept of Prometheus' own timeout for the answer."""
_TIMEOUT_HEADER = "x-prometheus-scrape-timeout-seconds"


class Blackbox:
    """The route; `targets` are what may be tested."""

    def __init__(self, targets: Sequence[ProbeTarget]) -> None:
        self._targets = {target.id: target for target in targets}
        self._running = 0
        self._last_success: dict[tuple[str, str], float] = {}
        """By module and target, both closed sets; Unix seconds."""

    def routes(self) -> list[Route]:
        return [Route("/probe", self._probe)] if self._targets else []

    async def _probe(self, request: Request) -> Response:
        query = request.query_params
        target = self._targets.get(query.get("target", ""))
        module = query.get("module", "all")
        if target is None or module not in set(Kind):
            detail = f"module is one of {', '.join(Kind)}, target one of [[probes.targets]]"
            return problem_response("bad_request", detail)
        if self._running >= MOST_AT_ONCE:
            return problem_response("unavailable", "too many probes run now", 5.0)
        timeout_s = timeout_of(request.headers.get(_TIMEOUT_HEADER))
        run = Run(Plan(kind=Kind(module), base_url=target.url, quality_s=5), _nobody)
        self._running += 1
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(run.go(), timeout_s)
        finally:
            self._running -= 1
        key = (module, target.id)
        if run.verdict.state in (State.PASSED, State.WARNING):
            self._last_success[key] = time.time()  # noqa: TID251 - an exported timestamp
        page = exposition(run, timeout_s, self._last_success.get(key))
        return Response(page, headers={"Content-Type": CONTENT_TYPE_LATEST})


def timeout_of(header: str | None) -> float:
    """Seconds that a run may take, from Prometheus' header; a default without one."""
    try:
        allowed = float(header) if header else math.nan
    except ValueError:
        allowed = math.nan
    if not math.isfinite(allowed):
        return DEFAULT_TIMEOUT_S
    return min(max(allowed - RESERVE_S, RESERVE_S), DEFAULT_TIMEOUT_S)


def exposition(run: Run, timeout_s: float, last_success: float | None) -> bytes:
    """The metrics of one run; every label is of a closed set or from the deployment's settings."""
    registry = CollectorRegistry()

    def gauge(name: str, text: str, value: float) -> None:
        Gauge(name, text, registry=registry).set(value)

    works = run.verdict.state in (State.PASSED, State.WARNING)
    gauge("probe_success", "1 when the verdict is passed or warning", works)
    gauge("probe_duration_seconds", "Of the whole run", run.duration_s)
    gauge("probe_timeout_seconds", "That the run was allowed", timeout_s)
    if last_success is not None:
        name = "probe_last_success_timestamp_seconds"
        gauge(name, "When this module last succeeded here", last_success)
    _results(registry, list(run.results.values()))
    return generate_latest(registry)


def _results(registry: CollectorRegistry, results: Iterable[CheckResult]) -> None:
    where = ["check", "transport", "region"]
    outcome = Gauge(
        "probe_result", "1 for how a check ended", [*where, "result", "reason"], registry=registry
    )
    lasted = Gauge("probe_check_duration_seconds", "Of one check", where, registry=registry)
    trip = Gauge("probe_round_trip_seconds", "Median of one check", where, registry=registry)
    relay_trip = Gauge(
        "probe_relay_rtt_seconds", "Median through two relays", where[1:], registry=registry
    )
    loss = Gauge("probe_loss_ratio", "Lost packets of one check", where, registry=registry)
    name = "probe_ssl_earliest_cert_expiry"
    certificates = Gauge(name, "Unix seconds, of the server's chain", where, registry=registry)
    score = Gauge("probe_mos", "Estimated mean opinion score", where, registry=registry)
    for result in results:
        labels = (result.name, result.transport or "", result.region or "")
        outcome.labels(*labels, result.state.value, result.reason.value).set(1)
        lasted.labels(*labels).set(result.duration_ms / 1000)
        figures = result.figures
        if "round_trip_ms" in figures:
            trip.labels(*labels).set(figures["round_trip_ms"] / 1000)
            if result.name == "turn":
                relay_trip.labels(*labels[1:]).set(figures["round_trip_ms"] / 1000)
        if "loss_ratio" in figures:
            loss.labels(*labels).set(figures["loss_ratio"])
        if certificate.FIGURE in figures:
            certificates.labels(*labels).set(figures[certificate.FIGURE])
        if "mos" in figures:
            score.labels(*labels).set(figures["mos"])


def _nobody(_: CheckResult) -> None:
    """Prometheus sees results, not progress."""
