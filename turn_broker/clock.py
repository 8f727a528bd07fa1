"""The one place in this package that reads the clocks."""

from __future__ import annotations

import time

monotonic = time.monotonic
"""Seconds that only grow."""


def unix_now() -> float:
    """Unix seconds."""
    return time.time()  # noqa: TID251
