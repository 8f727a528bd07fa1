"""HTTP for operators and tools: health, readiness, metrics, the OpenAPI document, dev tokens.

It knows callables, not what they look at.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

MAX_NAME_CHARS = 128
_JSON = "application/json"


def routes(
    is_ready: Callable[[], bool],
    metrics: Callable[[], bytes],
    metrics_type: str,
    openapi: Mapping[str, Any],
) -> list[Route]:
    """`/healthz`, `/readyz`, `/metrics`, `/openapi.json`."""
    document = json.dumps(openapi).encode()

    async def healthz(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(request: Request) -> Response:
        ready = is_ready()
        return PlainTextResponse("ready\n" if ready else "draining\n", 200 if ready else 503)

    async def page(request: Request) -> Response:
        return Response(metrics(), headers={"Content-Type": metrics_type})

    async def openapi_json(request: Request) -> Response:
        return Response(document, media_type=_JSON)

    return [
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", page),
        Route("/openapi.json", openapi_json),
    ]


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
    """OpenAPI 3.1: these routes and `paths`, a fragment with `paths` and `components`."""
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
    return {
        "openapi": "3.1.0",
        "info": {"title": "Parley", "version": version, "license": {"name": "Apache-2.0"}},
        "paths": {**own, **paths.get("paths", {})},
        "components": paths.get("components", {}),
    }
