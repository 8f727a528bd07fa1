"""The one place in this package that reads the wall clock."""

from __future__ import annotations

import time


def unix_now() -> float:
    """Unix seconds."""
    return time.time()  # noqa: TID251
