"""A real broker process, and allocations with what it hands out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import selectors
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aioice import stun, turn
from twilio.rest import Client

ACCOUNT_SID, KEY_SID = "AC" + "1a" * 16, "SK" + "2b" * 16
AUTH_TOKEN, KEY_SECRET, TURN_SECRET = (f"{n}-0123456789abcdef0123456789abcdef" for n in "abc")
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class RunningBroker:
    url: str

    def client(self, user: str = ACCOUNT_SID, password: str = AUTH_TOKEN, **options: Any) -> Any:
        client = Client(user, password, account_sid=ACCOUNT_SID, **options)
        client.api.base_url = self.url
        return client

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=10) as reply:
            return str(reply.read().decode())


@contextlib.contextmanager
def start_broker(
    *turn_urls: str,
    extra: dict[str, str] | None = None,
    config: Path | None = None,
    log: Path | None = None,
) -> Iterator[RunningBroker]:
    """`python -m turn_broker` as a foreground child on a free port; `extra` is environment.

    `log` takes its standard error.
    """
    environment = {
        name: text for name, text in os.environ.items() if not name.startswith("PARLEY_")
    } | {
        "PARLEY_TURN_SECRET": TURN_SECRET,
        "PARLEY_TURN_URLS": ",".join(turn_urls),
        "PARLEY_TURN_MIN_TTL_S": "1",
        "PARLEY_ACCOUNTS_SID": ACCOUNT_SID,
        "PARLEY_ACCOUNTS_AUTH_TOKEN": AUTH_TOKEN,
        "PARLEY_ACCOUNTS_KEY_SID": KEY_SID,
        "PARLEY_ACCOUNTS_KEY_SECRET": KEY_SECRET,
        **(extra or {}),
    }
    command = [sys.executable, "-m", "turn_broker", "--port", "0"]
    if config is not None:
        command += ["--config", str(config)]
    with (
        log.open("ab") if log else contextlib.nullcontext() as errors,
        subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as child,
    ):
        try:
            assert child.stdout is not None
            with selectors.DefaultSelector() as selector:
                selector.register(child.stdout, selectors.EVENT_READ)
                assert selector.select(20), "the broker is not ready"
            yield RunningBroker(json.loads(child.stdout.readline())["url"])
            child.terminate()
            assert child.wait(10) == 0
        finally:
            if child.poll() is None:
                child.kill()


class _Receiver(asyncio.DatagramProtocol):
    """The far side of an aioice relay endpoint."""


@contextlib.asynccontextmanager
async def allocation(
    port: int, username: str, password: str, transport: str = "udp"
) -> AsyncIterator[tuple[str, int]]:
    """A relayed address; raises aioice's TransactionFailed when it is refused."""
    endpoint, _ = await turn.create_turn_endpoint(
        _Receiver,
        server_addr=("127.0.0.1", port),
        username=username,
        password=password,
        transport=transport,
    )
    try:
        yield endpoint.get_extra_info("sockname")
    finally:
        endpoint.close()


async def refusal(port: int, username: str, password: str) -> int | None:
    """Error code of an allocation; None when there is one."""
    try:
        async with allocation(port, username, password):
            return None
    except stun.TransactionFailed as failed:
        return int(failed.response.attributes["ERROR-CODE"][0])
