"""`parley serve`: a production node. Refuses to start on any flaw in its settings."""

from __future__ import annotations

from pathlib import Path

import click

from signal_server.cli.settings import config_option, load_checked
from turn_broker.cli import Refused
from turn_broker.config import SettingsError


@click.command()
@config_option
def serve(path: Path | None) -> None:
    """Run a production node."""
    settings = load_checked(path)
    from signal_server import app, logs
    from signal_server.cli.run import run

    logs.configure(settings.log.level, settings.log.format)
    server = settings.server
    try:
        listener = app.bind(server.host, server.port)
    except OSError as flaw:
        raise Refused(f"server.port: {flaw.strerror or flaw}") from flaw

    def ready() -> None:
        app.log.info("ready", extra={"port": listener.getsockname()[1]})

    async def main() -> None:
        node = app.Node(settings, is_dev=False)
        await app.Running(node, listener).serve(ready, server.drain_s)

    try:
        run(main())
    except SettingsError as flaw:
        raise Refused(str(flaw)) from flaw
