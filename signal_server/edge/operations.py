"""HTTP for operators and tools: health, readiness, metrics, the OpenAPI document, dev tokens.

It knows callables, not what they look at.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

MAX_NAME_CHARS = 128
_ASKED = (401, 403, 404, 429, 503)
"""What the server API answers whom it refuses, or when nobody answers it."""
_ADMIN: list[dict[str, list[str]]] = [{"accessToken": []}, {"basic": []}]
_OPERATIONS = (
    ("/v1/rooms", "get", "Rooms with at least one peer", (200, *_ASKED), ("account", "after")),
    ("/v1/rooms/{room}", "get", "Who is in the room", (200, *_ASKED), ("account",)),
    ("/v1/rooms/{room}", "delete", "Close the room", (204, *_ASKED), ("account",)),
    ("/v1/rooms/{room}/messages", "post", "Speak to it", (202, 400, *_ASKED), ("account",)),
    (
        "/v1/rooms/{room}/peers/{peer}",
        "delete",
        "Kick, and for `ban_s` seconds ban, a peer",
        (204, 400, *_ASKED),
        ("account", "ban_s"),
    ),
    ("/v1/calls/{call}", "get", "Timeline of a call", (200, *_ASKED), ("account",)),
    ("/v1/drain", "post", "Send everybody elsewhere, then end", (202, 401, 403, 429), ()),
    ("/v1/sessions", "post", "Begin or resume a session over HTTP", (201, 400, 401, 403), None),
    ("/v1/sessions/{session}", "delete", "End the session (resume secret)", (204, 401, 404), None),
    (
        "/v1/sessions/{session}/messages",
        "post",
        "Client messages in, their answers out (resume secret)",
        (200, 400, 401, 404),
        None,
    ),
    (
        "/v1/sessions/{session}/messages",
        "get",
        "Numbered messages after `after`, waiting up to `wait` seconds (resume secret)",
        (200, 400, 401, 404),
        None,
    ),
    (
        "/v1/sessions/{session}/events",
        "get",
        "Numbered messages as Server-Sent Events (resume secret)",
        (200, 400, 401, 404),
        None,
    ),
)
"""Path, method, what it does, which statuses, and the query of the server API, None outside it:
without the routes of the broker."""
_JSON = "application/json"


def routes(
    is_ready: Callable[[], bool],
    metrics: Callable[[], bytes],
    metrics_type: str,
    documents: Mapping[str, Mapping[str, Any]],
) -> list[Route]:
    """`/healthz`, `/readyz`, `/metrics`, and one route per JSON document, by its path."""

    async def healthz(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(request: Request) -> Response:
        ready = is_ready()
        return PlainTextResponse("ready\n" if ready else "draining\n", 200 if ready else 503)

    async def page(request: Request) -> Response:
        return Response(metrics(), headers={"Content-Type": metrics_type})

    return [
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", page),
        *(_document(path, document) for path, document in documents.items()),
    ]


def _document(path: str, content: Mapping[str, Any]) -> Route:
    body = json.dumps(content).encode()

    async def document(request: Request) -> Response:
        return Response(body, media_type=_JSON)

    return Route(path, document)


def dev_token_route(issue: Callable[[str, str | None], str]) -> Route:
    """`GET /dev/token?identity=&room=`: an access token for whoever asks. Development only."""

    async def token(request: Request) -> Response:
        identity = request.query_params.get("identity", "")
        room = request.query_params.get("room") or None
        if not 1 <= len(identity) <= MAX_NAME_CHARS or len(room or "") > MAX_NAME_CHARS:
            return Response(
                b'{"code":"bad_request","message":"identity and room have 1 to 128 characters"}',
                400,
                media_type=_JSON,
            )
        try:
            body = json.dumps({"access_token": issue(identity, room)})
        except ValueError as flaw:
            body = json.dumps({"code": "bad_request", "message": str(flaw)})
            return Response(body, 400, media_type=_JSON)
        return Response(body, media_type=_JSON, headers={"Cache-Control": "no-store"})

    return Route("/dev/token", token)


def openapi_document(version: str, paths: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAPI 3.1: signaling's routes, and `paths`, a fragment with `paths` and `components`."""
    text = {"text/plain": {"schema": {"type": "string"}}}
    ok = {"200": {"description": "Yes.", "content": text}}
    own: dict[str, Any] = {
        "/healthz": {"get": {"summary": "The process is alive", "responses": ok}},
        "/readyz": {
            "get": {
                "summary": "New sessions are welcome",
                "responses": {**ok, "503": {"description": "Draining.", "content": text}},
            }
        },
        "/metrics": {"get": {"summary": "Prometheus metrics", "responses": ok}},
    }
    for path, method, summary, codes, query in _OPERATIONS:
        names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
        operation = {
            "summary": summary,
            "parameters": [
                *(_parameter(name, "path") for name in names),
                *(_parameter(name, "query") for name in query or ()),
            ],
            "responses": {str(code): {"description": HTTPStatus(code).phrase} for code in codes},
        }
        own.setdefault(path, {})[method] = operation
        if query is not None:
            operation |= {"tags": ["server api"], "security": _ADMIN}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Parley", "version": version, "license": {"name": "Apache-2.0"}},
        "paths": {**own, **paths.get("paths", {})},
        "components": paths.get("components", {}),
    }


def _parameter(name: str, place: str) -> dict[str, Any]:
    schema = {"type": "number" if name == "ban_s" else "string"}
    return {"name": name, "in": place, "required": place == "path", "schema": schema}
