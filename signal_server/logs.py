"""Structured logs on standard error: one JSON object a line, or plain text for a person.

What may be logged is decided where it is logged: types, codes, counts and sizes, never a token, an
SDP, a candidate, an address or a credential. Uvicorn's own lines carry paths and queries, so its
loggers only pass warnings.
"""

from __future__ import annotations

import logging
import sys

from pythonjsonlogger.json import JsonFormatter

_CHATTY = (
    "uvicorn",
    "uvicorn.error",
    "uvicorn.access",
    "asyncio",
    "websockets",
    "httpx",
    "aioice",
    "aiortc",
)
"""Libraries whose lines may carry a path, a query or (aioice) an address."""


def configure(level: str, style: str) -> None:
    """Set up the root logger; `style` is `json` or `text`."""
    formatter: logging.Formatter
    if style == "json":
        formatter = JsonFormatter(
            ["asctime", "levelname", "name", "message"],
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
        )
    else:
        formatter = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s  %(message)s")
    out = logging.StreamHandler(sys.stderr)
    out.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [out]
    root.setLevel(level.upper())
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
