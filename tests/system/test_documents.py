"""The served OpenAPI and AsyncAPI documents are valid, and name every route and message."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from openapi_spec_validator import validate
from servers import Parley, start_parley

from signal_server.wire import messages as m

SCHEMA = Path(__file__).parents[2] / "node_modules/@asyncapi/specs/schemas/3.0.0.json"
UNDOCUMENTED = (
    *("/demo", "/diagnostics", "/js/", "/css/", "/img/", "/dev/", "/openapi", "/asyncapi"),
    "/v{",
)


@pytest.fixture(scope="module")
def parley() -> Iterator[Parley]:
    with start_parley() as running:
        yield running


def test_openapi_is_valid(parley: Parley) -> None:
    validate(json.loads(parley.get("/openapi.json")))


def test_openapi_names_every_route(parley: Parley) -> None:
    from signal_server import app
    from signal_server.cli.keys import generate
    from signal_server.config import ServerSettings, Settings
    from turn_broker.config import AccountSettings, ApiKeySettings, TurnSettings

    keys = generate()
    node = app.Node(
        Settings(
            server=ServerSettings(admin_token=keys.admin_token),
            turn=TurnSettings(secret=keys.turn_secret, urls=["turn:127.0.0.1:3478"]),
            accounts=[
                AccountSettings(
                    sid=keys.account_sid,
                    auth_token=keys.auth_token,
                    keys=[ApiKeySettings(sid=keys.key_sid, secret=keys.key_secret)],
                )
            ],
        ),
        is_dev=False,
    )
    served = {str(getattr(route, "path", "")).replace(":path}", "}") for route in node.app.routes}
    routes = {path for path in served if path != "/" and not path.startswith(UNDOCUMENTED)}
    documented = set(json.loads(parley.get("/openapi.json"))["paths"])
    twilio = {path for path in routes if path.startswith("/2010-04-01/")}
    assert routes - twilio <= documented
    assert any(path.startswith("/2010-04-01/") for path in documented)
    assert documented - {path for path in documented if path.startswith("/2010")} <= routes


def test_asyncapi_is_valid_and_names_every_message(parley: Parley) -> None:
    if not SCHEMA.exists() and not os.environ.get("CI"):
        pytest.skip("npm ci has not been run")
    document: dict[str, Any] = json.loads(parley.get("/asyncapi.json"))
    jsonschema.validate(document, json.loads(SCHEMA.read_text("utf-8")))
    kinds = [*m.CLIENT_MESSAGES, *m.SERVER_MESSAGES]
    assert len(document["components"]["messages"]) == len(kinds)
