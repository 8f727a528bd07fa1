"""One metrics page for several workers: each leaves its own in a file, whoever is scraped adds up.

The kernel decides which worker answers a scrape. A page of a worker that is gone is left out once
it is stale. It does not know what is measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import operator
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from signal_server import clock
from turn_broker.fleet.metrics import SHARED

WRITE_S = 1.0
STALE_S = 10.0
_NOT_ADDED = ("info", "unknown")
"""Kinds of metric of which one worker's is as good as all."""


class WorkerPages:
    """The pages of this worker and its siblings in one folder."""

    def __init__(self, folder: Path, worker: int) -> None:
        self._folder = folder
        self._worker = worker

    async def write_on(self, render: Callable[[], bytes]) -> None:
        """Leave the own page, every second."""
        mine = self._folder / f"{self._worker}.prom"
        draft = mine.with_suffix(".draft")
        while True:
            draft.write_bytes(render())
            os.replace(draft, mine)
            await asyncio.sleep(WRITE_S)

    def render(self, own: bytes) -> bytes:
        """The own page, fresh, and the siblings' added to it."""
        pages = [own.decode()]
        for path in sorted(self._folder.glob("*.prom")):
            if path.stem == str(self._worker):
                continue
            with contextlib.suppress(FileNotFoundError):
                if clock.unix() - path.stat().st_mtime < STALE_S:
                    pages.append(path.read_text())
        return added(pages)


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


def added(pages: Iterable[str]) -> bytes:
    """Samples of one name and the same labels are summed."""
    families: dict[str, Metric] = {}
    sums: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for page in pages:
        for family in text_string_to_metric_families(page):
            families.setdefault(family.name, family)
            values = sums.setdefault(family.name, {})
            together = _together(family)
            for sample in family.samples:
                key = (sample.name, tuple(sorted(sample.labels.items())))
                values[key] = together(values.get(key, 0.0), sample.value)
    return generate_latest(_registry(families, sums))


def _together(family: Metric) -> Callable[[float, float], float]:
    """Workers share one fleet, of which each tells the same."""
    is_same = family.name in SHARED or family.name.endswith("_info")
    return max if is_same or family.type in _NOT_ADDED else operator.add


def _registry(
    families: dict[str, Metric],
    sums: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]],
) -> CollectorRegistry:
    merged = []
    for name, family in families.items():
        metric = Metric(name, family.documentation, family.type)
        for (sample, labels), value in sums[name].items():
            metric.add_sample(sample, dict(labels), value)
        merged.append(metric)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(merged))
    return registry
