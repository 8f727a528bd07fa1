"""The `parley` command: a table of subcommands, each loaded when it is called.

Subcommands live with the room they belong to; this module knows only their names.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version

import click

_COMMANDS = {
    "dev": "signal_server.cli.dev:dev",
    "serve": "signal_server.cli.serve:serve",
    "config": "signal_server.cli.settings:config",
    "keys": "signal_server.cli.keys:keys",
    "token": "signal_server.cli.broker:token",
    "accounts": "turn_broker.accounts.cli:accounts",
    "turn": "signal_server.cli.broker:turn",
    "probe": "probes.cli:probe",
    "version": "signal_server.cli.main:show_version",
}


class _Lazy(click.Group):
    """Imports a subcommand's module only when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        target = _COMMANDS.get(cmd_name)
        if target is None:
            return None
        module, _, name = target.partition(":")
        command = getattr(import_module(module), name)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
def parley() -> None:
    """WebRTC signaling, TURN credentials and connectivity probes in one deployment."""


@click.command("version")
def show_version() -> None:
    """Print the version."""
    from signal_server.build import is_compiled

    click.echo(version("parley-rtc") + (" (compiled)" if is_compiled() else ""))


USAGE_ERROR = 64
ABORTED = 3


def main() -> None:
    """Entry point; usage errors exit with 64, an interrupt with 3."""
    try:
        code = parley.main(standalone_mode=False)
    except click.UsageError as flaw:
        flaw.show()
        raise SystemExit(USAGE_ERROR) from None
    except click.ClickException as flaw:
        flaw.show()
        raise SystemExit(flaw.exit_code) from None
    except click.Abort:
        raise SystemExit(ABORTED) from None
    raise SystemExit(code if isinstance(code, int) else 0)
