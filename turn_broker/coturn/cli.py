"""`parley turn agent`: the agent beside a coturn, and that coturn's configuration."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import click

from turn_broker.cli import Refused, config_option
from turn_broker.clock import unix_now
from turn_broker.config import SettingsError
from turn_broker.coturn.agent_settings import AgentSettings, load_agent
from turn_broker.coturn.config_text import console_password_of, turnserver_conf
from turn_broker.coturn.control import CoturnControl
from turn_broker.coturn.process import TurnserverProcess
from turn_broker.coturn.settings import CoturnSettingsError, Version, parse_version
from turn_broker.coturn.turndb import TurnDb
from turn_broker.fleet.agent import start_agent
from turn_broker.fleet.contract import Fleet
from turn_broker.fleet.guard import GuardLimits
from turn_broker.fleet.redis import RedisFleet
from turn_broker.fleet.redis_url import connect
from turn_broker.parts import ring_of
from turn_broker.private_file import replace_private
from turn_broker.shell import run


@click.command("agent")
@config_option
@click.option("--node", help="The id of this node in [[turn.nodes]]; over turn.coturn.node.")
@click.option("--print-config", is_flag=True, help="Print turnserver.conf, a secret, and end.")
@click.option(
    "--write-config",
    "written",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write turnserver.conf, readable by its owner only, before anything else.",
)
@click.option("--only", is_flag=True, help="With --write-config: end afterwards.")
@click.option("--run", "program", metavar="TURNSERVER", help="Run this turnserver as well.")
@click.option(
    "--coturn-version", "version_text", help="By default what `turnserver --version` says."
)
def agent(
    path: Path | None,
    node: str | None,
    print_config: bool,
    written: Path | None,
    only: bool,
    program: str | None,
    version_text: str | None,
) -> None:
    """Keep a coturn under the brokers' control: secrets, revocations, quotas, usage, draining."""
    if only and written is None:
        raise click.UsageError("--only needs --write-config")
    try:
        settings = load_agent(path, os.environ, node=node)  # noqa: TID251 - the command's edge
    except SettingsError as flaw:
        raise Refused(str(flaw)) from flaw
    version = _version(version_text, program or "turnserver")
    password = console_password_of(settings.coturn, settings.turn.secret)
    try:
        text = turnserver_conf(
            settings.coturn, realm=settings.turn.realm, console_password=password, version=version
        )
    except CoturnSettingsError as flaw:
        raise Refused(str(flaw)) from flaw
    if print_config:
        click.echo(text, nl=False)
        return
    if written is not None:
        replace_private(written, text.encode())
        if only:
            return
    if not settings.redis_url:
        raise Refused("backplane.url: is missing; brokers and agents meet in Redis")
    try:
        asyncio.run(_serve(settings, password, text, written, program))
    except (OSError, sqlite3.Error) as flaw:
        raise Refused(str(flaw)) from flaw


async def _serve(
    settings: AgentSettings, password: str, text: str, written: Path | None, program: str | None
) -> None:
    for file in (settings.coturn.database, settings.coturn.log_file):
        Path(file).parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    database = TurnDb(Path(settings.coturn.database), settings.turn.realm)
    database.create()
    if not database.secrets():
        database.replace_secrets(ring_of(settings.turn).accepted(unix_now()))
    with tempfile.TemporaryDirectory(prefix="parley-coturn-") as folder:
        config = written or Path(folder) / "turnserver.conf"
        if written is None and program is not None:
            replace_private(config, text.encode())
        stop = asyncio.create_task(_told_to_stop())
        worker = asyncio.create_task(_work(settings, password, config, program))
        await asyncio.wait((stop, worker), return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        worker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await worker  # raises what ended it before it was told to


async def _work(settings: AgentSettings, password: str, config: Path, program: str | None) -> None:
    coturn = settings.coturn
    control = CoturnControl(coturn, realm=settings.turn.realm, console_password=password)
    limits = GuardLimits(allocations_per_identity=coturn.allocations_per_identity)
    async with (
        _fleet(settings) as fleet,
        start_agent(coturn.node, fleet, control, clock=unix_now, limits=limits),
    ):
        click.echo(f"agent of {coturn.node} runs", err=True)
        if program is None:
            await asyncio.Event().wait()
            return
        log = Path(coturn.log_file)
        await TurnserverProcess(program, config, log, coturn.max_log_bytes).run()


@asynccontextmanager
async def _fleet(settings: AgentSettings) -> AsyncIterator[Fleet]:
    try:
        client = connect(settings.redis_url)
    except ValueError as flaw:
        raise OSError(f"backplane.url: {flaw}") from flaw
    fleet = RedisFleet(client, settings.turn.realm, unix_now, seal_key=settings.seal_key)
    await fleet.start()
    try:
        yield fleet
    finally:
        await fleet.close()


async def _told_to_stop() -> None:
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told.set)
    await told.wait()


def _version(text: str | None, program: str) -> Version:
    if text is None:
        try:
            text = subprocess.run(  # noqa: S603 - the operator's own program
                [program, "--version"], capture_output=True, text=True, timeout=10, check=False
            ).stdout
        except (OSError, subprocess.TimeoutExpired) as flaw:
            raise Refused(f"{program} --version: {flaw}; give --coturn-version") from flaw
    version = parse_version(text)
    if version is None:
        raise Refused("what version of coturn it is could not be told; give --coturn-version")
    return version


if __name__ == "__main__":
    run(agent, "python -m turn_broker.coturn.cli")
