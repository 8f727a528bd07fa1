"""The dialects in process: their refusals in their own form, and hostile requests."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette

from turn_broker.accounts.access_token import AccessTokens, Grants
from turn_broker.accounts.table import Account, AccountLimits, Accounts, ApiKey, SecretDigest
from turn_broker.broker import Broker
from turn_broker.fleet.memory import MemoryFleet
from turn_broker.http import routes
from turn_broker.ice_servers import parse_turn_uri
from turn_broker.issue_limits import IssueLimits
from turn_broker.issuer import Issuer
from turn_broker.nodes.health import NodeList, TurnNode
from turn_broker.secret_ring import SecretRing

AC1, SK1, SK2 = "AC" + "1" * 32, "SK" + "1" * 32, "SK" + "2" * 32
SECRET = "one-0123456789abcdef0123456789abcdef"
KEY = ApiKey(SK1, SECRET)
LOGIN = ApiKey(SK2, SecretDigest.of(SECRET, "salt"))
ACCOUNT = Account(AC1, "token-one", (KEY, LOGIN), limits=AccountLimits(per_s=1e6, burst=10**6))
TWILIO = f"/2010-04-01/Accounts/{AC1}/Tokens.json"
CLOUDFLARE = f"/v1/turn/keys/{SK1}/credentials"
MATRIX, REST, KVS = "/_matrix/client/v3/voip/turnServer", "/turn", "/v1/get-ice-server-config"
NATIVE = "/v1/ice-servers"
JANUS = {"service": "turn", "api": f"{SK1}:{SECRET}", "key": f"{SK1}:{SECRET}"}


def unix_now() -> float:
    return datetime.now(UTC).timestamp()


class Served:
    def __init__(self, limits: IssueLimits | None = None) -> None:
        accounts = Accounts([ACCOUNT])
        self.tokens = AccessTokens(accounts)
        self.fleet = MemoryFleet(unix_now)
        urls = ("stun:t", "turn:t", "turn:t?transport=tcp")
        nodes = NodeList([TurnNode("n", "eu", tuple(parse_turn_uri(url) for url in urls))])
        self.issuer = Issuer(
            Broker(nodes, lambda _: SecretRing("s"), identity_key="k"),
            accounts,
            self.tokens,
            self.fleet,
            limits=limits,
        )
        transport = httpx.ASGITransport(Starlette(routes=routes(self.issuer)))
        self.http = httpx.AsyncClient(transport=transport, base_url="http://broker.test")

    def bearer(self, **claims: Any) -> dict[str, str]:
        token = self.tokens.issue(ACCOUNT, SK1, "alice", now=unix_now(), **claims)
        return {"Authorization": f"Bearer {token}"}

    async def kvs(self, body: bytes, key: str = SK1, path: str = KVS) -> httpx.Response:
        request = AWSRequest("POST", f"http://broker.test{path}", {}, body)
        SigV4Auth(Credentials(key, SECRET), "kinesisvideo", "eu-west-1").add_auth(request)
        return await self.http.post(path, content=body, headers=dict(request.headers.items()))


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    served = Served()
    async with served.http:
        yield served


BEARER = {"Authorization": f"Bearer {SECRET}"}


async def test_cloudflare_answers(served: Served) -> None:
    body = {"ttl": 600, "customIdentifier": "user 4"}
    answer = await served.http.post(f"{CLOUDFLARE}/generate", json=body, headers=BEARER)

    assert (answer.status_code, answer.headers["cache-control"]) == (201, "no-store")
    server = answer.json()["iceServers"]
    assert server["urls"][0] == "stun:t:3478"
    record = await served.fleet.token(server["username"].partition(":")[2])
    assert record is not None
    assert (record.label, record.dialect) == ("user 4", "cloudflare")
    empty = await served.http.post(f"{CLOUDFLARE}/generate-ice-servers", headers=BEARER)
    assert len(empty.json()["iceServers"]) == 2


@pytest.mark.parametrize(
    ("path", "content", "headers", "status", "code"),
    [
        ("generate", b"{", BEARER, 400, 6003),
        ("generate", b"[]", BEARER, 400, 6003),
        ("generate", b'{"ttl": 172801}', BEARER, 400, 6003),
        ("generate", b'{"ttl": 1}', BEARER, 400, 6003),
        ("generate", b'{"ttl": "60"}', BEARER, 400, 6003),
        ("generate", b'{"customIdentifier": {"a": 1}}', BEARER, 400, 6003),
        ("generate", b'{"customIdentifier": "' + b"x" * 257 + b'"}', BEARER, 400, 6003),
        ("generate", b'{"x":' + b"[" * 4000, BEARER, 400, 6003),
        ("generate", b" " * 5000, BEARER, 413, 6003),
        ("generate", b"{}", {}, 401, 10000),
        ("generate", b"{}", {"Authorization": "Bearer no"}, 401, 10000),
        ("a%00b/revoke", b"", BEARER, 404, 7003),
        ("2000000000:nobody.nothing/revoke", b"", BEARER, 404, 7003),
        ("2000000000:nobody.nothing/revoke", b"", {}, 401, 10000),
    ],
)
async def test_cloudflare_refusals(
    served: Served, path: str, content: bytes, headers: dict[str, str], status: int, code: int
) -> None:
    answer = await served.http.post(f"{CLOUDFLARE}/{path}", content=content, headers=headers)

    assert answer.status_code == status
    body = answer.json()
    assert (body["success"], body["result"], body["messages"]) == (False, None, [])
    assert [flaw["code"] for flaw in body["errors"]] == [code]


async def test_an_account_sid_is_no_turn_key(served: Served) -> None:
    path = f"/v1/turn/keys/{AC1}/credentials/generate"
    answer = await served.http.post(path, headers={"Authorization": "Bearer token-one"})

    assert answer.status_code == 401


async def test_turn_rest_names_an_identity_but_never_shows_it(served: Served) -> None:
    named = JANUS | {"username": "alice' or 1=1 %s \u2603"}
    answers = [await served.http.get(REST, params=named) for _ in range(2)]

    digests = {answer.json()["username"].partition(":")[2].partition(".")[0] for answer in answers}
    assert digests == {served.issuer.broker.identity_digest(AC1, named["username"])}
    assert set(answers[0].json()) == {"username", "password", "ttl", "uris"}
    assert answers[0].json()["uris"] == ["turn:t:3478?transport=udp", "turn:t:3478?transport=tcp"]
    by_login = {"key": f"{SK2}:{SECRET}", "ttl": "60"}
    assert (await served.http.get(REST, params=by_login)).json()["ttl"] == 60
    assert (await served.http.get(REST, headers=served.bearer())).status_code == 200


@pytest.mark.parametrize(
    ("query", "body", "status"),
    [
        ({}, b"", 401),
        ({"key": SK1}, b"", 401),
        ({"key": f"{SK1}:no"}, b"", 401),
        (JANUS | {"service": "stun"}, b"", 400),
        (JANUS | {"ttl": "-1"}, b"", 400),
        (JANUS | {"ttl": "1e3"}, b"", 400),
        (JANUS | {"ttl": "9" * 30}, b"", 400),
        (JANUS | {"username": "x" * 257}, b"", 400),
        (JANUS, b"service=turn&key=other", 400),
        (JANUS, b"\xff", 400),
        (JANUS, b"username=%FF", 400),
        (JANUS, b"&".join(b"a%d=1" % n for n in range(50)), 400),
        (JANUS, b"x" * 5000, 413),
    ],
)
async def test_turn_rest_refusals(
    served: Served, query: dict[str, str], body: bytes, status: int
) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = await served.http.post(REST, params=query, content=body, headers=form)

    assert answer.status_code == status
    assert answer.json()["status"] == status
    assert SECRET not in answer.text


async def test_turn_rest_takes_no_other_body(served: Served) -> None:
    answer = await served.http.post(REST, params=JANUS, json={"service": "turn"})

    assert answer.status_code == 400


async def test_matrix_refusals(served: Served) -> None:
    missing = await served.http.get(MATRIX)
    assert (missing.status_code, missing.json()["errcode"]) == (401, "M_MISSING_TOKEN")
    wrong = await served.http.get(MATRIX, headers={"Authorization": "Bearer x"})
    assert (wrong.status_code, wrong.json()["errcode"]) == (401, "M_UNKNOWN_TOKEN")
    denied = await served.http.get(MATRIX, headers=served.bearer(grants=Grants(turn=False)))
    assert (denied.status_code, denied.json()["errcode"]) == (403, "M_FORBIDDEN")


async def test_kvs_names_an_identity(served: Served) -> None:
    asked = {"ChannelARN": "arn:x", "ClientId": "viewer", "Username": "alice", "Service": "TURN"}
    answer = await served.kvs(json.dumps(asked).encode())

    assert answer.status_code == 200
    (server,) = answer.json()["IceServerList"]
    digest = served.issuer.broker.identity_digest(AC1, "viewer")
    assert server["Username"].partition(":")[2].startswith(f"{digest}.")
    assert (server["Ttl"], server["Uris"][0]) == (300, "turn:t:3478?transport=udp")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"ChannelARN": 1}',
        b'{"ChannelARN": ""}',
        b"\xff",
        b"[" * 4000,
        b'{"ChannelARN": "x", "Service": "STUN"}',
        b'{"ChannelARN": "x", "ClientId": ""}',
    ],
)
async def test_kvs_refusals(served: Served, body: bytes) -> None:
    answer = await served.kvs(body)

    assert answer.status_code == 400
    assert answer.headers["x-amzn-errortype"] == "InvalidArgumentException"
    assert set(answer.json()) == {"message"}


async def test_kvs_signatures(served: Served) -> None:
    body = b'{"ChannelARN": "x"}'
    unsigned = await served.http.post(KVS, content=body)
    others = [
        unsigned,
        await served.kvs(body, key=SK2),  # only its digest is known
        await served.kvs(body, key="SK" + "9" * 32),
        await served.kvs(body, path=f"{KVS}?a=1"),
    ]

    for answer in others:
        assert answer.status_code == 403
        assert answer.headers["x-amzn-errortype"] == "InvalidSignatureException"
        assert answer.headers["cache-control"] == "no-store"
    too_large = await served.http.post(KVS, content=b" " * 5000)
    assert too_large.status_code == 413


async def test_native_terms_and_identity(served: Served) -> None:
    basic = httpx.BasicAuth(SK1, SECRET)
    terms = {"hard_expiry": True, "max_bytes": 5, "bind_address": True}
    asked = {"identity": "alice", "terms": terms}
    body = (await served.http.post(NATIVE, json=asked, auth=basic)).json()

    record = await served.fleet.token(body["id"])
    assert record is not None
    assert record.identity == served.issuer.broker.identity_digest(AC1, "alice")
    assert (record.terms.hard_expiry, record.terms.max_bytes) == (True, 5)
    assert record.terms.address == "127.0.0.1"
    other = await served.http.post(NATIVE, json={"identity": "bob"}, headers=served.bearer())
    assert (other.status_code, other.json()["code"]) == (403, "forbidden")
    own = await served.http.post(NATIVE, json={"identity": "alice"}, headers=served.bearer())
    assert own.status_code == 200
    flaws: list[dict[str, Any]] = [
        {"terms": {"max_bytes": 0}},
        {"terms": {"x": 1}},
        {"terms": []},
        {"identity": ""},
    ]
    for flaw in flaws:
        assert (await served.http.post(NATIVE, json=flaw, auth=basic)).status_code == 400
    query = await served.http.get(NATIVE, params={"terms": "{}"}, auth=basic)
    assert query.status_code == 400


@pytest.mark.parametrize("path", [NATIVE, MATRIX, REST])
async def test_too_many_says_when_to_come_back(path: str) -> None:
    served = Served(IssueLimits(identity_burst=1, identity_per_s=0.1))
    async with served.http:
        statuses = [
            (await served.http.get(path, headers=served.bearer())).status_code for _ in range(2)
        ]
        answer = await served.http.get(path, headers=served.bearer())

    assert statuses == [200, 429]
    assert answer.headers["retry-after"] == "10"
    assert served.issuer.counters.refused == {"rate_limited": 2}


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.binary(max_size=200),
    header=st.binary(max_size=60).filter(lambda octets: not set(octets) & set(b"\r\n\0")),
    query=st.text(max_size=40),
)
async def test_nothing_is_a_server_error(
    served: Served, body: bytes, header: bytes, query: str
) -> None:
    fields = {b"Authorization": header, b"X-Amz-Date": header, b"Content-Type": header}
    for method, path in (
        ("POST", TWILIO),
        ("POST", f"{CLOUDFLARE}/generate"),
        ("POST", REST),
        ("GET", MATRIX),
        ("POST", KVS),
        ("POST", NATIVE),
    ):
        answer = await served.http.request(
            method, path, params={"key": query}, content=body, headers=fields
        )
        assert answer.status_code in (400, 401, 403, 404, 429), (path, answer.text)
