"""`python -m probes`: the checks alone, against any deployment."""

from __future__ import annotations

import click

from probes.cli import probe
from probes.reasons import EXIT_CODES, USAGE_EXIT_CODE, State


def main() -> None:
    """Exit codes as `parley probe`."""
    try:
        code = probe.main(prog_name="python -m probes", standalone_mode=False)
    except click.UsageError as flaw:
        flaw.show()
        raise SystemExit(USAGE_EXIT_CODE) from None
    except click.Abort:
        raise SystemExit(EXIT_CODES[State.ABORTED]) from None
    raise SystemExit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
