"""Reads a request body up to a size and a time. It does not know what the body means."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request

MAX_BODY_BYTES = 4096
BODY_TIMEOUT_S = 10.0


async def read_body(request: Request, max_bytes: int = MAX_BODY_BYTES) -> bytes | None:
    """The body, or None when it is over the limit, too slow, or its sender has gone.

    What lies beyond the limit is never kept.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and (len(declared) > 9 or int(declared) > max_bytes):
        return None
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.stream():
                if len(body) + len(chunk) > max_bytes:
                    return None
                body += chunk
    except (TimeoutError, ClientDisconnect):
        return None
    return bytes(body)
