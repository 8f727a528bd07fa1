"""`parley turn rotate`: a new TURN secret everywhere, without a refused client.

Asks a running broker and waits until every node has the new secret. It does not know the nodes.
"""

from __future__ import annotations

import time
from typing import Any

import click
import httpx

from turn_broker.cli import Refused
from turn_broker.config import from_environment

POLL_S = 0.2
_PATH = "/v1/turn-secrets"


@click.command("rotate")
@click.option("--url", default="http://127.0.0.1:8080", show_default=True, help="Of the broker.")
@click.option("--admin-token", help="By default PARLEY_SERVER_ADMIN_TOKEN (or ..._FILE).")
@click.option("--account", help="SID of an account, whose own secret is rotated.")
@click.option("--force", is_flag=True, help="Do not wait for nodes without an agent.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(1, 3600), default=60.0)
def rotate(
    url: str, admin_token: str | None, account: str | None, force: bool, timeout_s: float
) -> None:
    """Mint with a new TURN secret; the former one stays good as long as any credential of it."""
    token = admin_token or _from_environment()
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=url, headers=headers, timeout=10) as broker:
        begun = _asked(broker, "POST", f"{_PATH}/rotate", {"account": account, "force": force})
        deadline = time.monotonic() + timeout_s
        while begun["state"] == "next":
            if time.monotonic() > deadline:
                missing = ", ".join(begun["waiting_for"]) or "the broker"
                raise Refused(f"still waiting for {missing}; it goes on without this command")
            time.sleep(POLL_S)
            rings = _asked(broker, "GET", _PATH)["rings"]
            begun = next(ring for ring in rings if ring["ring"] == begun["ring"])
    click.echo(f"ring {begun['ring']} mints with a new secret (version {begun['version']})")


def _from_environment() -> str:
    import os

    token = from_environment(os.environ, "PARLEY_SERVER_ADMIN_TOKEN")  # noqa: TID251 - the command's edge
    if not token:
        raise click.UsageError("give --admin-token or PARLEY_SERVER_ADMIN_TOKEN")
    return token


def _asked(broker: httpx.Client, method: str, path: str, body: Any = None) -> Any:
    try:
        response = broker.request(method, path, json=body)
    except httpx.HTTPError as flaw:
        raise Refused(f"the broker does not answer: {type(flaw).__name__}") from flaw
    if response.is_error:
        raise Refused(f"the broker answers {response.status_code}: {response.text[:200]}")
    return response.json()
