"""Writes the broker's answers: JSON that no cache keeps. It does not know what an answer means."""

from __future__ import annotations

import math

import msgspec
from starlette.responses import Response

_encode = msgspec.json.Encoder().encode


def no_store(retry_after_s: float | None = None) -> dict[str, str]:
    """Headers of every answer, with Retry-After (whole seconds) where it says so."""
    headers = {"Cache-Control": "no-store"}
    if retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(retry_after_s)))
    return headers


def json_answer(
    content: msgspec.Struct,
    status: int = 200,
    headers: dict[str, str] | None = None,
    media_type: str = "application/json",
) -> Response:
    """`content` as JSON; `headers` are `no_store()`'s unless given."""
    return Response(
        _encode(content),
        status_code=status,
        media_type=media_type,
        headers=no_store() if headers is None else headers,
    )
