"""The broker's contract (section 3), sentence by sentence, from outside.

`python -m turn_broker` with one node that works, a real coturn, and one that is not there. What
needs an agent beside the node is in test_turn_sites.py, official SDKs are in
test_broker_dialects.py.
"""

from __future__ import annotations

import base64
import email.utils
import hashlib
import hmac
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from brokers import (
    ACCOUNT_SID,
    AUTH_TOKEN,
    KEY_SECRET,
    KEY_SID,
    ROOT,
    TURN_SECRET,
    refusal,
    start_broker,
)
from coturn import Coturn, free_port, has_coturn, start_coturn
from turn_sites import wait_until

pytestmark = [
    pytest.mark.coturn,
    pytest.mark.skipif(not has_coturn(), reason="turnserver is not installed"),
]
ORIGIN = "https://app.example.org"
USERNAME = re.compile(r"[0-9]{10}:[A-Za-z0-9._-]+")
ACCOUNT, KEY = (ACCOUNT_SID, AUTH_TOKEN), (KEY_SID, KEY_SECRET)
TWILIO = f"/2010-04-01/Accounts/{ACCOUNT_SID}/Tokens.json"
CLOUDFLARE = f"/v1/turn/keys/{KEY_SID}/credentials"
PROBLEM = {"type", "title", "status", "detail", "code"}
Ask = Callable[..., httpx.Response]


@pytest.fixture(scope="module")
def coturn() -> Iterator[Coturn]:
    with start_coturn(secret=TURN_SECRET) as server:
        yield server


@pytest.fixture(scope="module")
def base(coturn: Coturn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    config = tmp_path_factory.mktemp("broker") / "parley.toml"
    gone = f"turn:127.0.0.1:{free_port()}"
    works = [
        f"stun:127.0.0.1:{coturn.port}",
        f"turn:127.0.0.1:{coturn.port}?transport=tcp",
        f"turn:127.0.0.1:{coturn.port}?transport=udp",
    ]
    config.write_text(
        f"""
[turn.probing]
interval_s = 0.1
timeout_s = 0.5
misses = 2
[[turn.nodes]]
id = "gone"
region = "west"
urls = ["{gone}?transport=udp", "{gone}?transport=tcp"]
[[turn.nodes]]
id = "works"
region = "east"
urls = {json.dumps(works)}
[cors]
origins = ["{ORIGIN}"]
[guesses]
failures = 1000
[turn.issue]
identity_per_s = 0.01
"""
    )
    with start_broker(config=config, extra={"PARLEY_TURN_MIN_TTL_S": "60"}) as broker:
        nodes = broker.url + "/v1/turn-nodes"
        wait_until(lambda: not httpx.get(nodes, auth=ACCOUNT).json()["nodes"][0]["up"])
        yield broker.url


@pytest.fixture(scope="module")
def ask(base: str) -> Iterator[Ask]:
    with httpx.Client(base_url=base, timeout=10) as client:
        yield client.request


def bearer(identity: str = "alice", **claims: Any) -> dict[str, str]:
    expiry = int(time.time()) + 600
    own = {"iss": ACCOUNT_SID, "aud": "parley", "sub": identity, "exp": expiry, **claims}
    token = jwt.encode(own, KEY_SECRET, "HS256", {"kid": KEY_SID})
    return {"Authorization": f"Bearer {token}"}


def check_credential(username: str, password: str, ttl: int) -> None:
    """As coturn makes it from the shared secret; the name tells nothing."""
    assert USERNAME.fullmatch(username)
    assert 0 <= int(username[:10]) - (time.time() + ttl) + 5 <= 10
    digest = hmac.new(TURN_SECRET.encode(), username.encode(), hashlib.sha1).digest()
    assert password == base64.b64encode(digest).decode()


def check_problem(answer: httpx.Response, status: int, code: str) -> None:
    """RFC 9457."""
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    problem = answer.json()
    assert problem.keys() == PROBLEM
    assert (answer.status_code, problem["status"], problem["code"]) == (status, status, code)


# The Twilio dialect ------------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "ttl"), [("", 86400), ("Ttl=60", 60), ("Ttl=86400", 86400)])
def test_twilio_answers_as_twilio(ask: Ask, form: str, ttl: int) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = ask("POST", TWILIO, auth=ACCOUNT, content=form, headers=headers)

    assert (answer.status_code, answer.headers["cache-control"]) == (201, "no-store")
    token = answer.json()
    assert token.keys() == {
        *("account_sid", "date_created", "date_updated", "ttl"),
        *("username", "password", "ice_servers"),
    }
    assert (token["account_sid"], token["ttl"]) == (ACCOUNT_SID, str(ttl))
    check_credential(token["username"], token["password"], ttl)
    for name in ("date_created", "date_updated"):
        date = email.utils.parsedate_to_datetime(token[name])
        assert date.utcoffset() == timedelta(0)
        assert abs(date.timestamp() - time.time()) < 10
    for server in token["ice_servers"]:
        assert isinstance(server["urls"], str)
        assert server["url"] == server["urls"]
        credential = {key: server[key] for key in server.keys() - {"url", "urls"}}
        own = {"username": token["username"], "credential": token["password"]}
        assert credential == ({} if server["urls"].startswith("stun:") else own)
    assert sum("username" in server for server in token["ice_servers"]) == 2


@pytest.mark.parametrize(
    "ttl", ["59", "0", "86401", "-60", "60.5", "+60", "6e1", "", "99999999999"]
)
def test_twilio_refuses_another_ttl(ask: Ask, ttl: str) -> None:
    answer = ask("POST", TWILIO, auth=ACCOUNT, data={"Ttl": ttl})
    check_twilio_error(answer, 400, 20001)


def test_twilio_wants_basic_of_the_account_in_the_path(ask: Ask) -> None:
    other = TWILIO.replace(ACCOUNT_SID, "AC" + "0" * 32)
    check_twilio_error(ask("POST", TWILIO), 401, 20003)
    check_twilio_error(ask("POST", TWILIO, headers=bearer()), 401, 20003)
    check_twilio_error(ask("POST", TWILIO, auth=(ACCOUNT_SID, "wrong")), 401, 20003)
    check_twilio_error(ask("POST", other, auth=ACCOUNT), 404, 20404)
    assert ask("POST", TWILIO, auth=KEY).status_code == 201


def check_twilio_error(answer: httpx.Response, status: int, code: int) -> None:
    error = answer.json()
    assert error.keys() == {"code", "message", "more_info", "status"}
    assert (answer.status_code, error["status"], error["code"]) == (status, status, code)
    assert error["message"]
    assert error["more_info"].endswith(f"/{code}")


# The native endpoint -----------------------------------------------------------------------------


@pytest.mark.parametrize("who", [{"auth": ACCOUNT}, {"auth": KEY}, {"headers": bearer()}])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_native_answers_what_a_peer_connection_takes(
    ask: Ask, coturn: Coturn, method: str, who: dict[str, Any]
) -> None:
    answer = ask(method, "/v1/ice-servers", **who)

    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    found = answer.json()
    assert found.keys() == {"iceServers", "ice_servers", "username", "ttl", "expires_at", "id"}
    assert found["iceServers"] == found["ice_servers"]
    stun, turn = found["iceServers"]
    at = f"127.0.0.1:{coturn.port}"
    assert stun == {"urls": [f"stun:{at}"]}
    assert turn["urls"] == [f"turn:{at}?transport=udp", f"turn:{at}?transport=tcp"]  # best first
    assert turn.keys() == {"urls", "username", "credential"}
    check_credential(turn["username"], turn["credential"], found["ttl"])
    assert found["username"] == turn["username"] == f"{found['expires_at']}:{found['id']}"


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_native_wishes(ask: Ask, method: str) -> None:
    def wished(**wishes: Any) -> tuple[list[str], int]:
        if method == "GET":
            if "transports" in wishes:
                wishes["transports"] = ",".join(wishes["transports"])
            answer = ask("GET", "/v1/ice-servers", auth=ACCOUNT, params=wishes)
        else:
            answer = ask("POST", "/v1/ice-servers", auth=ACCOUNT, json=wishes)
        found = answer.json()
        urls = [url for server in found["ice_servers"] for url in server["urls"]]
        return [url.partition(":")[0] + url[-3:] for url in urls], found["ttl"]

    assert wished(ttl=90)[1] == 90
    assert wished(max_urls=1)[0] == ["turnudp"]
    assert wished(transports=["tcp"])[0] == ["turntcp"]
    # Nobody is left without servers: a region whose node is dead, one that never was, no TLS.
    for region in ("west", "nowhere"):
        assert len(wished(region=region)[0]) == 3
    assert wished(transports=["tls"])[0]


def test_dead_nodes_are_left_out_and_the_list_is_never_empty(ask: Ask, tmp_path: Path) -> None:
    everything = json.dumps(ask("GET", "/v1/ice-servers", auth=ACCOUNT).json())
    (node,) = [n for n in ask("GET", "/v1/turn-nodes", auth=ACCOUNT).json()["nodes"] if not n["up"]]
    assert node["id"] == "gone"
    assert not [url for url in node["urls"] if url["url"] in everything]

    config = tmp_path / "parley.toml"
    config.write_text("[turn.probing]\ninterval_s = 0.1\ntimeout_s = 0.2\nmisses = 1\n")
    dead = f"turn:127.0.0.1:{free_port()}?transport=udp"
    with start_broker(dead, config=config) as broker:
        wait_until(lambda: "turn_broker_degraded 1.0" in broker.get("/metrics"))
        last = httpx.get(broker.url + "/v1/ice-servers", auth=ACCOUNT).json()
    assert [server["urls"] for server in last["ice_servers"]] == [[dead]]


# Other dialects ----------------------------------------------------------------------------------


def test_every_dialect_is_at_its_place_and_mints_the_same_kind_of_credential(ask: Ask) -> None:
    found: list[tuple[httpx.Response, int, Any, str]] = []

    def dialect(method: str, path: str, status: int, place: list[Any], **options: Any) -> None:
        answer = ask(method, path, **options)
        value = answer.json()
        for key in place:
            value = value[key]
        found.append((answer, status, value, path))

    key = {"Authorization": f"Bearer {KEY_SECRET}"}
    rest = {"service": "turn", "username": "alice", "key": f"{KEY_SID}:{KEY_SECRET}", "ttl": "600"}
    json_of = {"ttl": 600}
    dialect(
        *("POST", f"{CLOUDFLARE}/generate-ice-servers", 201, ["iceServers", -1]),
        headers=key,
        json=json_of,
    )
    dialect("GET", "/turn", 200, [], params=rest)
    dialect("POST", "/turn", 200, [], params=rest)
    dialect("POST", "/turn", 200, [], data=rest)
    dialect("GET", "/_matrix/client/v3/voip/turnServer", 200, [], headers=bearer())
    for answer, status, made, path in found:
        assert (answer.status_code, answer.headers["cache-control"]) == (status, "no-store"), path
        password = made.get("credential") or made["password"]
        ttl = made.get("ttl", 600)
        check_credential(made["username"], password, ttl)
        assert isinstance(ttl, int)
        assert made.get("uris") or made["urls"], path


def test_cloudflare_revokes(ask: Ask) -> None:
    key = {"Authorization": f"Bearer {KEY_SECRET}"}
    made = ask("POST", f"{CLOUDFLARE}/generate-ice-servers", headers=key, json={"ttl": 600}).json()
    username = made["iceServers"][-1]["username"]
    revoked = ask("POST", f"{CLOUDFLARE}/{username}/revoke", headers=key)
    assert (revoked.status_code, revoked.content) == (204, b"")
    token = ask("GET", f"/v1/tokens/{username.partition(':')[2]}", auth=ACCOUNT).json()
    assert token["revoked"] is True


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", f"{CLOUDFLARE}/generate-ice-servers"),
        ("POST", f"{CLOUDFLARE}/x/revoke"),
        ("GET", "/turn?service=turn&username=alice&key=wrong"),
        ("GET", "/_matrix/client/v3/voip/turnServer"),
        ("POST", "/v1/get-ice-server-config"),
        ("POST", TWILIO),
        ("GET", "/v1/ice-servers"),
    ],
)
def test_nobody_gets_a_credential_without_one(ask: Ask, method: str, path: str) -> None:
    answer = ask(method, path)
    assert answer.status_code in (401, 403)
    assert answer.headers["cache-control"] == "no-store"


# Control -----------------------------------------------------------------------------------------


def test_tokens_and_identities(ask: Ask) -> None:
    made = ask("POST", "/v1/ice-servers", auth=ACCOUNT, json={"identity": "dora"}).json()
    path = f"/v1/tokens/{made['id']}"
    assert ask("GET", path, auth=ACCOUNT).json()["revoked"] is False
    assert ask("DELETE", path, auth=ACCOUNT).json()["relays_cut"] == 0
    assert ask("GET", path, auth=ACCOUNT).json()["revoked"] is True
    usage = ask("GET", "/v1/identities/dora/usage", auth=ACCOUNT).json()
    assert usage == {
        "sent_bytes": 0,
        "received_bytes": 0,
        "bytes": 0,
        "allocations": 0,
        "live": 0,
    }
    assert ask("POST", "/v1/identities/dora/revoke", auth=ACCOUNT).json()["relays_cut"] == 0
    again = ask("POST", "/v1/ice-servers", auth=ACCOUNT, json={"identity": "dora"})
    check_problem(again, 403, "forbidden")
    check_problem(ask("GET", "/v1/ice-servers", headers=bearer("dora")), 403, "forbidden")


def test_nodes_and_secrets(ask: Ask) -> None:
    for on, word in ((True, "drain"), (False, "undrain")):
        answer = ask("POST", f"/v1/turn-nodes/gone/{word}", auth=ACCOUNT)
        assert answer.json()["draining"] is on
        nodes = ask("GET", "/v1/turn-nodes", auth=ACCOUNT).json()["nodes"]
        assert [node["draining"] for node in nodes] == [on, False]
    # Without an agent a node would not hear of the new secret, and refuse everybody.
    check_problem(ask("POST", "/v1/turn-secrets/rotate", auth=ACCOUNT), 409, "conflict")


# Credentials and errors --------------------------------------------------------------------------


async def test_the_credential_opens_coturn_until_it_is_changed(ask: Ask, coturn: Coturn) -> None:
    turn = ask("GET", "/v1/ice-servers", auth=ACCOUNT).json()["iceServers"][-1]
    username, password = turn["username"], turn["credential"]
    assert await refusal(coturn.port, username, password) is None
    later = f"{int(username[:10]) + 1}{username[10:]}"
    assert await refusal(coturn.port, later, password) == 401


def test_native_errors_are_problems(ask: Ask) -> None:
    expired = bearer(exp=int(time.time()) - 300)
    no_turn = bearer(grants={"turn": False})
    path = "/v1/ice-servers"
    check_problem(ask("GET", path), 401, "unauthenticated")
    check_problem(ask("GET", path, headers=expired), 401, "token_expired")
    check_problem(ask("GET", path, headers=no_turn), 403, "forbidden")
    check_problem(ask("GET", path, auth=ACCOUNT, params={"ttl": "59"}), 400, "bad_request")
    check_problem(ask("POST", path, auth=ACCOUNT, content=b"{"), 400, "bad_request")
    check_problem(ask("POST", path, auth=ACCOUNT, content=b" " * 5000), 413, "payload_too_large")
    check_problem(ask("PUT", path, auth=ACCOUNT), 405, "method_not_allowed")
    check_problem(ask("GET", "/v1/nothing"), 404, "not_found")
    check_problem(ask("GET", "/v1/tokens/none", auth=ACCOUNT), 404, "not_found")
    assert ask("GET", path).headers["www-authenticate"].startswith("Bearer")


def test_too_many_are_told_when_to_come_back(ask: Ask) -> None:
    for _ in range(100):  # 20 at once; whoever is slow gets another one every two seconds
        answer = ask("GET", "/v1/ice-servers", headers=bearer("hasty"))
        if answer.status_code != 200:
            break
    check_problem(answer, 429, "rate_limited")
    assert int(answer.headers["retry-after"]) >= 1


# Operations --------------------------------------------------------------------------------------


def test_operations(ask: Ask) -> None:
    identity = "somebody-whose-name-no-metric-has"
    made = ask("GET", "/v1/ice-servers", headers=bearer(identity)).json()
    assert ask("GET", "/healthz").json() == ask("GET", "/readyz").json() == {"status": "ok"}
    metrics = ask("GET", "/metrics").text
    assert not [text for text in (identity, *made["id"].split(".")) if text in metrics]
    described = ask("GET", "/openapi.json").json()["paths"].keys()
    assert described >= {
        *("/v1/ice-servers", "/turn", "/v1/get-ice-server-config"),
        *("/v1/tokens/{id}", "/v1/identities/{id}/revoke", "/v1/identities/{id}/usage"),
        *("/v1/turn-nodes", "/v1/turn-nodes/{id}/drain", "/v1/turn-nodes/{id}/undrain"),
        *("/v1/turn-secrets/rotate", "/_matrix/client/v3/voip/turnServer"),
    }


def test_browsers_of_the_configured_origin_may_ask(ask: Ask) -> None:
    def preflight(origin: str) -> Any:
        asked = {"Access-Control-Request-Method": "POST", "Origin": origin}
        asked["Access-Control-Request-Headers"] = "authorization, content-type"
        return ask("OPTIONS", "/v1/ice-servers", headers=asked).headers.get(
            "access-control-allow-origin"
        )

    assert preflight(ORIGIN) == ORIGIN
    assert preflight("https://evil.example.org") is None
    answer = ask("GET", "/v1/ice-servers", headers={**bearer(), "Origin": ORIGIN})
    assert answer.headers["access-control-allow-origin"] == ORIGIN


def test_nobody_without_a_proxy_chooses_his_address(ask: Ask) -> None:
    """Else a guesser would be somebody else each time."""
    headers = {**bearer("frida"), "X-Forwarded-For": "192.0.2.7"}
    terms = {"terms": {"bind_address": True}}
    made = ask("POST", "/v1/ice-servers", headers=headers, json=terms)
    token = ask("GET", f"/v1/tokens/{made.json()['id']}", auth=ACCOUNT).json()
    assert token["terms"]["address"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--bogus"], 64, "No such option"),
        (["--port", "high"], 64, "--port"),
        (["--config", "/nowhere/parley.toml"], 2, "/nowhere/parley.toml"),
        ([], 2, "turn.secret"),
    ],
)
def test_exit_codes(arguments: list[str], code: int, words: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "turn_broker", *arguments],
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            "PARLEY_ACCOUNTS_SID": ACCOUNT_SID,
            "PARLEY_ACCOUNTS_AUTH_TOKEN": AUTH_TOKEN,
            "PARLEY_TURN_URLS": "turn:192.0.2.1",
        },
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (run.returncode, run.stdout) == (code, "")
    assert words in run.stderr
    assert "Traceback" not in run.stderr
