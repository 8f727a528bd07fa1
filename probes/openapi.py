"""OpenAPI 3.1 description of the probes' routes, from the types that the routes use.

It does not know the other routes of the application it is merged into, among whose schemas is
`Problem`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from probes.messages import (
    LogEntry,
    PeerAnswer,
    PeerFigures,
    PeerRequest,
    Ping,
    ProbeSession,
    RegionList,
    ReportReceipt,
    SessionRequest,
)
from turn_broker.problem import MEDIA_TYPE, Problem

_TYPES = (
    LogEntry,
    PeerAnswer,
    PeerFigures,
    PeerRequest,
    Ping,
    ProbeSession,
    RegionList,
    ReportReceipt,
    SessionRequest,
    Problem,
)
_REF = "#/components/schemas/{name}"
SESSION = "probeSession"
DELETE_TOKEN = "reportDeleteToken"  # noqa: S105 - the scheme's name

Operation = dict[str, Any]


def openapi_components() -> dict[str, Any]:
    """`components`: schemas and security schemes."""
    _, schemas = msgspec.json.schema_components(_TYPES, ref_template=_REF)
    return {
        "schemas": dict(schemas),
        "securitySchemes": {
            SESSION: {
                "type": "http",
                "scheme": "bearer",
                "bearerFormat": "JWT",
                "description": "`token` of a probe session.",
            },
            DELETE_TOKEN: {
                "type": "http",
                "scheme": "bearer",
                "description": "`delete_token` of a shared report.",
            },
        },
    }


def openapi_paths() -> dict[str, Any]:
    """`paths`: sessions, what needs none, server peers and reports."""
    return {
        "/v1/probes/sessions": {
            "post": _operation(
                "beginProbeSession",
                "A token, short TURN credentials by transport, and the regions; no account needed",
                {"201": ProbeSession},
                *("400", "404", "413", "429"),
                body=SessionRequest,
            )
        },
        "/v1/probes/regions": {
            "get": _operation("getProbeRegions", "Every region's URLs", {"200": RegionList})
        },
        "/v1/probes/ping": {"get": _operation("probePing", "Who answers, and when", {"200": Ping})},
        "/v1/probes/log": {
            "post": _operation(
                "probeLog", "Counted, not kept", {"204": None}, "400", "413", body=LogEntry
            )
        },
        **_peers(),
        **_reports(),
    }


def added_to(fragment: dict[str, Any]) -> dict[str, Any]:
    """Another room's `paths` and `components` with these beside them."""
    components, own = fragment["components"], openapi_components()
    return {
        "paths": {**fragment["paths"], **openapi_paths()},
        "components": {name: {**components.get(name, {}), **own[name]} for name in own},
    }


def _peers() -> dict[str, Any]:
    name = _parameter("id")
    return {
        "/v1/probes/peers": {
            "post": _operation(
                "openProbePeer",
                "The server's own peer answers an offer: data, media in, or an echo",
                {"201": PeerAnswer},
                *("400", "401", "413", "429", "503"),
                body=PeerRequest,
                security=SESSION,
            )
        },
        "/v1/probes/peers/{id}": {
            "get": _operation(
                "getProbePeer",
                "What a server peer of this session has received",
                {"200": PeerFigures},
                *("401", "404"),
                security=SESSION,
            )
            | name,
            "delete": _operation(
                "endProbePeer",
                "Ends a server peer; its last figures, or nothing when it has ended already",
                {"200": PeerFigures, "204": None},
                "401",
                security=SESSION,
            )
            | name,
        },
    }


def _reports() -> dict[str, Any]:
    name = _parameter("id")
    report = {"schema": {"type": "object"}}
    share = _operation(
        "shareReport",
        "Keeps a report for a while, without addresses unless `include_addresses` is true",
        {"201": ReportReceipt},
        *("400", "401", "413", "429", "503"),
        security=SESSION,
    )
    find = _operation("getReport", "A shared report", {"200": None}, "404")
    find["responses"]["200"]["content"] = {"application/json": report}
    return {
        "/v1/probes/reports": {
            "post": share
            | {"requestBody": {"required": True, "content": {"application/json": report}}}
        },
        "/v1/probes/reports/{id}": {
            "get": find | name,
            "delete": _operation(
                "deleteReport", "Takes a report back", {"204": None}, "404", security=DELETE_TOKEN
            )
            | name,
        },
    }


def _operation(
    operation_id: str,
    summary: str,
    answers: dict[str, type | None],
    *refusals: str,
    body: type | None = None,
    security: str | None = None,
) -> Operation:
    """`answers` by status; None: an empty one."""
    responses: dict[str, Any] = {}
    for status, kind in answers.items():
        responses[status] = {"description": summary}
        if kind is not None:
            responses[status]["content"] = _content(kind)
    for status in refusals:
        responses[status] = {"description": "Refused", "content": _content(Problem, MEDIA_TYPE)}
    operation: Operation = {
        "operationId": operation_id,
        "tags": ["probes"],
        "summary": summary,
        "responses": responses,
    }
    if body is not None:
        operation["requestBody"] = {"required": True, "content": _content(body)}
    if security is not None:
        operation["security"] = [{security: []}]
    return operation


def _parameter(name: str) -> Operation:
    one = {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
    return {"parameters": [one]}


def _content(kind: type, media_type: str = "application/json") -> dict[str, Any]:
    return {media_type: {"schema": {"$ref": _REF.format(name=kind.__name__)}}}
