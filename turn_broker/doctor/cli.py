"""`parley turn doctor`: says in plain words what is wrong with a TURN server.

Exit codes: 0 good, 1 warning, 2 failed, 64 usage.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from pathlib import Path

import click
import msgspec

from turn_broker.clock import unix_now
from turn_broker.config import SettingsError, load
from turn_broker.credentials import TurnCredential
from turn_broker.doctor.diagnosis import diagnose
from turn_broker.doctor.report import Finding, Report, Severity
from turn_broker.doctor.run import Examination, Knowledge
from turn_broker.ice_servers import TurnUri, parse_turn_uri
from turn_broker.nodes.health import TurnNode
from turn_broker.parts import nodes_of
from turn_broker.turn.client import STEP_TIMEOUT_S

MAX_TARGETS = 16
EXIT_CODES = {Severity.OK: 0, Severity.WARNING: 1, Severity.FAILED: 2}
_MARKS = {
    Severity.OK: ("ok", "green"),
    Severity.NOTE: ("note", "blue"),
    Severity.WARNING: ("warning", "yellow"),
    Severity.FAILED: ("FAILED", "red"),
}


class Misuse(click.UsageError):
    """Exit code 64."""

    exit_code = 64


@click.command("doctor")
@click.argument("targets", nargs=-1, metavar="[URL|NODE]...")
@click.option(
    "--config",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="parley.toml: its nodes, its secrets, its realm.",
)
@click.option("--username", help="Of a credential that somebody has.")
@click.option("--credential", help="Its password; `-` reads it from standard input.")
@click.option("--secret", help="The server's static-auth-secret; `-` reads it from standard input.")
@click.option("--realm", help="The realm the server should have.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0.1, 60),
    default=STEP_TIMEOUT_S,
    show_default=True,
    help="Seconds for each step.",
)
@click.option("--ca", type=click.Path(exists=True, dir_okay=False), help="Authorities to trust.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def doctor(  # noqa: PLR0913 - one parameter per option
    targets: tuple[str, ...],
    path: Path | None,
    username: str | None,
    credential: str | None,
    secret: str | None,
    realm: str | None,
    timeout_s: float,
    ca: str | None,
    as_json: bool,
) -> None:
    """Say in plain words what is wrong with a TURN server.

    A URL without ?transport= is tried over UDP and TCP. Without a target, all nodes of the
    configuration are. Nothing is relayed to anybody but this machine and the server itself.
    """
    nodes, ring, configured_realm = _configured(path)
    uris = _uris(targets, nodes)
    if (username is None) is not (credential is None):
        raise Misuse("--username and --credential go together")
    if [credential, secret].count("-") > 1:
        raise Misuse("standard input holds one secret only")
    given = (
        TurnCredential(username, _argument(credential))
        if username is not None and credential is not None
        else None
    )
    knowledge = Knowledge(
        credential=given,
        secrets=(_argument(secret),) if secret is not None else ring,
        realm=realm or configured_realm,
    )
    if given is None and not knowledge.secrets:
        click.echo("No credential and no secret: only reachability is examined.", err=True)
    examination = Examination(
        knowledge,
        clock=unix_now,
        timeout_s=timeout_s,
        tls=ssl.create_default_context(cafile=ca) if ca else None,
    )
    seen = asyncio.run(examination.observe(uris))
    report = diagnose(seen)
    if as_json:
        click.echo(msgspec.json.encode({"report": report, "observations": seen}))
    else:
        _print(report)
    sys.exit(EXIT_CODES[report.verdict])


def _configured(
    path: Path | None,
) -> tuple[dict[str, TurnNode], tuple[str, ...], str | None]:
    """Nodes by id, secrets with the active one first, and the realm."""
    if path is None:
        return {}, (), None
    try:
        settings = load(path).turn
        nodes = {node.id: node for node in nodes_of(settings)}
    except SettingsError as flaw:
        raise Misuse(str(flaw)) from flaw
    known = (settings.secret, *settings.retiring_secrets)
    return nodes, tuple(secret for secret in known if secret), settings.realm


def _uris(targets: tuple[str, ...], nodes: dict[str, TurnNode]) -> list[TurnUri]:
    found: dict[TurnUri, None] = {}
    for target in targets or nodes:
        if target in nodes:
            found |= dict.fromkeys(nodes[target].urls)
        elif ":" not in target:
            raise Misuse(f"no node {target} is configured, and it is no URL")
        else:
            found |= dict.fromkeys(_of_url(target))
    if not found:
        raise Misuse("give a turn: or turns: URL, or a configuration that names nodes")
    if len(found) > MAX_TARGETS:
        raise Misuse(f"at most {MAX_TARGETS} URLs at once")
    return list(found)


def _of_url(text: str) -> list[TurnUri]:
    try:
        uri = parse_turn_uri(text)
        if uri.scheme == "turn" and "?" not in text:
            return [uri, parse_turn_uri(f"{text}?transport=tcp")]
    except ValueError as flaw:
        raise Misuse(str(flaw)) from flaw
    return [uri]


def _argument(text: str) -> str:
    return sys.stdin.read().strip() if text == "-" else text


def _print(report: Report) -> None:
    width = max((len(finding.where) for finding in report.findings), default=0)
    for finding in report.findings:
        _print_one(finding, width)
    mark, colour = _MARKS[report.verdict]
    click.secho(f"Verdict: {mark}", fg=colour, bold=True)


def _print_one(finding: Finding, width: int) -> None:
    mark, colour = _MARKS[finding.severity]
    lead = f"{mark:<8}{finding.where:<{width}}  "
    click.echo(click.style(f"{mark:<8}", fg=colour) + f"{finding.where:<{width}}  {finding.words}")
    if finding.advice and finding.severity is not Severity.OK:
        click.echo(" " * len(lead) + "-> " + finding.advice)
