"""Every dialect through its real client, and its credential through coturn and our own relay."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import boto3
import httpx
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from brokers import (
    ACCOUNT_SID,
    AUTH_TOKEN,
    KEY_SECRET,
    KEY_SID,
    ROOT,
    TURN_SECRET,
    RunningBroker,
    allocation,
    start_broker,
)
from coturn import Coturn, has_coturn, start_coturn
from twilio.base.exceptions import TwilioRestException

from turn_broker.accounts.access_token import AccessTokens
from turn_broker.accounts.table import Account, Accounts, ApiKey
from turn_broker.relay.server import Relay
from turn_broker.relay.settings import RelaySettings

ACCOUNT = Account(ACCOUNT_SID, AUTH_TOKEN, (ApiKey(KEY_SID, KEY_SECRET),))
CHANNEL = "arn:aws:kinesisvideo:eu-west-1:123456789012:channel/door/1600000000000"
JANUS_KEY = f"{KEY_SID}:{KEY_SECRET}"
CLOUDFLARE = f"/v1/turn/keys/{KEY_SID}/credentials"
NODE_CLIENT = """
const twilio = require('twilio');
const [url, sid, token, ttl] = process.argv.slice(1);
const client = twilio(sid, token, { accountSid: process.env.ACCOUNT_SID });
client.api.baseUrl = url;
client.tokens.create(ttl ? { ttl: Number(ttl) } : {}).then(
  (made) => console.log(JSON.stringify(made)),
  (flaw) => console.log(JSON.stringify({ status: flaw.status, code: flaw.code })),
);
"""
Credential = tuple[str, str, list[str]]
"""Username, password, TURN URLs."""


@pytest.fixture(scope="module")
def coturn() -> Iterator[Coturn]:
    if not has_coturn():
        pytest.skip("no turnserver binary")
    with start_coturn(secret=TURN_SECRET) as server:
        yield server


@pytest.fixture(scope="module")
def broker(coturn: Coturn) -> Iterator[RunningBroker]:
    urls = [f"turn:127.0.0.1:{coturn.port}?transport={name}" for name in ("udp", "tcp")]
    with start_broker(f"stun:127.0.0.1:{coturn.port}", *urls) as running:
        yield running


@pytest.fixture
async def relay() -> AsyncIterator[Relay]:
    settings = RelaySettings("parley.test", (TURN_SECRET,))
    relay = await Relay.start(settings, now_unix=time.time, monotonic=time.monotonic)
    try:
        yield relay
    finally:
        await relay.close()


def bearer(identity: str = "@alice:example.org") -> dict[str, str]:
    tokens = AccessTokens(Accounts([ACCOUNT]))
    token = tokens.issue(ACCOUNT, KEY_SID, identity, now=time.time())
    return {"Authorization": f"Bearer {token}"}


def kinesis(broker: RunningBroker, secret: str = KEY_SECRET) -> Any:
    return boto3.client(
        "kinesis-video-signaling",
        endpoint_url=broker.url,
        region_name="eu-west-1",
        aws_access_key_id=KEY_SID,
        aws_secret_access_key=secret,
        config=Config(retries={"max_attempts": 0}),
    )


def node_twilio(broker: RunningBroker, user: str, password: str, ttl: int | None = None) -> Any:
    program = shutil.which("node")
    assert program is not None, "node is missing"
    arguments = [broker.url, user, password, *([str(ttl)] if ttl else [])]
    drop = ("TWILIO_", "HTTP_PROXY", "http_proxy")
    environment = {name: text for name, text in os.environ.items() if not name.startswith(drop)}
    result = subprocess.run(
        [program, "-e", NODE_CLIENT, *arguments],
        cwd=ROOT,
        env=environment | {"ACCOUNT_SID": ACCOUNT_SID},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return json.loads(result.stdout)


def by_twilio_python(broker: RunningBroker) -> Credential:
    token = broker.client().tokens.create(ttl=120)
    urls = [entry["urls"] for entry in token.ice_servers if "username" in entry]
    return token.username, token.password, urls


def by_twilio_node(broker: RunningBroker) -> Credential:
    token = node_twilio(broker, ACCOUNT_SID, AUTH_TOKEN, 120)
    assert token["ttl"] == "120"
    urls = [entry["urls"] for entry in token["iceServers"] if "username" in entry]
    return token["username"], token["password"], urls


def _cloudflare(broker: RunningBroker, path: str) -> httpx.Response:
    return httpx.post(
        f"{broker.url}{CLOUDFLARE}/{path}",
        json={"ttl": 86400, "customIdentifier": "user 4"},
        headers={"Authorization": f"Bearer {KEY_SECRET}"},
    )


def by_cloudflare(broker: RunningBroker) -> Credential:
    answer = _cloudflare(broker, "generate-ice-servers")
    assert answer.status_code == 201
    stun, turn = answer.json()["iceServers"]
    assert set(stun) == {"urls"}
    return turn["username"], turn["credential"], turn["urls"]


def by_cloudflare_generate(broker: RunningBroker) -> Credential:
    answer = _cloudflare(broker, "generate")
    assert answer.status_code == 201
    server = answer.json()["iceServers"]
    urls = [url for url in server["urls"] if url.startswith("turn")]
    return server["username"], server["credential"], urls


def _turn_rest(answer: httpx.Response) -> Credential:
    assert answer.status_code == 200
    body = answer.json()
    assert isinstance(body["ttl"], int)
    return body["username"], body["password"], body["uris"]


def by_janus_get(broker: RunningBroker) -> Credential:
    query = {"service": "turn", "api": JANUS_KEY, "key": JANUS_KEY, "username": "janus"}
    return _turn_rest(httpx.get(f"{broker.url}/turn", params=query))


def by_janus_post(broker: RunningBroker) -> Credential:
    """Janus sends its query as the body of a POST too."""
    query = {"service": "turn", "api": JANUS_KEY, "key": JANUS_KEY}
    return _turn_rest(httpx.post(f"{broker.url}/turn", params=query, data=query))


def by_matrix(broker: RunningBroker) -> Credential:
    url = f"{broker.url}/_matrix/client/v3/voip/turnServer"
    body = httpx.get(url, headers=bearer()).raise_for_status().json()
    assert set(body) == {"username", "password", "uris", "ttl"}
    return body["username"], body["password"], body["uris"]


def by_boto3(broker: RunningBroker) -> Credential:
    answer = kinesis(broker).get_ice_server_config(
        ChannelARN=CHANNEL, ClientId="viewer-1", Service="TURN", Username="alice"
    )
    (server,) = answer["IceServerList"]
    assert server["Ttl"] == 300
    return server["Username"], server["Password"], server["Uris"]


def by_native(broker: RunningBroker) -> Credential:
    body = httpx.get(f"{broker.url}/v1/ice-servers", headers=bearer()).raise_for_status().json()
    turn = body["iceServers"][-1]
    return turn["username"], turn["credential"], turn["urls"]


@pytest.mark.coturn
@pytest.mark.parametrize(
    "ask",
    [
        by_twilio_python,
        by_twilio_node,
        by_cloudflare,
        by_cloudflare_generate,
        by_janus_get,
        by_janus_post,
        by_matrix,
        by_boto3,
        by_native,
    ],
)
async def test_a_credential_of_each_dialect_allocates(
    broker: RunningBroker,
    coturn: Coturn,
    relay: Relay,
    ask: Callable[[RunningBroker], Credential],
) -> None:
    username, password, urls = await asyncio.to_thread(ask, broker)

    assert urls == [f"turn:127.0.0.1:{coturn.port}?transport={name}" for name in ("udp", "tcp")]
    assert not any(name in username for name in ("alice", "janus", "viewer", "user"))
    for transport in ("udp", "tcp"):
        async with allocation(coturn.port, username, password, transport) as relayed:
            assert relayed[0] == "127.0.0.1"
    async with allocation(relay.port, username, password) as relayed:
        assert relayed[0] == "127.0.0.1"


def test_node_sdk_sees_errors_and_takes_an_api_key(broker: RunningBroker) -> None:
    assert node_twilio(broker, ACCOUNT_SID, "wrong") == {"status": 401, "code": 20003}
    assert node_twilio(broker, KEY_SID, KEY_SECRET)["ttl"] == "86400"


def test_boto3_sees_modelled_errors(broker: RunningBroker) -> None:
    with pytest.raises(ClientError) as caught:
        kinesis(broker, "y" * 36).get_ice_server_config(ChannelARN=CHANNEL)
    error = caught.value.response
    assert error["Error"]["Code"] == "InvalidSignatureException"
    assert error["ResponseMetadata"]["HTTPStatusCode"] == 403

    client = kinesis(broker)
    with pytest.raises(client.exceptions.InvalidArgumentException):
        client.get_ice_server_config(ChannelARN="x" * 1025)


def test_cloudflare_revokes(broker: RunningBroker) -> None:
    username, _, _ = by_cloudflare(broker)
    url = f"{broker.url}{CLOUDFLARE}/{username}/revoke"

    refused = httpx.post(url, headers={"Authorization": "Bearer no"})
    assert (refused.status_code, refused.json()["success"]) == (401, False)
    assert httpx.post(url, headers={"Authorization": f"Bearer {KEY_SECRET}"}).status_code == 204


def test_each_dialect_says_in_its_own_words_that_it_is_too_much() -> None:
    with start_broker("turn:192.0.2.1") as broker:
        url = f"{broker.url}/_matrix/client/v3/voip/turnServer"
        statuses: list[int] = []
        while not statuses or statuses[-1] == 200:
            answer = httpx.get(url, headers=bearer())
            statuses.append(answer.status_code)
        assert 20 <= statuses.index(429) < 100  # two seconds give another one
        body = answer.json()
        assert body["errcode"] == "M_LIMIT_EXCEEDED"
        assert 0 < body["retry_after_ms"] <= 2000
        assert 1 <= int(answer.headers["retry-after"]) <= 2
        # Another identity, and the account itself, are not held up.
        assert httpx.get(url, headers=bearer("@bob:example.org")).status_code == 200
        assert broker.client().tokens.create().ttl == "86400"


def test_guessing_locks_an_address_out_of_every_dialect() -> None:
    with start_broker("turn:192.0.2.1") as broker:
        for _ in range(10):
            with pytest.raises(TwilioRestException) as wrong:
                broker.client(ACCOUNT_SID, "wrong").tokens.create()
            assert (wrong.value.status, wrong.value.code) == (401, 20003)

        with pytest.raises(TwilioRestException) as shut_out:
            broker.client().tokens.create()
        assert (shut_out.value.status, shut_out.value.code) == (429, 20429)
        client = kinesis(broker)
        with pytest.raises(client.exceptions.ClientLimitExceededException):
            client.get_ice_server_config(ChannelARN=CHANNEL)
        native = httpx.get(f"{broker.url}/v1/ice-servers", headers=bearer())
        assert (native.status_code, native.json()["code"]) == (429, "rate_limited")
        assert int(native.headers["retry-after"]) > 1000
        envelope = _cloudflare(broker, "generate")
        assert (envelope.status_code, envelope.json()["errors"][0]["code"]) == (429, 971)
