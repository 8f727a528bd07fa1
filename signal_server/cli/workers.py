"""`parley serve --workers N`: N nodes on one machine, one port, one parent that looks after them.

The kernel spreads connections over them (SO_REUSEPORT). A worker that dies is started again; the
parent ends when they all have, or when none of them can start.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from turn_broker.cli import Refused

log = logging.getLogger("parley.workers")

POLL_S = 0.1
QUICK_S = 5.0
"""A worker that ends sooner has not really started."""
MAX_QUICK = 5
"""Quick ends in a row, of all together, before the parent gives up."""
PAUSE_S = 0.5
GRACE_S = 10.0
"""Beyond the drain time, before a worker is killed."""


class _Worker:
    def __init__(self, number: int, command: list[str]) -> None:
        self.number = number
        self._command = [*command, "--worker", str(number)]
        self.start()

    def start(self) -> None:
        self.began_at = time.monotonic()
        self.process = subprocess.Popen(self._command)  # noqa: S603 - ourselves

    @property
    def was_quick(self) -> bool:
        return time.monotonic() - self.began_at < QUICK_S


class _Signals:
    """What the parent was told; the first SIGTERM drains, a second or SIGINT stops at once."""

    def __init__(self) -> None:
        self.count = 0
        self.last = signal.SIGTERM

    def note(self, number: int, _frame: object) -> None:
        self.count += 1
        self.last = signal.Signals(number)


def supervise(path: Path | None, count: int, drain_s: float) -> None:
    """Run the workers until they are told to go; raises Refused when they cannot start."""
    signals = _Signals()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signals.note)
    with tempfile.TemporaryDirectory(prefix="parley-workers-") as folder:
        command = [sys.executable, "-m", "signal_server", "serve", "--worker-folder", folder]
        if path is not None:
            command += ["--config", str(path)]
        workers = [_Worker(number, command) for number in range(1, count + 1)]
        with _ended(workers):
            _look_after(workers, signals)
            _wind_up(workers, signals, drain_s)


def _look_after(workers: list[_Worker], signals: _Signals) -> None:
    quick = 0
    while not signals.count:
        time.sleep(POLL_S)
        for worker in workers:
            code = worker.process.poll()
            if code is None or signals.count:
                continue
            quick = quick + 1 if worker.was_quick else 0
            if quick >= MAX_QUICK:
                raise Refused(f"worker {worker.number} does not start: exit code {code}")
            log.error("a worker has ended", extra={"worker": worker.number, "code": code})
            time.sleep(PAUSE_S if quick else 0)
            worker.start()


def _wind_up(workers: list[_Worker], signals: _Signals, drain_s: float) -> None:
    told = 0
    give_up_at = time.monotonic() + drain_s + GRACE_S
    while any(worker.process.poll() is None for worker in workers):
        if time.monotonic() > give_up_at:
            return
        if told < signals.count:
            told = signals.count
            for worker in workers:
                worker.process.send_signal(signals.last)
        time.sleep(POLL_S)


@contextlib.contextmanager
def _ended(workers: list[_Worker]) -> Iterator[None]:
    """No worker outlives its parent's own end."""
    try:
        yield
    finally:
        for worker in workers:
            if worker.process.poll() is None:
                worker.process.kill()
            worker.process.wait()
