"""The official Twilio SDK against a real broker process, and its tokens against a real coturn."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from aioice import stun
from brokers import (
    ACCOUNT_SID,
    AUTH_TOKEN,
    KEY_SECRET,
    KEY_SID,
    ROOT,
    TURN_SECRET,
    RunningBroker,
    allocation,
    refusal,
    start_broker,
)
from coturn import Coturn, has_coturn, start_coturn
from twilio.base.exceptions import TwilioRestException
from twilio.http.async_http_client import AsyncTwilioHttpClient
from twilio.rest import Client


@pytest.fixture(autouse=True)
def _plain_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    """These would rewrite the host, or send the SDK through a proxy."""
    for name in ("TWILIO_EDGE", "TWILIO_REGION", "HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def broker() -> Iterator[RunningBroker]:
    with start_broker("turn:192.0.2.1:3478", "stun:192.0.2.1:3478") as running:
        yield running


def expected_password(username: str) -> str:
    return base64.b64encode(
        hmac.digest(TURN_SECRET.encode(), username.encode(), hashlib.sha1)
    ).decode()


@pytest.mark.parametrize("user", [(ACCOUNT_SID, AUTH_TOKEN), (KEY_SID, KEY_SECRET)])
def test_sdk_creates_a_token(broker: RunningBroker, user: tuple[str, str]) -> None:
    token = broker.client(*user).tokens.create(ttl=600)

    assert token.account_sid == ACCOUNT_SID
    assert token.ttl == "600"
    assert abs(token.date_created - datetime.now(UTC)) < timedelta(seconds=60)
    assert token.date_updated == token.date_created
    expiry = int(token.username.partition(":")[0])
    assert expiry == token.date_created.timestamp() + 600
    assert token.password == expected_password(token.username)
    assert token.ice_servers == [
        {"url": "stun:192.0.2.1:3478", "urls": "stun:192.0.2.1:3478"},
        {
            "url": "turn:192.0.2.1:3478?transport=udp",
            "urls": "turn:192.0.2.1:3478?transport=udp",
            "username": token.username,
            "credential": token.password,
        },
    ]


def test_sdk_sees_the_status(broker: RunningBroker) -> None:
    response = broker.client().tokens.create_with_http_info()

    assert response.status_code == 201
    assert response.data.ttl == "86400"


# The SDK uses what aiohttp deprecates.
@pytest.mark.filterwarnings("ignore:(BasicAuth is|The 'auth' parameter is):DeprecationWarning")
async def test_async_sdk(broker: RunningBroker) -> None:
    async with AsyncTwilioHttpClient() as http:
        token = await broker.client(http_client=http).tokens.create_async(ttl=61)

    assert token.ttl == "61"
    assert token.password == expected_password(token.username)


@pytest.mark.parametrize(
    ("user", "ttl", "status", "code"),
    [
        ((ACCOUNT_SID, "wrong"), 60, 401, 20003),
        ((KEY_SID, AUTH_TOKEN), 60, 401, 20003),
        (("AC" + "f" * 32, AUTH_TOKEN), 60, 401, 20003),
        ((ACCOUNT_SID, AUTH_TOKEN), 0, 400, 20001),
        ((ACCOUNT_SID, AUTH_TOKEN), 86401, 400, 20001),
        ((ACCOUNT_SID, AUTH_TOKEN), "soon", 400, 20001),
        ((ACCOUNT_SID, AUTH_TOKEN), "9" * 5000, 413, 20001),
    ],
)
def test_sdk_errors(
    broker: RunningBroker, user: tuple[str, str], ttl: object, status: int, code: int
) -> None:
    with pytest.raises(TwilioRestException) as caught:
        broker.client(*user).tokens.create(ttl=ttl)

    assert (caught.value.status, caught.value.code) == (status, code)


def test_sdk_of_another_account(broker: RunningBroker) -> None:
    client = Client(KEY_SID, KEY_SECRET, account_sid="AC" + "f" * 32)
    client.api.base_url = broker.url
    with pytest.raises(TwilioRestException) as caught:
        client.tokens.create()

    assert (caught.value.status, caught.value.code) == (404, 20404)


def test_broker_alone_has_its_operations(broker: RunningBroker) -> None:
    broker.client().tokens.create()

    assert json.loads(broker.get("/healthz")) == {"status": "ok"}
    assert json.loads(broker.get("/readyz")) == {"status": "ok"}
    assert "/v1/ice-servers" in json.loads(broker.get("/openapi.json"))["paths"]
    labels = f'{{account="{ACCOUNT_SID}",dialect="twilio"}}'
    assert f"turn_broker_credentials_issued_total{labels}" in broker.get("/metrics")


@pytest.mark.parametrize(
    ("environment", "key"),
    [
        ({"PARLEY_TURN_SECRET": "changeme-changeme-changeme-changeme"}, "turn.secret"),
        ({"PARLEY_TURN_SECRET": TURN_SECRET}, "accounts"),
    ],
)
def test_broker_refuses_to_start_and_names_the_key(environment: dict[str, str], key: str) -> None:
    account = {"PARLEY_ACCOUNTS_SID": ACCOUNT_SID, "PARLEY_ACCOUNTS_AUTH_TOKEN": AUTH_TOKEN}
    complete = environment | ({} if key == "accounts" else account)
    result = subprocess.run(
        [sys.executable, "-m", "turn_broker", "--port", "0"],
        check=False,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PARLEY_TURN_URLS": "turn:192.0.2.1", **complete},
        capture_output=True,
        text=True,
        timeout=20,
    )

    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"Error: {key}: ")
    assert "Traceback" not in result.stderr


@pytest.fixture(scope="module")
def relay() -> Iterator[tuple[Coturn, RunningBroker]]:
    if not has_coturn():
        pytest.skip("no turnserver binary")
    with start_coturn(secret=TURN_SECRET) as server:
        urls = [f"turn:127.0.0.1:{server.port}?transport={name}" for name in ("udp", "tcp")]
        with start_broker(*urls) as running:
            yield server, running


@pytest.mark.coturn
async def test_coturn_accepts_until_the_ttl_is_over(
    relay: tuple[Coturn, RunningBroker],
) -> None:
    server, running = relay
    token = await asyncio.to_thread(running.client().tokens.create, ttl=3)
    for transport in ("udp", "tcp"):
        async with allocation(server.port, token.username, token.password, transport) as relayed:
            assert relayed[0] == "127.0.0.1"

    expiry = int(token.username.partition(":")[0])
    async with asyncio.timeout(30):
        code = await refusal(server.port, token.username, token.password)
        while code is None:
            await asyncio.sleep(0.2)
            code = await refusal(server.port, token.username, token.password)
    assert code == 401
    assert 0 < datetime.now(UTC).timestamp() - expiry < 10
    fresh = await asyncio.to_thread(running.client().tokens.create, ttl=60)
    assert await refusal(server.port, fresh.username, fresh.password) is None


@pytest.mark.coturn
async def test_coturn_refuses_a_changed_name(relay: tuple[Coturn, RunningBroker]) -> None:
    server, running = relay
    token = await asyncio.to_thread(running.client().tokens.create, ttl=60)
    later = str(int(token.username.partition(":")[0]) + 3600)
    forged = later + token.username[len(later) :]
    with pytest.raises(stun.TransactionFailed):
        async with allocation(server.port, forged, token.password, "udp"):
            pass


@pytest.mark.coturn
@pytest.mark.parametrize("transport", [[], ["-t"]])
def test_uclient_relays_with_a_token(
    relay: tuple[Coturn, RunningBroker], transport: list[str]
) -> None:
    server, running = relay
    token = running.client().tokens.create(ttl=60)
    result = subprocess.run(
        [
            *("turnutils_uclient", "-u", token.username, "-w", token.password, *transport),
            *f"-p {server.port} -L 127.0.0.1 -y -c -n 5 -m 1 127.0.0.1".split(),
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=server.log.parent,
    )

    assert "Total lost packets 0 (0.000000%)" in result.stdout, result.stdout[-2000:]
