"""Section 4 of the contract, sentence by sentence, against a node that knows nothing of the tests:
sessions, regions, ping, log, reports, the socket, and `/probe`."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from accounts import Account
from prometheus_client.parser import text_string_to_metric_families
from rtc import traceless
from servers import Server, start_serve
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

HOME = Account()
ORIGIN = "https://app.parley.test"
EU, US = "https://eu.parley.test", "http://us.parley.test:8080"
NOWHERE = "http://127.0.0.1:9"
CONFIG = f"""
[server]
port = 0
drain_s = 0
admin_token = "admin-token-of-the-contract-tests"
[cors]
origins = ["{ORIGIN}"]
[node]
name = "eu-1"
region = "eu"
[turn]
secret = "a-secret-that-only-this-test-has-and-no-other"
urls = ["turn:t.test:3478?transport=udp", "turn:t.test:3478?transport=tcp", "turns:t.test:443"]
probing.enabled = false
[probes]
reports_per_session = 2
address_burst = 1000
{{probes}}
[[probes.targets]]
id = "nowhere"
url = "{NOWHERE}"
{HOME.toml}
"""
REGIONS = f"""
[[regions]]
id = "eu"
url = "{EU}"
[[regions]]
id = "us"
url = "{US}"
"""
REPORT = {"format": "parley-network-report/1", "results": [{"target": "192.0.2.7:3478"}]}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with start_serve(CONFIG.format(probes="") + REGIONS) as server:
        yield server
        assert server.metric("signaling_internal_errors_total") == 0
        assert traceless(server.log_file)


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=15) as client:
        yield client


@pytest.fixture
def session(http: httpx.Client) -> dict[str, Any]:
    answer = http.post("/v1/probes/sessions")
    assert answer.status_code == 201
    return dict(answer.json())


def bearer(session: dict[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {session['token']}"}


def problem(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


# Sessions -------------------------------------------------------------------------------------


def test_a_session_needs_no_account_and_has_everything_a_test_needs(http: httpx.Client) -> None:
    answer = http.post("/v1/probes/sessions")
    assert (answer.status_code, answer.headers["cache-control"]) == (201, "no-store")
    session = answer.json()
    now = time.time()
    assert abs(session["now"] - now) < 5
    assert abs(session["expires_at"] - now - 300) < 5
    assert session["regions"] == [
        {"id": "eu", "ws_url": "wss://eu.parley.test/v1/probes/ws", "http_url": EU},
        {"id": "us", "ws_url": "ws://us.parley.test:8080/v1/probes/ws", "http_url": US},
    ]
    assert (session["region"], session["node"]) == ("eu", "eu-1")
    assert session["limits"].items() >= {"reports": 2, "peers": 4, "ttl_s": 300}.items()


def test_ice_servers_come_by_transport_with_a_short_credential(session: dict[str, Any]) -> None:
    urls = {
        name: [one["urls"] for one in servers] for name, servers in session["ice_servers"].items()
    }
    assert urls == {
        "udp": [["turn:t.test:3478?transport=udp"]],
        "tcp": [["turn:t.test:3478?transport=tcp"]],
        "tls": [["turns:t.test:443?transport=tcp"]],
    }
    for (server,) in session["ice_servers"].values():
        assert server["credential"]
        expiry = int(server["username"].partition(":")[0])
        assert expiry - time.time() < 310


def test_its_token_is_good_for_probes_and_nothing_else(
    http: httpx.Client, session: dict[str, Any]
) -> None:
    claims = json.loads(base64.urlsafe_b64decode(session["token"].split(".")[1] + "=="))
    assert [name for name, is_granted in claims["grants"].items() if is_granted] == ["probe"]
    assert claims["sub"].startswith("probe-")
    assert http.get("/v1/ice-servers", headers=bearer(session)).status_code == 403
    hello = {"type": "hello", "token": session["token"], "room": "r"}
    refused = http.post("/v1/sessions", json=hello)
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    rooms = http.get("/v1/rooms", headers=bearer(session))
    assert (rooms.status_code, rooms.json()["code"]) == (403, "forbidden")
    assert problem(http.post("/v1/probes/reports", json=REPORT)) == (401, "unauthenticated")


def test_sessions_of_one_address_are_limited() -> None:
    config = CONFIG.format(probes="address_per_s = 0.1")
    config = config.replace("address_burst = 1000", "address_burst = 3")
    with start_serve(config) as server, httpx.Client(base_url=server.url) as http:
        answers = [http.post("/v1/probes/sessions") for _ in range(4)]
        assert [one.status_code for one in answers] == [201, 201, 201, 429]
        assert problem(answers[3]) == (429, "rate_limited")
        assert 1 <= int(answers[3].headers["retry-after"]) <= 10
        assert http.get("/v1/probes/ping").status_code == 200
        assert server.metric("probe_refused_total") == 1
        assert answers[0].json()["regions"] == [
            {
                "id": "eu",
                "ws_url": f"{server.url.replace('http', 'ws')}/v1/probes/ws",
                "http_url": server.url,
            }
        ], "without [[regions]] it is the node itself, wherever it was asked"


def test_relays_are_those_that_a_call_from_there_would_get() -> None:
    """Of the client's region, as long as their credential lasts, as often as it may be asked."""
    nodes = "".join(
        f'[[turn.nodes]]\nid = "{name}"\nregion = "{name}"\nurls = ["turn:{name}.test:3478"]\n'
        for name in ("us", "eu")
    )
    networks = (
        '[[turn.regions]]\nid = "us"\n[[turn.regions]]\nid = "eu"\nnetworks = ["127.0.0.0/8"]\n'
    )
    issue = "issue = {anonymous_burst = 2, anonymous_per_s = 0.1, anonymous_ttl_s = 90}"
    config = re.sub("urls = .*", issue, CONFIG.format(probes=""), count=1) + nodes + networks
    with start_serve(config) as server, httpx.Client(base_url=server.url) as http:
        session = http.post("/v1/probes/sessions").json()
        assert (session["turn_regions"], session["turn_region"]) == (["us", "eu"], "eu")
        assert session["ice_servers"]["udp"][0]["urls"][0].startswith("turn:eu.test")
        assert session["expires_at"] - session["now"] <= 90
        other = http.post("/v1/probes/sessions", json={"region": "us"}).json()
        urls = [one["urls"] for one in other["ice_servers"]["udp"]]
        assert (other["turn_region"], urls) == ("us", [["turn:us.test:3478?transport=udp"]])
        answer = http.post("/v1/probes/sessions")
        assert problem(answer) == (429, "rate_limited"), "not a session without relays"
        assert int(answer.headers["retry-after"]) >= 1


# What needs no session --------------------------------------------------------------------------


def test_regions_ping_and_log(http: httpx.Client, session: dict[str, Any]) -> None:
    assert http.get("/v1/probes/regions").json() == {"regions": session["regions"]}
    ping = http.get("/v1/probes/ping")
    assert ping.headers["cache-control"] == "no-store"
    assert abs(ping.json().pop("now_ms") / 1000 - time.time()) < 5
    assert (ping.json()["region"], ping.json()["node"]) == ("eu", "eu-1")
    assert http.post("/v1/probes/log", json={"event": "x", "detail": "y"}).status_code == 204
    assert http.post("/v1/probes/log").status_code == 204


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        (b"{", (400, "bad_request")),
        (b'{"event": "' + b"x" * 65 + b'"}', (400, "bad_request")),
        (b'{"other": 1}', (400, "bad_request")),
        (b" " * 100_000, (413, "payload_too_large")),
    ],
    ids=["json", "long", "unknown", "large"],
)
def test_log_entries_are_bounded(http: httpx.Client, body: bytes, refusal: tuple[int, str]) -> None:
    assert problem(http.post("/v1/probes/log", content=body)) == refusal


def test_cors_is_on_for_the_configured_origins(http: httpx.Client) -> None:
    asked = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type",
    }
    for path in ("sessions", "peers", "reports", "log"):
        allowed = http.options(f"/v1/probes/{path}", headers=asked)
        assert allowed.headers["access-control-allow-origin"] == ORIGIN
        assert "authorization" in allowed.headers["access-control-allow-headers"].lower()
    assert http.get("/v1/probes/ping", headers={"Origin": ORIGIN}).headers[
        "access-control-allow-origin"
    ] == ORIGIN  # fmt: skip
    stranger = http.get("/v1/probes/ping", headers={"Origin": "https://other.test"})
    assert "access-control-allow-origin" not in stranger.headers


# Reports ----------------------------------------------------------------------------------------


def test_a_report_is_kept_without_addresses_and_found_by_its_link(
    http: httpx.Client, session: dict[str, Any]
) -> None:
    answer = http.post("/v1/probes/reports", json=REPORT, headers=bearer(session))
    assert answer.status_code == 201
    receipt = answer.json()
    assert receipt["expires_at"] > time.time() + 86_400
    assert receipt["url"] == f"{str(http.base_url).rstrip('/')}/diagnostics?report={receipt['id']}"
    assert http.get("/diagnostics").status_code == 200
    kept = http.get(f"/v1/probes/reports/{receipt['id']}")
    assert kept.json()["results"] == [{"target": "[address]:3478"}]
    assert kept.headers["cache-control"] == "no-store"
    guess = {"Authorization": "Bearer guess"}
    path = f"/v1/probes/reports/{receipt['id']}"
    assert problem(http.delete(path, headers=guess)) == (404, "not_found")
    own = {"Authorization": f"Bearer {receipt['delete_token']}"}
    assert http.delete(path, headers=own).status_code == 204
    assert problem(http.get(path)) == (404, "not_found")


def test_addresses_stay_when_the_visitor_agrees(
    http: httpx.Client, session: dict[str, Any]
) -> None:
    body = {**REPORT, "include_addresses": True}
    receipt = http.post("/v1/probes/reports", json=body, headers=bearer(session)).json()
    assert http.get(f"/v1/probes/reports/{receipt['id']}").json()["results"] == REPORT["results"]


def test_reports_are_bounded(http: httpx.Client, session: dict[str, Any]) -> None:
    def share(content: bytes) -> httpx.Response:
        return http.post("/v1/probes/reports", content=content, headers=bearer(session))

    assert problem(share(b"{}")) == (400, "bad_request")
    assert problem(share(b" " * 70_000)) == (413, "payload_too_large")
    good = json.dumps(REPORT).encode()
    assert [share(good).status_code for _ in range(3)] == [201, 201, 429]
    assert problem(share(good)) == (429, "limit_exceeded")


# The socket -------------------------------------------------------------------------------------


def socket_url(server: Server, query: str = "") -> str:
    return server.url.replace("http", "ws") + "/v1/probes/ws" + query


def test_the_socket_proves_region_and_nonce_and_answers_pings(server: Server) -> None:
    with connect(socket_url(server)) as socket:
        assert json.loads(socket.recv(5)) == hello("")
        socket.send(json.dumps({"type": "hello", "nonce": "abc"}))
        assert json.loads(socket.recv(5)) == hello("abc")
        for seq in (1, 2, 3):
            socket.send(json.dumps({"type": "ping", "seq": seq}))
            assert json.loads(socket.recv(5)) == {"type": "pong", "seq": seq}
        socket.send(json.dumps({"type": "bye"}))
        assert close_code(socket) == 1000


def test_a_nonce_in_the_query_is_in_the_first_hello(server: Server) -> None:
    with connect(socket_url(server, "?nonce=n%2B1")) as socket:
        assert json.loads(socket.recv(5)) == hello("n+1")


@pytest.mark.parametrize(
    ("frames", "code"),
    [(["{}"], 4505), (['{"type":"ping","seq":1}'] * 65, 4029), (["x" * 1_000_000], 1009)],
    ids=["unknown", "many", "large"],
)
def test_the_socket_takes_few_and_short_messages(
    server: Server, frames: list[str], code: int
) -> None:
    with connect(socket_url(server)) as socket:
        for frame in frames:
            socket.send(frame)
        assert close_code(socket) == code


def hello(nonce: str) -> dict[str, str]:
    return {"type": "hello", "region": "eu", "node": "eu-1", "nonce": nonce}


def close_code(socket: Any) -> int:
    while True:
        try:
            socket.recv(5)
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd else 1006


# Prometheus -------------------------------------------------------------------------------------


def families(text: str) -> dict[str, list[Any]]:
    """Samples by metric family, as Prometheus' own parser reads them."""
    return {family.name: family.samples for family in text_string_to_metric_families(text)}


def test_probe_answers_in_the_style_of_blackbox_exporter(http: httpx.Client) -> None:
    headers = {"X-Prometheus-Scrape-Timeout-Seconds": "10"}
    answer = http.get("/probe?module=api&target=nowhere", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    found = families(answer.text)
    assert found["probe_success"][0].value == 0
    assert 0 <= found["probe_duration_seconds"][0].value < 10
    assert found["probe_timeout_seconds"][0].value == 9.5
    (result,) = found["probe_result"]
    assert result.labels == {
        "check": "api", "transport": "", "region": "",
        "result": "failed", "reason": "connection_refused",
    }  # fmt: skip
    assert "probe_last_success_timestamp_seconds" not in found


@pytest.mark.parametrize(
    "query",
    [
        "",
        "?module=api",
        "?module=api&target=other",
        "?module=other&target=nowhere",
        "?module=api&target=http://127.0.0.1:9",
    ],
)
def test_only_configured_targets_are_probed(http: httpx.Client, query: str) -> None:
    assert problem(http.get(f"/probe{query}")) == (400, "bad_request")


def test_no_metric_tells_of_a_visitor(server: Server, http: httpx.Client) -> None:
    def visit() -> set[tuple[str, tuple[tuple[str, str], ...]]]:
        session = http.post("/v1/probes/sessions").json()
        http.post("/v1/probes/reports", json=REPORT, headers=bearer(session))
        http.post("/v1/probes/peers", json={"sdp": "v=0"}, headers=bearer(session))
        http.post("/v1/probes/log", json={"event": session["token"][:60]})
        with connect(socket_url(server, f"?nonce={session['token'][:60]}")) as socket:
            socket.recv(5)
        return {
            (sample.name, tuple(sorted(sample.labels.items())))
            for name, samples in families(server.get("/metrics")).items()
            for sample in samples
            if name.startswith("probe_")
        }

    first, second = visit(), visit()
    assert first == second
    assert {name for _, labels in second for name, _ in labels} <= {"code", "mode"}
    names = {name for name, _ in second}
    assert names >= {
        *("probe_sessions_total", "probe_reports_shared_total", "probe_log_entries_total"),
        *("probe_sockets_opened_total", "probe_socket_pings_total"),
        "probe_server_peers",
    }


# Pages and modules ------------------------------------------------------------------------------


def test_the_page_and_the_module_are_served(http: httpx.Client) -> None:
    page = http.get("/diagnostics")
    assert "text/html" in page.headers["content-type"]
    module = http.get("/js/parley-probes.js")
    assert "javascript" in module.headers["content-type"]
    for name in ("ProbeClient", "NetworkTest", "ErrorNames"):
        assert name in module.text
    assert http.get("/js/parley-probes.d.ts").status_code == 200
