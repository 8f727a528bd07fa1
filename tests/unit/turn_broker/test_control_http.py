"""The control endpoints, in process: what they do, for whom, and what no answer tells."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException

from turn_broker.accounts.access_token import AccessTokens, Grants
from turn_broker.accounts.table import Account, Accounts, ApiKey
from turn_broker.administrators import Administrators
from turn_broker.broker import Broker
from turn_broker.fleet.contract import FleetUnavailable
from turn_broker.fleet.control_answers import CONTROL_TYPES, control_paths
from turn_broker.fleet.control_http import ControlApi
from turn_broker.fleet.memory import MemoryFleet
from turn_broker.fleet.messages import Charge, LiveSession, NodeReport, Terms, TokenRecord
from turn_broker.fleet.rotation import Rotation
from turn_broker.http import routes
from turn_broker.ice_servers import parse_turn_uri
from turn_broker.issuer import Issuer
from turn_broker.nodes.health import NodeList, TurnNode
from turn_broker.problem import framework_problem
from turn_broker.secret_ring import SecretRing

AC1, AC2, SK1, SK2 = "AC" + "1" * 32, "AC" + "2" * 32, "SK" + "1" * 32, "SK" + "2" * 32
SECRETS = {SK1: "one-0123456789abcdef0123456789abcdef", SK2: "two-0123456789abcdef0123456789abcdef"}
OWN = (SK1, SECRETS[SK1])
OTHER = (SK2, SECRETS[SK2])
ADMIN = {"Authorization": "Bearer the-admin-token"}
TURN_SECRET = "turn-secret-that-must-not-show-anywhere"
FOREVER = 2**32 - 100


class Http:
    """A client that waits for its answers, and the loop that the endpoints run on."""

    def __init__(self, app: Starlette) -> None:
        self.loop = asyncio.Runner()
        transport = httpx.ASGITransport(app)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://broker.test")

    def request(self, method: str, path: str, **more: Any) -> httpx.Response:
        return self.loop.run(self._client.request(method, path, **more))

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.request("GET", path, **more)

    def post(self, path: str, **more: Any) -> httpx.Response:
        return self.request("POST", path, **more)

    def delete(self, path: str, **more: Any) -> httpx.Response:
        return self.request("DELETE", path, **more)

    def close(self) -> None:
        self.loop.run(self._client.aclose())
        self.loop.close()


class Desk:
    """The endpoints with everything behind them."""

    def __init__(self) -> None:
        self.accounts = [
            Account(AC1, "token-one", (ApiKey(SK1, SECRETS[SK1]),)),
            Account(AC2, "token-two", (ApiKey(SK2, SECRETS[SK2]),)),
        ]
        accounts = Accounts(self.accounts)
        self.tokens = AccessTokens(accounts)
        self.fleet = MemoryFleet(time.time)
        url = parse_turn_uri("turn:a.test:3478?transport=udp")
        self.nodes = NodeList([TurnNode("a", "eu", (url,)), TurnNode("b", "us", (url,), 2)])
        self.rotation = Rotation(
            self.fleet,
            SecretRing(TURN_SECRET),
            ["a", "b"],
            time.time,
            max_ttl_s=3600,
            new_secret=lambda: "new-" + TURN_SECRET,
        )
        self.broker = Broker(self.nodes, self.rotation.ring, identity_key="key")
        issuer = Issuer(self.broker, accounts, self.tokens, self.fleet)
        who = Administrators(issuer, default_account=AC1, admin_token="the-admin-token")
        api = ControlApi(issuer, self.fleet, self.rotation, who)
        self.control = api.routes()
        app = Starlette(
            routes=[*self.control, *routes(issuer)],
            exception_handlers={HTTPException: framework_problem},
        )
        self.http = Http(app)

    def bearer(
        self, at: int = 0, identity: str = "alice", room: str | None = None, **grants: bool
    ) -> dict[str, str]:
        account = self.accounts[at]
        token = self.tokens.issue(
            account,
            account.api_keys[0].sid,
            identity,
            room=room,
            grants=Grants(**grants),
            now=time.time(),
        )
        return {"Authorization": f"Bearer {token}"}

    def record(self, name: str = "alice.1", account: str = AC1) -> str:
        token = TokenRecord(
            id=name,
            account=account,
            issued_at=1,
            expires_at=FOREVER,
            dialect="native",
            label="room",
            terms=Terms(hard_expiry=True),
        )
        self.fleet.record(token)
        return f"/v1/tokens/{name}"

    def run(self, call: Any, *arguments: Any) -> Any:
        return self.http.loop.run(call(*arguments))

    def report(self, node: str, *live: str, version: int = 0, is_draining: bool = False) -> None:
        sessions = tuple(LiveSession(session="1", id=name, since=1) for name in live)
        report = NodeReport(
            node=node,
            at=int(time.time()),
            software="coturn 4.6.1",
            secrets_version=version,
            sessions=sessions,
            live=len(live),
            is_draining=is_draining,
        )
        self.run(self.fleet.report, report)


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    desk.http.close()


def test_a_token(desk: Desk) -> None:
    path = desk.record()
    desk.report("a", "alice.1", "alice.1")
    desk.run(
        desk.fleet.charge,
        [Charge(id="alice.1", sent_bytes=5, received_bytes=7, opened=2)],
    )

    answer = desk.http.get(path, auth=OWN)

    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json() == {
        "id": "alice.1",
        "account_sid": AC1,
        "issued_at": 1,
        "expires_at": FOREVER,
        "dialect": "native",
        "label": "room",
        "terms": {"hard_expiry": True},
        "revoked": False,
        "usage": {
            "sent_bytes": 5,
            "received_bytes": 7,
            "bytes": 12,
            "allocations": 2,
            "live": 2,
        },
    }


def test_a_revoked_token(desk: Desk) -> None:
    path = desk.record()

    answer = desk.http.delete(path, auth=OWN)

    assert answer.status_code == 200
    assert answer.json() == {"id": "alice.1", "relays_cut": 0, "nodes": [], "silent": []}
    assert desk.fleet.is_revoked("alice.1")
    assert desk.http.get(path, auth=OWN).json()["revoked"] is True


def test_a_silent_node_is_named(desk: Desk) -> None:
    desk.report("a")

    answer = desk.http.delete(desk.record(), auth=OWN)

    assert answer.json()["silent"] == ["a"]


def test_a_token_that_was_granted_can_be_looked_up(desk: Desk) -> None:
    granted = desk.http.post("/v1/ice-servers", headers=desk.bearer()).json()

    answer = desk.http.get(f"/v1/tokens/{granted['id']}", auth=OWN)

    assert answer.json()["expires_at"] == granted["expires_at"]


def test_a_revoked_identity_gets_no_other_token(desk: Desk) -> None:
    first = desk.http.post("/v1/ice-servers", headers=desk.bearer())
    assert first.status_code == 200

    answer = desk.http.post("/v1/identities/alice/revoke", auth=OWN, json={"for_s": 90_000})

    assert answer.status_code == 200
    assert answer.json()["identity"] == "alice"
    assert answer.json()["until"] >= time.time() + 89_990
    assert desk.fleet.is_revoked(first.json()["id"])
    assert desk.http.post("/v1/ice-servers", headers=desk.bearer()).status_code == 403
    for other in (desk.bearer(identity="bob"), desk.bearer(1)):
        assert desk.http.post("/v1/ice-servers", headers=other).status_code == 200


@pytest.mark.parametrize("identity", ["alice", "a/b/revoke", "käthe@example.org", "x" * 128])
def test_usage_of_an_identity(desk: Desk, identity: str) -> None:
    digest = desk.broker.identity_digest(AC1, identity)
    desk.run(desk.fleet.charge, [Charge(id=f"{digest}.1", sent_bytes=5)])
    path = f"/v1/identities/{identity}/usage"

    assert desk.http.get(path, auth=OWN).json()["sent_bytes"] == 5
    assert desk.http.get(path, auth=OTHER).json()["sent_bytes"] == 0
    assert desk.http.get(path, headers=ADMIN).json()["sent_bytes"] == 5
    by_admin = desk.http.get(path, headers=ADMIN, params={"account": AC2})
    assert by_admin.json()["sent_bytes"] == 0


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_another_accounts_token_is_unknown(desk: Desk, method: str) -> None:
    path = desk.record()
    unknown = desk.http.request(method, "/v1/tokens/nobody.1", auth=OTHER)
    theirs = desk.http.request(method, path, auth=OTHER)
    admin_of_other = desk.http.request(method, path, headers=desk.bearer(1, admin=True))

    assert unknown.status_code == theirs.status_code == admin_of_other.status_code == 404
    assert unknown.content == theirs.content
    assert not desk.fleet.is_revoked("alice.1")
    assert desk.http.request(method, path, headers=ADMIN).status_code == 200


def test_who_may_ask(desk: Desk) -> None:
    path = desk.record()

    assert desk.http.get(path, headers=desk.bearer(admin=True)).status_code == 200
    assert desk.http.get(path, auth=(AC1, "token-one")).status_code == 200
    assert desk.http.get(path, headers=desk.bearer()).json()["code"] == "forbidden"
    assert desk.http.get(path, auth=(SK1, "wrong")).json()["code"] == "unauthenticated"
    assert desk.http.get(path).status_code == 401
    assert desk.http.get(path, headers={"Authorization": "Bearer wrong"}).status_code == 401
    foreign = desk.http.get("/v1/identities/x/usage", auth=OWN, params={"account": AC2})
    assert foreign.json()["code"] == "forbidden"
    some_rooms = desk.http.get(path, headers=desk.bearer(room="lobby-*", admin=True))
    assert some_rooms.json()["code"] == "forbidden"
    nobody = desk.http.get(
        "/v1/identities/x/usage", headers=ADMIN, params={"account": "AC" + "9" * 32}
    )
    assert nobody.json()["code"] == "not_found"


OPERATED = [
    ("GET", "/v1/turn-nodes"),
    ("POST", "/v1/turn-nodes/a/drain"),
    ("POST", "/v1/turn-nodes/a/undrain"),
    ("GET", "/v1/turn-secrets"),
    ("POST", "/v1/turn-secrets/rotate"),
]


@pytest.mark.parametrize(("method", "path"), OPERATED)
def test_nodes_and_secrets_are_the_operators(desk: Desk, method: str, path: str) -> None:
    for headers in (desk.bearer(1, admin=True), desk.bearer(admin=True), desk.bearer()):
        assert desk.http.request(method, path, headers=headers).json()["code"] == "forbidden"
    assert desk.http.request(method, path, auth=OTHER).json()["code"] == "forbidden"
    for granted in (
        desk.http.request(method, path, auth=OWN),
        desk.http.request(method, path, headers=ADMIN),
    ):
        assert granted.status_code in (200, 409)
        assert TURN_SECRET not in granted.text
        assert granted.headers["cache-control"] == "no-store"


def test_guessing_the_admin_token_shuts_out(desk: Desk) -> None:
    for number in range(50):
        desk.http.get("/v1/turn-nodes", headers={"Authorization": f"Bearer guess-{number}"})

    answer = desk.http.get("/v1/turn-nodes", headers=ADMIN)

    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1


def test_nodes_with_health_agent_and_sessions(desk: Desk) -> None:
    desk.report("a", "alice.1", version=3)
    desk.report("stranger")
    url = desk.nodes.nodes[0].urls[0]
    for _ in range(3):
        desk.nodes.observe("b", url, "down", 1.0, "timeout")

    first, second, third = desk.http.get("/v1/turn-nodes", auth=OWN).json()["nodes"]

    assert (first["id"], first["region"], first["up"], first["draining"]) == (
        "a",
        "eu",
        True,
        False,
    )
    assert first["agent"]["software"] == "coturn 4.6.1"
    assert (first["agent"]["sessions"], first["agent"]["secrets_version"]) == (1, 3)
    assert (second["id"], second["up"], second["weight"], second["agent"]) == ("b", False, 2, None)
    (health,) = second["urls"]
    assert (health["listed"], health["verdict"], health["reason"]) == (False, "down", "timeout")
    assert (third["id"], third["region"]) == ("stranger", None)


def test_drain_and_undrain(desk: Desk) -> None:
    desk.report("a", "alice.1")
    desk.report("b", is_draining=True)

    drained = desk.http.post("/v1/turn-nodes/a/drain", auth=OWN)

    assert drained.json() == {"id": "a", "draining": True, "sessions": 1}
    assert [status.is_draining for status in desk.nodes.statuses()] == [True, True]
    assert desk.http.post("/v1/turn-nodes/b/drain", auth=OWN).json()["sessions"] == 0
    assert desk.http.post("/v1/turn-nodes/b/undrain", auth=OWN).json()["draining"] is False
    nodes = desk.http.get("/v1/turn-nodes", auth=OWN).json()["nodes"]
    assert [node["draining"] for node in nodes] == [True, False]
    assert desk.http.post("/v1/turn-nodes/zzz/drain", auth=OWN).json()["code"] == "not_found"


def test_rotation(desk: Desk) -> None:
    desk.report("a")
    refused = desk.http.post("/v1/turn-secrets/rotate", auth=OWN)
    assert refused.status_code == 409
    assert refused.json()["detail"] == "nodes without a live agent: b"

    begun = desk.http.post("/v1/turn-secrets/rotate", auth=OWN, json={"force": True})

    assert begun.status_code == 202
    assert (begun.json()["ring"], begun.json()["state"]) == ("*", "next")
    assert begun.json()["waiting_for"] == ["a"]
    desk.report("b")
    own = desk.http.post("/v1/turn-secrets/rotate", auth=OWN, json={"account": AC2})
    assert own.json()["ring"] == AC2
    rings = desk.http.get("/v1/turn-secrets", auth=OWN).json()["rings"]
    assert [ring["ring"] for ring in rings] == ["*", AC2]
    unknown = desk.http.post("/v1/turn-secrets/rotate", auth=OWN, json={"account": "AC" + "9" * 32})
    assert unknown.json()["code"] == "not_found"


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b"\xff", b'{"for_s": 0}', b'{"for_s": "1"}', b'{"until": 1}', b"[" * 4000]
)
def test_bodies_that_are_none(desk: Desk, body: bytes) -> None:
    answer = desk.http.post("/v1/identities/alice/revoke", auth=OWN, content=body)

    assert answer.json()["code"] == "bad_request"
    assert not desk.run(desk.fleet.revocations)


def test_hostile_paths(desk: Desk) -> None:
    too_large = desk.http.post("/v1/identities/a/revoke", auth=OWN, content=b" " * 5000)
    assert too_large.status_code == 413
    assert desk.http.get("/v1/identities/" + "x" * 129 + "/usage", auth=OWN).status_code == 400
    for name in ("%00", "a%0Ab", "%F0%9F%98%80", "x" * 3000, "a.b:c", "*"):
        assert desk.http.get(f"/v1/tokens/{name}", auth=OWN).status_code == 404


def test_a_fleet_that_cannot_be_reached(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: Any) -> Any:
        raise FleetUnavailable("Redis: TimeoutError")

    for name in ("token", "revoke", "usage", "reports", "draining", "drain", "secrets"):
        monkeypatch.setattr(desk.fleet, name, away)
    requests = [
        *OPERATED,
        ("GET", "/v1/tokens/alice.1"),
        ("DELETE", "/v1/tokens/alice.1"),
        ("POST", "/v1/identities/a/revoke"),
        ("GET", "/v1/identities/a/usage"),
    ]
    for method, path in requests:
        answer = desk.http.request(method, path, auth=OWN)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5"), path


def test_openapi_names_every_route_and_only_its_types(desk: Desk) -> None:
    documented = {
        (method.upper(), path)
        for path, operations in control_paths().items()
        for method in operations
        if method != "parameters"
    }
    served = {
        (method, route.path.replace(":path", ""))
        for route in desk.control
        for method in (route.methods or set()) - {"HEAD"}
    }

    assert documented == served
    names = {kind.__name__ for kind in CONTROL_TYPES} | {"Problem"}
    assert set(_references(control_paths())) <= {f"#/components/schemas/{name}" for name in names}


def _references(node: Any) -> list[str]:
    if isinstance(node, list):
        return [name for entry in node for name in _references(entry)]
    if not isinstance(node, dict):
        return []
    own = [node["$ref"]] if "$ref" in node else []
    return own + [name for entry in node.values() for name in _references(entry)]
