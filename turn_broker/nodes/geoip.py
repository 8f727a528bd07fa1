"""Places of client addresses from a GeoIP file in MaxMind's format (City or Country).

The extra `geoip` brings the reader. The file is read into memory once; a new one needs a restart.
It does not know regions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from turn_broker.nodes.regions import Locate, Place

_REMEMBERED = 10_000


def open_geoip(path: Path) -> Locate:
    """The function that places an address by the file at `path`.

    Raises ValueError when the reader is not installed or the file is not of this format, OSError
    when it cannot be read.
    """
    try:
        import maxminddb
    except ImportError as flaw:
        raise ValueError("needs `pip install parley-rtc[geoip]`") from flaw
    try:
        reader = maxminddb.open_database(str(path), maxminddb.MODE_MEMORY)
    except maxminddb.InvalidDatabaseError as flaw:
        raise ValueError(str(flaw)) from flaw
    return lru_cache(_REMEMBERED)(_locate_with(reader.get))


def _locate_with(read: Callable[[str], Any]) -> Locate:
    def locate(address: str) -> Place | None:
        try:
            record = read(address)
        except ValueError:
            # An IPv6 address and a file of IPv4 alone.
            return None
        return place_of(record)

    return locate


def place_of(record: object) -> Place | None:
    """The place in a record of a City or Country file; None when it names none."""
    if not isinstance(record, dict):
        return None
    country = _text(record, "country", "iso_code") or _text(
        record, "registered_country", "iso_code"
    )
    continent = _text(record, "continent", "code")
    location = record.get("location")
    position = None
    if isinstance(location, dict):
        latitude, longitude = location.get("latitude"), location.get("longitude")
        if isinstance(latitude, float | int) and isinstance(longitude, float | int):
            position = float(latitude), float(longitude)
    if country is None and continent is None and position is None:
        return None
    return Place(country=country, continent=continent, position=position)


def _text(record: dict[str, Any], table: str, field: str) -> str | None:
    inner = record.get(table)
    value = inner.get(field) if isinstance(inner, dict) else None
    return value if isinstance(value, str) else None
