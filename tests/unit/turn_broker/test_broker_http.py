"""The broker's HTTP, in process: shapes, refusals, and what no body may do."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException

from turn_broker.accounts.access_token import AccessTokens, Grants
from turn_broker.accounts.table import Account, Accounts, ApiKey
from turn_broker.broker import Broker
from turn_broker.counters import Counters, CountersCollector
from turn_broker.fleet.control_answers import control_paths
from turn_broker.fleet.memory import MemoryFleet
from turn_broker.http import routes
from turn_broker.ice_servers import parse_turn_uri
from turn_broker.issuer import Issuer
from turn_broker.nodes.health import NodeList, TurnNode
from turn_broker.openapi import openapi_document
from turn_broker.problem import framework_problem
from turn_broker.secret_ring import SecretRing

NOW = 1_800_000_000
AC1, AC2, SK1 = "AC" + "1" * 32, "AC" + "2" * 32, "SK" + "1" * 32
SECRET = "one-0123456789abcdef0123456789abcdef"
ACCOUNT = Account(AC1, "token-one", (ApiKey(SK1, SECRET),))
URLS = ("stun:t:3478", "turn:t:3478?transport=udp", "turn:t:3478?transport=tcp", "turns:t:443")
TWILIO_PATH = "/2010-04-01/Accounts/{account_sid}/Tokens"
TWILIO = f"/2010-04-01/Accounts/{AC1}/Tokens.json"
NATIVE = "/v1/ice-servers"
BASIC = httpx.BasicAuth(SK1, SECRET)
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def half_past() -> float:
    return NOW + 0.5


class Served:
    """The routes with everything they stand on, and a client of them."""

    def __init__(self) -> None:
        accounts = Accounts([ACCOUNT, Account(AC2, "token-two")])
        self.tokens = AccessTokens(accounts)
        self.ring = SecretRing("secret")
        self.counters = Counters()
        node = TurnNode("n", "eu", tuple(parse_turn_uri(url) for url in URLS))
        broker = Broker(NodeList([node]), lambda _: self.ring, identity_key="key")
        self.fleet = MemoryFleet(half_past)
        issuer = Issuer(
            broker, accounts, self.tokens, self.fleet, counters=self.counters, clock=half_past
        )
        self.routes = routes(issuer)
        app = Starlette(
            routes=self.routes,
            exception_handlers={HTTPException: framework_problem},
        )
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://broker.test"
        )

    def bearer(self, grants: Grants | None = None, now: float = NOW) -> dict[str, str]:
        token = self.tokens.issue(ACCOUNT, SK1, "alice@example.org", grants=grants, now=now)
        return {"Authorization": f"Bearer {token}"}


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    served = Served()
    async with served.http:
        yield served


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_native_answer(served: Served, method: str) -> None:
    answer = await served.http.request(method, NATIVE, headers=served.bearer())

    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    assert set(body) == {"iceServers", "ice_servers", "username", "ttl", "expires_at", "id"}
    assert body["iceServers"] == body["ice_servers"]
    stun, turn = body["iceServers"]
    assert stun == {"urls": ["stun:t:3478"]}
    assert turn["urls"] == [
        "turn:t:3478?transport=udp",
        "turn:t:3478?transport=tcp",
        "turns:t:443?transport=tcp",
    ]
    assert turn["username"] == body["username"] == f"{NOW + 3600}:{body['id']}"
    assert (body["ttl"], body["expires_at"]) == (3600, NOW + 3600)
    assert served.ring.verify(turn["username"], turn["credential"], NOW) is not None
    assert "alice" not in answer.text
    assert served.counters.issued == {("native", AC1): 1}


async def test_native_wishes_come_as_query_or_body(served: Served) -> None:
    wishes = {"ttl": 90, "region": "eu", "transports": ["tls", "udp"], "max_urls": 1}
    query = {"ttl": "90", "region": "eu", "transports": "tls,udp", "max_urls": "1"}

    answers = [
        await served.http.post(NATIVE, json=wishes, auth=BASIC),
        await served.http.post(NATIVE, params=query, auth=BASIC),
        await served.http.get(NATIVE, params=query, auth=BASIC),
    ]

    for answer in answers:
        assert answer.status_code == 200
        assert answer.json()["ttl"] == 90
        (turn,) = answer.json()["iceServers"]
        assert turn["urls"] == ["turn:t:3478?transport=udp"]


async def test_an_identity_has_one_digest_over_http(served: Served) -> None:
    ids = [
        (await served.http.get(NATIVE, headers=served.bearer())).json()["id"].split(".")
        for _ in range(2)
    ]

    assert ids[0][0] == ids[1][0]
    assert ids[0][1] != ids[1][1]


@pytest.mark.parametrize(
    "request_",
    [
        {"content": b"{"},
        {"content": b"\xff\xfe"},
        {"content": b"[]"},
        {"content": b"null"},
        {"content": b"ttl=60", "headers": FORM},
        {"content": b'{"ttl": NaN}'},
        {"content": b'{"ttl": "60"}'},
        {"content": b'{"ttl": 60.5}'},
        {"content": b'{"ttl": true}'},
        {"content": b'{"ttl": 59}'},
        {"content": b'{"ttl": 86401}'},
        {"content": b'{"ttl": ' + b"9" * 3000 + b"}"},
        {"content": b'{"region": "\\ud800"}'},
        {"content": b'{"region": "' + b"x" * 65 + b'"}'},
        {"content": b'{"transports": ["quic"]}'},
        {"content": b'{"transports": "udp"}'},
        {"content": b'{"max_urls": 5}'},
        {"content": b'{"max_urls": 0}'},
        {"content": b'{"tll": 60}'},
        {"content": b'{"x": ' + b"[" * 4000},
        {"content": b'{"transports": ' + b"[" * 4000},
        {"content": b"[" * 4000},
        {"content": b'{"region": "\xff"}'},
        {"content": b'{"\xff": 1}'},
        {"content": b"{}", "params": {"ttl": "60"}},
        {"params": {"ttl": "9" * 5000}},
        {"params": {"ttl": "sixty"}},
        {"params": {"ttl": ""}},
        {"params": {"ttl": ["60", "61"]}},
        {"params": {"transports": "udp,"}},
        {"params": {"nope": "1"}},
    ],
)
async def test_bad_wishes_are_problems(served: Served, request_: dict[str, Any]) -> None:
    headers = served.bearer() | request_.pop("headers", {})

    answer = await served.http.post(NATIVE, headers=headers, **request_)

    assert_problem(answer, 400, "bad_request")
    assert served.counters.refused == {"bad_request": 1}
    assert not served.counters.issued


def assert_problem(answer: httpx.Response, status: int, code: str) -> None:
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    assert set(body) == {"type", "title", "status", "code", "detail"}
    assert (body["status"], body["code"]) == (status, code)


async def test_too_large_a_body(served: Served) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(1000):
            yield b" " * 1000

    for content in (b" " * 4097, endless()):
        answer = await served.http.post(NATIVE, content=content, auth=BASIC)
        assert_problem(answer, 413, "payload_too_large")
    answer = await served.http.post(TWILIO, content=b"Ttl=60&x=" + b"x" * 5000, auth=BASIC)
    assert_twilio_error(answer, 413, 20001)


async def test_a_declared_length_is_refused_before_the_body_is_waited_for(served: Served) -> None:
    async def never() -> AsyncIterator[bytes]:
        yield b"x" * await asyncio.Event().wait()

    for length in ("4097", "9" * 5000):
        headers = {"Content-Length": length}
        async with asyncio.timeout(20):
            answer = await served.http.post(NATIVE, content=never(), headers=headers, auth=BASIC)
        assert_problem(answer, 413, "payload_too_large")


async def test_a_body_that_never_ends_is_given_up(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stalled() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    monkeypatch.setattr("turn_broker.body.BODY_TIMEOUT_S", 0.05)
    async with asyncio.timeout(20):
        answer = await served.http.post(NATIVE, content=stalled(), auth=BASIC)
    assert_problem(answer, 413, "payload_too_large")


async def test_unknown_routes_and_methods_are_problems(served: Served) -> None:
    assert_problem(await served.http.get("/v1/nothing"), 404, "not_found")
    answer = await served.http.delete(NATIVE)
    assert_problem(answer, 405, "method_not_allowed")
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD", "POST"}


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer abc",
        "Bearer " + "x" * 20_000,
        "Basic",
        "Basic !!!",
        "Basic é",
        "Basic " + base64.b64encode(b"nocolon").decode(),
        "Basic " + base64.b64encode(b"\xff\xfe:x").decode(),
        "Basic " + base64.b64encode(f"{AC1}:wrong".encode()).decode(),
        "Basic " + base64.b64encode(f"{AC1}:".encode()).decode(),
        "Digest username=x",
    ],
)
async def test_unauthenticated(served: Served, authorization: str | None) -> None:
    headers = {} if authorization is None else {b"Authorization": authorization.encode("latin-1")}

    native = await served.http.get(NATIVE, headers=headers)
    twilio = await served.http.post(TWILIO, headers=headers)

    assert_problem(native, 401, "unauthenticated")
    assert "Bearer" in native.headers["www-authenticate"]
    assert_twilio_error(twilio, 401, 20003)
    assert twilio.headers["www-authenticate"].startswith("Basic ")
    assert served.counters.refused == {"unauthenticated": 2}


async def test_an_expired_token_says_so(served: Served) -> None:
    answer = await served.http.get(NATIVE, headers=served.bearer(now=NOW - 9000))

    assert_problem(answer, 401, "token_expired")


async def test_the_turn_grant_is_needed(served: Served) -> None:
    answer = await served.http.get(NATIVE, headers=served.bearer(Grants(turn=False)))

    assert_problem(answer, 403, "forbidden")


def assert_twilio_error(answer: httpx.Response, status: int, code: int) -> None:
    assert answer.status_code == status
    body = answer.json()
    assert set(body) == {"code", "message", "more_info", "status"}
    assert (body["status"], body["code"]) == (status, code)
    assert body["more_info"] == f"https://www.twilio.com/docs/errors/{code}"


@pytest.mark.parametrize("path", [TWILIO, TWILIO.removesuffix(".json")])
@pytest.mark.parametrize("user", [(AC1, "token-one"), (SK1, SECRET)])
async def test_twilio_answer(served: Served, path: str, user: tuple[str, str]) -> None:
    answer = await served.http.post(path, content=b"Ttl=600", headers=FORM, auth=user)

    assert answer.status_code == 201
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert list(body) == [
        "account_sid",
        "date_created",
        "date_updated",
        "ttl",
        "username",
        "password",
        "ice_servers",
    ]
    assert body["account_sid"] == AC1
    assert body["ttl"] == "600"
    assert body["date_created"] == body["date_updated"] == "Fri, 15 Jan 2027 08:00:00 +0000"
    assert parsedate_to_datetime(body["date_created"]).timestamp() == NOW
    assert body["ice_servers"][0] == {"url": "stun:t:3478", "urls": "stun:t:3478"}
    assert len(body["ice_servers"]) == 4
    for entry in body["ice_servers"][1:]:
        assert entry == {
            "url": entry["urls"],
            "urls": entry["urls"],
            "username": body["username"],
            "credential": body["password"],
        }
    assert served.ring.verify(body["username"], body["password"], NOW + 600) is not None
    assert served.ring.verify(body["username"], body["password"], NOW + 601) is None


@pytest.mark.parametrize(
    ("content", "headers", "ttl"),
    [
        (b"", {}, "86400"),
        (b"", FORM, "86400"),
        (b"Other=1", FORM, "86400"),
        (b"Ttl=60", FORM, "60"),
        (b"Ttl=86400", FORM, "86400"),
        (b"Ttl=600", {"Content-Type": FORM["Content-Type"] + "; charset=UTF-8"}, "600"),
    ],
)
async def test_twilio_ttl(
    served: Served, content: bytes, headers: dict[str, str], ttl: str
) -> None:
    answer = await served.http.post(TWILIO, content=content, headers=headers, auth=BASIC)

    assert answer.status_code == 201
    assert answer.json()["ttl"] == ttl


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (b"Ttl=59", FORM["Content-Type"]),
        (b"Ttl=86401", FORM["Content-Type"]),
        (b"Ttl=0", FORM["Content-Type"]),
        (b"Ttl=-60", FORM["Content-Type"]),
        (b"Ttl=", FORM["Content-Type"]),
        (b"Ttl", FORM["Content-Type"]),
        (b"Ttl=6e2", FORM["Content-Type"]),
        (b"Ttl=60.0", FORM["Content-Type"]),
        (b"Ttl=%C2%B260", FORM["Content-Type"]),
        (b"Ttl=%FF", FORM["Content-Type"]),
        (b"\xff\xfe", FORM["Content-Type"]),
        (b"Ttl=" + b"9" * 4000, FORM["Content-Type"]),
        (b"Ttl=60&Ttl=60", FORM["Content-Type"]),
        (b"&".join(b"a=1" for _ in range(100)), FORM["Content-Type"]),
        (b'{"Ttl": 60}', "application/json"),
        (b"x", "multipart/form-data; boundary=x"),
    ],
)
async def test_twilio_bad_parameters(served: Served, content: bytes, content_type: str) -> None:
    headers = {"Content-Type": content_type}

    answer = await served.http.post(TWILIO, content=content, headers=headers, auth=BASIC)

    assert_twilio_error(answer, 400, 20001)


async def test_twilio_other_accounts_and_methods(served: Served) -> None:
    for sid in (AC2, "AC" + "9" * 32, "nonsense"):
        answer = await served.http.post(f"/2010-04-01/Accounts/{sid}/Tokens.json", auth=BASIC)
        assert_twilio_error(answer, 404, 20404)
    for method in ("GET", "PUT", "PATCH", "DELETE"):
        answer = await served.http.request(method, TWILIO, auth=BASIC)
        assert_twilio_error(answer, 405, 20004)
        assert answer.headers["allow"] == "POST, OPTIONS"
    answer = await served.http.options(TWILIO)
    assert (answer.status_code, answer.headers["allow"]) == (204, "POST, OPTIONS")


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=300))
async def test_no_body_is_a_server_error(served: Served, body: bytes) -> None:
    for path in (NATIVE, TWILIO):
        answer = await served.http.post(path, content=body, headers=FORM, auth=BASIC)
        assert answer.status_code in (200, 201, 400)


async def test_counters_are_prometheus_metrics(served: Served) -> None:
    await served.http.get(NATIVE)
    await served.http.get(NATIVE, auth=BASIC)
    await served.http.post(TWILIO, auth=BASIC)
    registry = CollectorRegistry()
    registry.register(CountersCollector(served.counters))

    page = generate_latest(registry).decode()

    for dialect in ("native", "twilio"):
        labels = f'{{account="{AC1}",dialect="{dialect}"}}'
        assert f"turn_broker_credentials_issued_total{labels} 1.0" in page
    assert 'turn_broker_requests_refused_total{code="unauthenticated"} 1.0' in page


def test_openapi_names_every_route_and_no_dangling_schema() -> None:
    document = openapi_document("1")

    served = {route.path for route in Served().routes} - {TWILIO_PATH}
    assert set(document["paths"]) == served | set(control_paths())
    names = set(references(document))
    assert names == {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}


def references(node: Any) -> list[str]:
    if isinstance(node, list):
        return [name for entry in node for name in references(entry)]
    if not isinstance(node, dict):
        return []
    own = [node["$ref"]] if "$ref" in node else []
    return own + [name for entry in node.values() for name in references(entry)]
