"""OpenAPI 3.1 description of the broker's routes, from the types that the routes use.

It does not know the other routes of the application it is merged into.
"""

from __future__ import annotations

from typing import Any

import msgspec

from turn_broker.dialects.twilio import TwilioError, TwilioToken
from turn_broker.http import IceServersAnswer, IceServersRequest
from turn_broker.problem import MEDIA_TYPE, Problem

_TYPES = (IceServersRequest, IceServersAnswer, Problem, TwilioToken, TwilioError)
_REF = "#/components/schemas/{name}"

BASIC = "basic"
ACCESS_TOKEN = "accessToken"  # noqa: S105 - the scheme's name


def openapi_components() -> dict[str, Any]:
    """`components`: schemas and security schemes."""
    _, schemas = msgspec.json.schema_components(_TYPES, ref_template=_REF)
    return {
        "schemas": dict(schemas),
        "securitySchemes": {
            BASIC: {
                "type": "http",
                "scheme": "basic",
                "description": "Account SID and auth token, or API key SID and secret.",
            },
            ACCESS_TOKEN: {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
        },
    }


def openapi_paths() -> dict[str, Any]:
    """`paths`: the native endpoint and the Twilio dialect."""
    twilio = {"post": _twilio_operation()}
    return {
        "/v1/ice-servers": {
            "get": _native_operation("getIceServers") | {"parameters": _query()},
            "post": _native_operation("createIceServers") | {"requestBody": _json_body()},
        },
        "/2010-04-01/Accounts/{account_sid}/Tokens.json": twilio,
    }


def openapi_document(version: str) -> dict[str, Any]:
    """The whole document of a broker that runs alone."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Parley TURN broker", "version": version},
        "paths": openapi_paths(),
        "components": openapi_components(),
    }


def _native_operation(operation_id: str) -> dict[str, Any]:
    problem = {"description": "Refused", "content": _content(Problem, MEDIA_TYPE)}
    return {
        "operationId": operation_id,
        "tags": ["turn"],
        "summary": "ICE servers with a fresh TURN credential, ready for RTCPeerConnection",
        "security": [{ACCESS_TOKEN: []}, {BASIC: []}],
        "responses": {
            "200": {"description": "Granted", "content": _content(IceServersAnswer)},
            **dict.fromkeys(("400", "401", "403", "413"), problem),
        },
    }


def _twilio_operation() -> dict[str, Any]:
    refused = {"description": "Refused", "content": _content(TwilioError)}
    form = {
        "type": "object",
        "properties": {"Ttl": {"type": "integer", "minimum": 60, "maximum": 86400}},
    }
    account = {"name": "account_sid", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "operationId": "createTwilioToken",
        "tags": ["turn"],
        "summary": "Network Traversal Service token, as Twilio answers it",
        "security": [{BASIC: []}],
        "parameters": [account],
        "requestBody": {"content": {"application/x-www-form-urlencoded": {"schema": form}}},
        "responses": {
            "201": {"description": "Created", "content": _content(TwilioToken)},
            **dict.fromkeys(("400", "401", "404", "405", "413"), refused),
        },
    }


def _query() -> list[dict[str, Any]]:
    _, schemas = msgspec.json.schema_components((IceServersRequest,), ref_template=_REF)
    parameters = []
    for name, schema in schemas["IceServersRequest"]["properties"].items():
        parameter = {"name": name, "in": "query", "required": False, "schema": schema}
        if name == "transports":
            parameter |= {"style": "form", "explode": False}
        parameters.append(parameter)
    return parameters


def _json_body() -> dict[str, Any]:
    return {"required": False, "content": _content(IceServersRequest)}


def _content(kind: type, media_type: str = "application/json") -> dict[str, Any]:
    return {media_type: {"schema": {"$ref": _REF.format(name=kind.__name__)}}}
