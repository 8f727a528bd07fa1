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
_OPERATIONS = (
    ("/v1/rooms", "get", "Rooms with at least one peer (admin token)", (200, 401)),
    ("/v1/rooms/{room}", "get", "Who is in the room (admin token)", (200, 401, 404)),
    ("/v1/rooms/{room}", "delete", "Close the room (admin token)", (204, 401, 404)),
    ("/v1/rooms/{room}/messages", "post", "Speak to the room (admin token)", (202, 400, 401, 404)),
    (
        "/v1/rooms/{room}/peers/{peer}",
        "delete",
        "Kick, and with `ban_s` ban, a peer (admin token)",
        (204, 400, 401, 404),
    ),
    ("/v1/calls/{call}", "get", "Timeline of a call (admin token)", (200, 401, 404)),
    ("/v1/drain", "post", "Send everybody elsewhere, then end (admin token)", (202, 401)),
    ("/v1/sessions", "post", "Begin or resume a session over HTTP", (201, 400, 401)),
    ("/v1/sessions/{session}", "delete", "End the session (resume secret)", (204, 401, 404)),
    (
        "/v1/sessions/{session}/messages",
        "post",
        "Client messages in, their answers out (resume secret)",
        (200, 400, 401, 404),
    ),
    (
        "/v1/sessions/{session}/messages",
        "get",
        "Numbered messages after `after`, waiting up to `wait` seconds (resume secret)",
        (200, 400, 401, 404),
    ),
    (
        "/v1/sessions/{session}/events",
        "get",
        "Numbered messages as Server-Sent Events (resume secret)",
        (200, 400, 401, 404),
    ),
)
"""Path, method, what it does, which statuses: without the routes of the broker."""
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
    for path, method, summary, codes in _OPERATIONS:
        operation = own.setdefault(path, {})
        names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
        operation[method] = {
            "summary": summary,
            "parameters": [
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
                for name in names
            ],
            "responses": {str(code): {"description": HTTPStatus(code).phrase} for code in codes},
        }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Parley", "version": version, "license": {"name": "Apache-2.0"}},
        "paths": {**own, **paths.get("paths", {})},
        "components": paths.get("components", {}),
    }
