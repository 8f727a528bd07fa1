"""`parley token ...` and `parley turn ...`: the broker's commands under one roof."""

from __future__ import annotations

import click

from turn_broker.cli import create_token, mint, verify, verify_token
from turn_broker.coturn.cli import agent
from turn_broker.doctor.cli import doctor
from turn_broker.fleet.rotate_cli import rotate


@click.group()
def token() -> None:
    """Access tokens for clients."""


@click.group()
def turn() -> None:
    """TURN credentials, and the servers that accept them."""


token.add_command(create_token, "create")
token.add_command(verify_token, "verify")
turn.add_command(mint, "mint")
turn.add_command(verify, "verify")
turn.add_command(rotate, "rotate")
turn.add_command(agent, "agent")
turn.add_command(doctor, "doctor")
