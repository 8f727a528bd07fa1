"""`parley dev`: a whole deployment in one process, for one machine, with nothing installed.

Memory only, embedded TURN relay, keys kept in a state directory. Never for production: it hands
an access token to whoever asks.
"""

from __future__ import annotations

import errno
import json
import os
import socket
from pathlib import Path
from typing import Literal

import click
import msgspec
from click.core import ParameterSource

from probes.settings import ProbeSettings
from signal_server import app, clock, logs, running
from signal_server.cli import keys as key_material
from signal_server.cli.run import run
from signal_server.config import NodeSettings, ServerSettings, Settings
from signal_server.core.rules import NegotiationRules
from signal_server.wire.limits import Limits
from signal_server.wire.rates import RateLimits, unhurried
from turn_broker.cli import Refused
from turn_broker.config import (
    AccountSettings,
    ApiKeySettings,
    BackplaneSettings,
    CorsSettings,
    SettingsError,
    TurnSettings,
    convert,
)
from turn_broker.guesses import GuessLimits
from turn_broker.ice_servers import parse_turn_uri
from turn_broker.issue_limits import IssueLimits
from turn_broker.nodes.health import TurnNode
from turn_broker.relay.control import RelayControl
from turn_broker.relay.server import Relay, RelaySettings

ROOM = "lobby"
IDENTITY = "visitor"
CREDENTIAL_TTL_S = 12 * 3600
"""The embedded relay ends an allocation with its credential: longer than any call tried here."""
_PORTS_TRIED = 50


@click.command()
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    envvar="PARLEY_SERVER_HOST",
    help="Address of the web server.",
)
@click.option(
    "--port",
    default=8080,
    show_default=True,
    envvar="PARLEY_SERVER_PORT",
    type=click.IntRange(0, 65535),
)
@click.option("--turn-port", default=3478, show_default=True, type=click.IntRange(0, 65535))
@click.option("--turn-url", "turn_urls", multiple=True, help="Use this TURN server instead.")
@click.option("--turn-secret", help="Secret shared with the server of --turn-url.")
@click.option(
    "--turn-min-ttl",
    default=60,
    show_default=True,
    type=click.IntRange(1, 3600),
    help="Shortest credential life that may be asked for, in seconds.",
)
@click.option(
    "--resume-window",
    default=60.0,
    show_default=True,
    envvar="PARLEY_LIMITS_RESUME_WINDOW_S",
    type=click.FloatRange(0.1, 3600),
    help="Seconds that a session waits for its client to come back.",
)
@click.option(
    "--glare",
    type=click.Choice(["passthrough", "arbitrate"]),
    default="passthrough",
    show_default=True,
    envvar="PARLEY_NEGOTIATION_GLARE",
    help="Who decides when both peers offer: they themselves, or the server.",
)
@click.option("--no-rate-limits", is_flag=True, help="For load tests.")
@click.option("--region", default="local", show_default=True, envvar="PARLEY_NODE_REGION")
@click.option("--node", "node_name", default="dev", show_default=True, envvar="PARLEY_NODE_NAME")
@click.option(
    "--backplane",
    default="",
    envvar="PARLEY_BACKPLANE_URL",
    metavar="URL",
    help="Redis that this node shares with the others of the same --state.",
)
@click.option(
    "--state",
    default=".parley",
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory of the keys.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON line when ready; logs to stderr.")
@click.pass_context
def dev(  # noqa: PLR0913 - one parameter per option
    context: click.Context,
    host: str,
    port: int,
    turn_port: int,
    turn_urls: tuple[str, ...],
    turn_secret: str | None,
    turn_min_ttl: int,
    resume_window: float,
    glare: Literal["passthrough", "arbitrate"],
    no_rate_limits: bool,
    region: str,
    node_name: str,
    backplane: str,
    state: Path,
    as_json: bool,
) -> None:
    """Run everything in this process, for trying out and for tests."""
    if bool(turn_urls) != bool(turn_secret):
        raise click.UsageError("--turn-url and --turn-secret go together")
    logs.configure("info" if as_json else "warning", "json" if as_json else "text")
    keys = key_material.kept(state)
    listener = _bind(host, port, _is_default(context, "port"))
    settings = Settings(
        server=ServerSettings(host=host, port=port, admin_token=keys.admin_token, drain_s=0),
        node=NodeSettings(name=node_name, region=region),
        cors=CorsSettings(origins=["*"]),
        turn=TurnSettings(
            secret=turn_secret or keys.turn_secret,
            min_ttl_s=turn_min_ttl,
            default_ttl_s=CREDENTIAL_TTL_S,
            state_file="" if turn_urls else str(state / "turn.json"),
            issue=IssueLimits(anonymous_per_s=100, anonymous_burst=1000, anonymous_ttl_s=300),
        ),
        limits=Limits(resume_window_s=resume_window),
        negotiation=NegotiationRules(glare=glare),
        backplane=BackplaneSettings(url=backplane),
        rates=unhurried() if no_rate_limits else RateLimits(),
        # Everybody here comes from one address: one wrong script must not lock the others out.
        guesses=GuessLimits(
            failures=1000, longest_delay_s=1, first_delay_s=0 if no_rate_limits else 0.1
        ),
        probes=ProbeSettings(
            address_per_s=100, address_burst=1000, allow_private_peers=True, peer_relay=True
        ),
        accounts=[
            AccountSettings(
                sid=keys.account_sid,
                auth_token=keys.auth_token,
                keys=[ApiKeySettings(sid=keys.key_sid, secret=keys.key_secret)],
            )
        ],
    )

    async def main() -> None:
        relay = None
        urls = list(turn_urls)
        if not urls:
            relay = await _start_relay(settings, turn_port, _is_default(context, "turn_port"))
            urls = _relay_urls(relay)
        try:
            turn_node = TurnNode(node_name, region, tuple(parse_turn_uri(url) for url in urls))
            control = RelayControl(relay) if relay is not None else None
            node = app.Node(settings, is_dev=True, relay=control, relay_node=turn_node)
            await running.Running(node, listener).serve(
                lambda: _announce(node, keys, listener, urls, as_json), 0.0
            )
        finally:
            if relay is not None:
                await relay.close()

    try:
        # Flags come from people: the settings' own bounds are still to be looked at.
        settings = convert(msgspec.to_builtins(settings), Settings)
        run(main())
    except (SettingsError, ValueError) as flaw:
        raise Refused(str(flaw)) from flaw


def _is_default(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) is ParameterSource.DEFAULT


def _bind(host: str, port: int, may_move: bool) -> socket.socket:
    """Listen on the port; a default one that is taken gives the next free one."""
    last = port + _PORTS_TRIED if may_move else port
    for candidate in range(port, last + 1):
        try:
            listener = running.bind(host, candidate)
        except OSError as flaw:
            if flaw.errno == errno.EADDRINUSE and candidate < last:
                continue
            raise Refused(f"--port {candidate}: {flaw.strerror or flaw}") from flaw
        if candidate != port:
            click.echo(f"port {port} is taken, using {candidate}", err=True)
        return listener
    raise AssertionError("unreachable")


async def _start_relay(settings: Settings, port: int, may_move: bool) -> Relay:
    last = port + _PORTS_TRIED if may_move else port
    for candidate in range(port, last + 1):
        relay_settings = RelaySettings(
            host="127.0.0.1",
            port=candidate,
            realm=settings.turn.realm,
            secrets=(settings.turn.secret,),
        )
        try:
            relay = await Relay.start(
                relay_settings, now_unix=clock.unix, monotonic=clock.monotonic
            )
        except OSError as flaw:
            if flaw.errno == errno.EADDRINUSE and candidate < last:
                continue
            raise Refused(f"--turn-port {candidate}: {flaw.strerror}") from flaw
        if candidate != port and port:
            click.echo(f"TURN port {port} is taken, using {candidate}", err=True)
        return relay
    raise AssertionError("unreachable")


def _relay_urls(relay: Relay) -> list[str]:
    at = f"127.0.0.1:{relay.port}"
    return [f"stun:{at}", f"turn:{at}?transport=udp", f"turn:{at}?transport=tcp"]


def _announce(
    node: app.Node, keys: key_material.Keys, listener: socket.socket, urls: list[str], as_json: bool
) -> None:
    host, port = listener.getsockname()[:2]
    shown = "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host  # noqa: S104
    url = f"http://{shown}:{port}"
    token = node.issue_token(IDENTITY, None)
    if as_json:
        facts = {
            "url": url,
            "ws_url": f"ws://{shown}:{port}{app.SIGNAL_PATH}",
            "account_sid": keys.account_sid,
            "auth_token": keys.auth_token,
            "admin_token": keys.admin_token,
            "access_token": token,
            "room": ROOM,
            "turn_urls": [entry for entry in urls if entry.startswith("turn")],
            "pid": os.getpid(),
        }
        click.echo(json.dumps(facts))
        return
    tokens_url = f"{url}/2010-04-01/Accounts/{keys.account_sid}/Tokens.json"
    click.echo(
        f"""
Parley is ready.

  Demo call        {url}/demo
  Diagnostics      {url}/diagnostics
  Signaling        ws://{shown}:{port}{app.SIGNAL_PATH}
  TURN             {"  ".join(entry for entry in urls if entry.startswith("turn"))}

  Account SID      {keys.account_sid}
  Auth token       {keys.auth_token}
  Admin token      {keys.admin_token}
  Access token     {token}

  ICE servers, as Twilio gives them:
  curl -s -X POST {tokens_url} -u {keys.account_sid}:{keys.auth_token}

Development only. Ctrl-C stops it.
"""
    )
