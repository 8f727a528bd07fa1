"""`parley probe turn|ws|api|quality|all URL`: the checks from a terminal, a server or cron.

Progress goes to standard error, the result to standard output. Exit codes: 0 passed, 1 warning,
2 failed, 3 stopped, 64 usage.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import ssl
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import msgspec

from probes.messages import TRANSPORTS
from probes.reasons import EXIT_CODES, SETTLED, State
from probes.runner import Kind, Plan, Run, UnknownRegion
from probes.table import MARKS, as_json, junit, table, title
from probes.verdict import CheckResult


def _base_url(_: click.Context, __: click.Parameter, value: str) -> str:
    try:
        parts = urlsplit(value)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_url = False
    if not is_url or parts.query or parts.fragment:
        raise click.BadParameter("a deployment is an http:// or https:// URL")
    return value.rstrip("/")


def _trust(path: str | None) -> ssl.SSLContext | None:
    try:
        return ssl.create_default_context(cafile=path) if path else None
    except OSError as flaw:
        raise click.BadParameter(f"{path} has no certificates: {flaw}", param_hint="--ca") from None


_OPTIONS = (
    click.argument("url", callback=_base_url, default="http://127.0.0.1:8080"),
    click.option("--json", "is_json", is_flag=True, help="Print one JSON object."),
    click.option("--junit", "junit_path", type=click.Path(dir_okay=False, path_type=Path)),
    click.option(
        "--timeout", "timeout_s", type=click.FloatRange(1, 600), default=120, show_default=True,
        help="Seconds for the whole run.",
    ),
    click.option("--ca", type=click.Path(exists=True, dir_okay=False), help="Trust this CA (PEM)."),
    click.option("--quiet", is_flag=True, help="No progress."),
)  # fmt: skip
_TRANSPORT_OPTION = click.option(
    "--transport", "transports", multiple=True, type=click.Choice(TRANSPORTS)
)
_REGION_OPTION = click.option("--region", "regions", multiple=True, help="Only these regions.")
_QUALITY_OPTION = click.option(
    "--duration", "quality_s", type=click.FloatRange(5, 60), default=12, show_default=True,
    help="Seconds of the quality check.",
)  # fmt: skip


@click.group()
def probe() -> None:
    """Does a deployment work from here, and if not, why."""


def _command(kind: Kind, text: str, *extra: Any) -> None:
    def run(**options: Any) -> int:
        return _probe(kind, **options)

    run.__doc__ = text
    command: Any = run
    for option in (*reversed(_OPTIONS), *reversed(extra)):
        command = option(command)
    probe.command(kind.value)(command)


_command(Kind.API, "The HTTP API: ping, a probe session, the log.")
_command(Kind.WS, "WebSocket frames, in every region.", _REGION_OPTION)
_command(Kind.TURN, "The relay, over each transport.", _REGION_OPTION, _TRANSPORT_OPTION)
_command(Kind.QUALITY, "Sound and picture through the relay.", _TRANSPORT_OPTION, _QUALITY_OPTION)
_command(Kind.ALL, "Everything.", _REGION_OPTION, _TRANSPORT_OPTION, _QUALITY_OPTION)


def _probe(  # noqa: PLR0913 - one parameter per option
    kind: Kind,
    *,
    url: str,
    is_json: bool,
    junit_path: Path | None,
    timeout_s: float,
    ca: str | None,
    quiet: bool,
    transports: tuple[str, ...] = (),
    regions: tuple[str, ...] = (),
    quality_s: float = 12,
) -> int:
    plan = Plan(
        kind=kind,
        base_url=url,
        transports=transports or TRANSPORTS,  # type: ignore[arg-type]
        regions=regions,
        quality_s=quality_s,
        tls=_trust(ca),
    )
    run = Run(plan, _silent if quiet else _progress)
    try:
        asyncio.run(_until_done(run, timeout_s))
    except UnknownRegion as flaw:
        raise click.BadParameter(str(flaw), param_hint="--region") from None
    results, verdict = list(run.results.values()), run.verdict
    if is_json:
        report = as_json(results, verdict, base_url=url, duration_s=run.duration_s)
        click.echo(msgspec.json.encode(report))
    else:
        click.echo(table(results, verdict))
    if junit_path is not None:
        try:
            junit_path.write_bytes(junit(results, run.duration_s))
        except OSError as flaw:
            raise click.BadParameter(str(flaw), param_hint="--junit") from None
    return EXIT_CODES[verdict.state]


async def _until_done(run: Run, timeout_s: float) -> None:
    """Ends by itself, by the deadline, or by Ctrl-C, which keeps what is known so far."""
    going = asyncio.ensure_future(run.go())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, going.cancel)
    with contextlib.suppress(asyncio.CancelledError, TimeoutError):
        await asyncio.wait_for(going, timeout_s)


def _progress(result: CheckResult) -> None:
    if result.state in SETTLED:
        line = f"{MARKS[result.state]}  {title(result)}  {result.detail}".rstrip()
        if result.state in (State.FAILED, State.WARNING) and result.reason:
            line += f"  [{result.reason.value}]"
        click.echo(line, file=sys.stderr)
    else:
        click.echo(f"..  {title(result)}  {result.target or ''}".rstrip(), file=sys.stderr)


def _silent(_: CheckResult) -> None:
    """Nobody watches."""
