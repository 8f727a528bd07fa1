"""Runs a command of this room alone: exit codes 0 good, 2 failed, 3 aborted, 64 usage."""

from __future__ import annotations

from typing import NoReturn

import click

ABORTED = 3
USAGE = 64


def run(command: click.Command, prog_name: str) -> NoReturn:
    """Ends the process; what was wrong is said on standard error."""
    try:
        code = command.main(prog_name=prog_name, standalone_mode=False)
    except click.UsageError as flaw:
        flaw.show()
        raise SystemExit(USAGE) from None
    except click.ClickException as flaw:
        flaw.show()
        raise SystemExit(flaw.exit_code) from None
    except click.Abort:
        raise SystemExit(ABORTED) from None
    raise SystemExit(code if isinstance(code, int) else 0)
