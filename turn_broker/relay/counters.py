"""What one relay did since its start, as plain integers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    opened: int = 0
    closed: int = 0
    challenged: int = 0
    refused: int = 0
    malformed: int = 0
    rate_limited: int = 0
