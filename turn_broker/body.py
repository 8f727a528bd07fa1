"""Reads a request body up to a size and a time. It does not know what the body means."""

from __future__ import annotations

import asyncio

from starlette.requests import Request

MAX_BODY_BYTES = 4096
BODY_TIMEOUT_S = 10.0


async def read_body(request: Request, max_bytes: int = MAX_BODY_BYTES) -> bytes | None:
    """The body, or None when it is over the limit, too slow, or its sender has gone.

    What lies beyond the limit is never kept.
    """
    headers = dict(request.scope["headers"])
    declared = headers.get(b"content-length", b"")
    if declared in (b"", b"0") and b"transfer-encoding" not in headers:
        return b""
    if declared.isdigit() and (len(declared) > 9 or int(declared) > max_bytes):
        return None
    body: bytes = b""
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            while True:
                message = await request.receive()
                if message["type"] != "http.request":
                    return None
                chunk: bytes = message.get("body", b"")
                body += chunk
                if len(body) > max_bytes:
                    return None
                if not message.get("more_body", False):
                    return body
    except TimeoutError:
        return None
