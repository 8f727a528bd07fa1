"""`parley serve`: a production node. Refuses to start on any flaw in its settings."""

from __future__ import annotations

import ctypes
import signal
import sys
from pathlib import Path

import click
import msgspec

from signal_server.cli.settings import config_option, load_checked
from signal_server.config import MAX_WORKERS, Settings
from turn_broker.cli import Refused
from turn_broker.config import SettingsError

_PR_SET_PDEATHSIG = 1


@click.command()
@config_option
@click.option(
    "--workers",
    type=click.IntRange(1, MAX_WORKERS),
    help="Processes that share the port; more than one need a backplane.  [default: 1]",
)
@click.option("--worker", type=int, hidden=True, help="Which of them this process is, from 1.")
@click.option(
    "--worker-folder",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    hidden=True,
    help="Where the workers leave their metrics for each other.",
)
def serve(
    path: Path | None, workers: int | None, worker: int | None, worker_folder: Path | None
) -> None:
    """Run a production node."""
    settings = load_checked(path)
    from signal_server import logs

    logs.configure(settings.log.level, settings.log.format)
    count = workers or settings.server.workers
    if worker is not None:
        _serve(_of_worker(settings, worker), worker, worker_folder)
    elif count > 1:
        from signal_server.cli.workers import supervise

        if not settings.backplane.url:
            raise Refused("server.workers: more than one need backplane.url")
        if settings.server.port == 0:
            raise Refused("server.port: workers share a port, so it must be named")
        supervise(path, count, settings.server.drain_s)
    else:
        _serve(settings, None, None)


def _of_worker(settings: Settings, worker: int) -> Settings:
    """Every worker is a node of its own, with its own journal of webhooks."""
    structs = msgspec.structs
    journal = settings.webhooks.journal
    turn = settings.turn
    if worker > 1:
        # They share what the first one's prober finds, through Redis.
        probing = structs.replace(turn.probing, enabled=False)
        turn = structs.replace(turn, probing=probing)
    return structs.replace(
        settings,
        turn=turn,
        node=structs.replace(settings.node, name=f"{settings.node.name}-{worker}"),
        webhooks=structs.replace(
            settings.webhooks, journal=f"{journal}.{worker}" if journal else journal
        ),
    )


def _end_with_parent() -> None:
    """A worker whose parent is killed drains, as if it had been told to (prctl(2), Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _serve(settings: Settings, worker: int | None, folder: Path | None) -> None:
    from signal_server import app, running
    from signal_server.cli.run import run
    from signal_server.edge.siblings import Siblings
    from signal_server.worker_pages import WorkerPages

    server = settings.server
    try:
        listener = running.bind(server.host, server.port, is_shared=worker is not None)
    except OSError as flaw:
        raise Refused(f"server.port: {flaw.strerror or flaw}") from flaw

    def ready() -> None:
        running.log.info("ready", extra={"port": listener.getsockname()[1]})

    if worker is not None:
        _end_with_parent()

    async def main() -> None:
        if folder is None or worker is None:
            node = app.Node(settings, is_dev=False)
            await running.Running(node, listener).serve(ready, server.drain_s)
            return
        inner = running.bind("127.0.0.1", 0)
        siblings = Siblings(folder, worker)
        siblings.listens(inner.getsockname()[1])
        pages = WorkerPages(folder, worker)
        node = app.Node(settings, is_dev=False, pages=pages, siblings=siblings)
        await running.Running(node, listener, inner).serve(ready, server.drain_s)

    try:
        run(main())
    except SettingsError as flaw:
        raise Refused(str(flaw)) from flaw
