"""OpenAPI 3.1 description of the broker's routes, from the types that the routes use.

It does not know the other routes of the application it is merged into.
"""

from __future__ import annotations

from typing import Any

import msgspec

from turn_broker.dialects.aws_kvs import AwsError, AwsIceServers, GetIceServerConfig
from turn_broker.dialects.cloudflare import (
    CloudflareError,
    CloudflareRequest,
    CloudflareServerObject,
    CloudflareServers,
)
from turn_broker.dialects.matrix import MatrixError, MatrixTurnServer
from turn_broker.dialects.turn_rest import TurnRestAnswer
from turn_broker.dialects.twilio import TwilioError, TwilioToken
from turn_broker.fleet.control_answers import CONTROL_TYPES, control_paths
from turn_broker.http import IceServersAnswer, IceServersRequest
from turn_broker.problem import MEDIA_TYPE, Problem

_TYPES = (
    AwsError,
    AwsIceServers,
    CloudflareError,
    CloudflareRequest,
    CloudflareServerObject,
    CloudflareServers,
    GetIceServerConfig,
    IceServersAnswer,
    IceServersRequest,
    MatrixError,
    MatrixTurnServer,
    Problem,
    TurnRestAnswer,
    TwilioError,
    TwilioToken,
    *CONTROL_TYPES,
)
_REF = "#/components/schemas/{name}"

BASIC = "basic"
ACCESS_TOKEN = "accessToken"  # noqa: S105 - the scheme's name
KEY_SECRET = "keySecret"  # noqa: S105 - the scheme's name
SIGV4 = "awsSigV4"

Operation = dict[str, Any]


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
            KEY_SECRET: {
                "type": "http",
                "scheme": "bearer",
                "description": "The secret of the API key that the path names.",
            },
            SIGV4: {
                "type": "apiKey",
                "in": "header",
                "name": "Authorization",
                "description": "AWS Signature Version 4; the API key's SID is the access key id.",
            },
        },
    }


def openapi_paths() -> dict[str, Any]:
    """`paths`: the native endpoint, the dialects and control."""
    cloudflare = "/v1/turn/keys/{key}/credentials"
    return {
        "/v1/ice-servers": {
            "get": _native("getIceServers") | {"parameters": _query()},
            "post": _native("createIceServers") | _body(IceServersRequest, is_required=False),
        },
        "/2010-04-01/Accounts/{account_sid}/Tokens.json": {"post": _twilio()},
        f"{cloudflare}/generate-ice-servers": {
            "post": _cloudflare("createCloudflareIceServers", CloudflareServers)
        },
        f"{cloudflare}/generate": {
            "post": _cloudflare("createCloudflareIceServer", CloudflareServerObject)
        },
        f"{cloudflare}/{{username}}/revoke": {"post": _cloudflare_revoke()},
        "/turn": {"get": _turn_rest("getTurnRest"), "post": _turn_rest("createTurnRest")},
        "/_matrix/client/v3/voip/turnServer": {"get": _matrix()},
        "/v1/get-ice-server-config": {"post": _aws_kvs()},
        **control_paths(),
    }


def openapi_document(version: str) -> dict[str, Any]:
    """The whole document of a broker that runs alone."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Parley TURN broker", "version": version},
        "paths": openapi_paths(),
        "components": openapi_components(),
    }


def _native(operation_id: str) -> Operation:
    return {
        "operationId": operation_id,
        "tags": ["turn"],
        "summary": "ICE servers with a fresh TURN credential, ready for RTCPeerConnection",
        "security": [{ACCESS_TOKEN: []}, {BASIC: []}],
        "responses": {
            "200": {"description": "Granted", "content": _content(IceServersAnswer)},
            **_refused(Problem, "400", "401", "403", "413", "429", "503", media_type=MEDIA_TYPE),
        },
    }


def _twilio() -> Operation:
    form = {
        "type": "object",
        "properties": {"Ttl": {"type": "integer", "minimum": 60, "maximum": 86400}},
    }
    return {
        "operationId": "createTwilioToken",
        "tags": ["turn"],
        "summary": "Network Traversal Service token, as Twilio answers it",
        "security": [{BASIC: []}],
        "parameters": [_parameter("account_sid", "path")],
        "requestBody": {"content": {"application/x-www-form-urlencoded": {"schema": form}}},
        "responses": {
            "201": {"description": "Created", "content": _content(TwilioToken)},
            **_refused(TwilioError, "400", "401", "404", "405", "413", "429"),
        },
    }


def _cloudflare(operation_id: str, answer: type) -> Operation:
    return {
        "operationId": operation_id,
        "tags": ["turn"],
        "summary": "TURN credential, as Cloudflare Realtime answers it",
        "security": [{KEY_SECRET: []}],
        "parameters": [_parameter("key", "path")],
        "responses": {
            "201": {"description": "Created", "content": _content(answer)},
            **_refused(CloudflareError, "400", "401", "413", "429"),
        },
    } | _body(CloudflareRequest, is_required=False)


def _cloudflare_revoke() -> Operation:
    return {
        "operationId": "revokeCloudflareCredential",
        "tags": ["turn"],
        "summary": "Revoke a credential by its username and cut its relays",
        "security": [{KEY_SECRET: []}],
        "parameters": [_parameter("key", "path"), _parameter("username", "path")],
        "responses": {
            "204": {"description": "Revoked"},
            **_refused(CloudflareError, "401", "404", "429", "503"),
        },
    }


def _turn_rest(operation_id: str) -> Operation:
    names = ("service", "username", "key", "api", "ttl")
    return {
        "operationId": operation_id,
        "tags": ["turn"],
        "summary": "TURN REST API (draft-uberti-behave-turn-rest), also as Janus asks",
        "description": "`key` (or `api`) is an API key as `SID:secret`.",
        "security": [{}, {ACCESS_TOKEN: []}, {BASIC: []}],
        "parameters": [_parameter(name, "query", is_required=False) for name in names],
        "responses": {
            "200": {"description": "Granted", "content": _content(TurnRestAnswer)},
            **_refused(Problem, "400", "401", "403", "413", "429", media_type=MEDIA_TYPE),
        },
    }


def _matrix() -> Operation:
    return {
        "operationId": "getMatrixTurnServer",
        "tags": ["turn"],
        "summary": "TURN credential, as a Matrix homeserver answers it",
        "security": [{ACCESS_TOKEN: []}],
        "responses": {
            "200": {"description": "Granted", "content": _content(MatrixTurnServer)},
            **_refused(MatrixError, "401", "403", "429"),
        },
    }


def _aws_kvs() -> Operation:
    return {
        "operationId": "getIceServerConfig",
        "tags": ["turn"],
        "summary": "TURN credential, as Amazon Kinesis Video Streams signaling answers it",
        "security": [{SIGV4: []}],
        "responses": {
            "200": {"description": "Granted", "content": _content(AwsIceServers)},
            **_refused(AwsError, "400", "403", "413", "429"),
        },
    } | _body(GetIceServerConfig, is_required=True)


def _query() -> list[dict[str, Any]]:
    _, schemas = msgspec.json.schema_components((IceServersRequest,), ref_template=_REF)
    parameters = []
    for name, schema in schemas["IceServersRequest"]["properties"].items():
        if name == "terms":
            continue
        parameter = {"name": name, "in": "query", "required": False, "schema": schema}
        if name == "transports":
            parameter |= {"style": "form", "explode": False}
        parameters.append(parameter)
    return parameters


def _parameter(name: str, place: str, *, is_required: bool = True) -> dict[str, Any]:
    return {"name": name, "in": place, "required": is_required, "schema": {"type": "string"}}


def _refused(kind: type, *statuses: str, media_type: str = "application/json") -> dict[str, Any]:
    refused = {"description": "Refused", "content": _content(kind, media_type)}
    return dict.fromkeys(statuses, refused)


def _body(kind: type, *, is_required: bool) -> dict[str, Any]:
    return {"requestBody": {"required": is_required, "content": _content(kind)}}


def _content(kind: type, media_type: str = "application/json") -> dict[str, Any]:
    return {media_type: {"schema": {"$ref": _REF.format(name=kind.__name__)}}}
