"""Writes the broker's answers: JSON that no cache keeps. It does not know what an answer means."""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec
from starlette.responses import Response

_encode = msgspec.json.Encoder().encode
_JSON = "application/json"


class _Granted(Response):
    """What is answered most: of its headers only the length is not always the same."""

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        self.raw_headers = [
            (b"cache-control", b"no-store"),
            (b"content-type", _JSON.encode()),
            (b"content-length", str(len(self.body)).encode()),
        ]


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
    media_type: str = _JSON,
) -> Response:
    """`content` as JSON; `headers` are `no_store()`'s unless given."""
    if headers is None and media_type == _JSON:
        return _Granted(_encode(content), status)
    headers = no_store() if headers is None else headers
    return Response(_encode(content), status, headers, media_type)
