"""Which region is a client's, and which come next.

Pure: a client's place is told by a function that is handed in (`geoip` makes one). First the region
that was asked for, else the client's network, else its place (country, continent, nearest), else
the default one. It does not know nodes or health.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Sequence
from math import asin, cos, radians, sin, sqrt
from typing import Annotated

from msgspec import Meta, Struct

MAX_REGION_CHARS = 64
EARTH_RADIUS_KM = 6371.0

RegionName = Annotated[str, Meta(min_length=1, max_length=MAX_REGION_CHARS)]
CountryCode = Annotated[str, Meta(pattern=r"^[A-Z]{2}$")]
ContinentCode = Annotated[str, Meta(pattern=r"^(AF|AN|AS|EU|NA|OC|SA)$")]


class RegionSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[[turn.regions]]`: whose clients a region serves."""

    id: RegionName
    networks: Annotated[list[str], Meta(max_length=4096)] = []
    """Client networks (CIDR); the longest match of all regions wins."""
    countries: Annotated[list[CountryCode], Meta(max_length=256)] = []
    """ISO 3166 codes; needs `turn.geoip_file`."""
    continents: Annotated[list[ContinentCode], Meta(max_length=7)] = []
    """AF AN AS EU NA OC SA; needs `turn.geoip_file`."""
    latitude: Annotated[float, Meta(ge=-90, le=90)] | None = None
    """Degrees; with `longitude`, clients of no listed country or continent go to the nearest."""
    longitude: Annotated[float, Meta(ge=-180, le=180)] | None = None
    """Degrees."""


class Place(Struct, frozen=True, kw_only=True):
    """Where an address is, as far as it is known."""

    country: str | None = None
    """ISO 3166."""
    continent: str | None = None
    position: tuple[float, float] | None = None
    """Latitude and longitude in degrees."""


Locate = Callable[[str], Place | None]
"""Place of a client address; None when it is not known."""
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Regions:
    """All regions there are, in the order of the configuration."""

    def __init__(
        self,
        regions: Sequence[RegionSettings],
        *,
        default: str | None = None,
        locate: Locate | None = None,
    ) -> None:
        """`default` is the first region unless it is given.

        Raises ValueError for a repeated or unknown region, a network that is none, and half a
        position.
        """
        self.names = tuple(region.id for region in regions)
        if not regions or len(set(self.names)) != len(regions):
            raise ValueError("regions must be at least one, with different ids")
        if default is not None and default not in self.names:
            raise ValueError(f"the default region {default} is not one of the regions")
        self.default = default or self.names[0]
        self._locate = locate
        self._networks = _by_prefix(regions)
        self._knows_addresses = locate is not None or any(self._networks.values())
        self._countries = {code: region.id for region in regions for code in region.countries}
        self._continents = {code: region.id for region in regions for code in region.continents}
        self._positions = {
            region.id: position
            for region in regions
            if (position := _position_of(region)) is not None
        }
        self._orders = {name: self._order_from(name) for name in self.names}

    @classmethod
    def named(cls, names: Iterable[str], *, default: str | None = None) -> Regions:
        """Regions of which nothing but the name is known."""
        return cls([RegionSettings(id=name) for name in dict.fromkeys(names)], default=default)

    def first(self, wanted: str | None, client_address: str | None) -> str:
        """The region for a client: the wanted one if there is such, else by its address."""
        if wanted in self._orders:
            return wanted
        if client_address is None or not self._knows_addresses:
            return self.default
        return self._of_address(client_address) or self.default

    def order(self, region: str) -> tuple[str, ...]:
        """All regions from `region` on: by distance, those without a position last."""
        return self._orders[region]

    def _of_address(self, text: str) -> str | None:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return None
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        for length, networks in self._networks[address.version]:
            region = networks.get(int(address) >> (address.max_prefixlen - length))
            if region is not None:
                return region
        place = self._locate(str(address)) if self._locate is not None else None
        return None if place is None else self._of_place(place)

    def _of_place(self, place: Place) -> str | None:
        region = self._countries.get(place.country or "")
        region = region or self._continents.get(place.continent or "")
        if region is not None or place.position is None:
            return region
        here = place.position
        return min(
            self._positions,
            key=lambda name: distance_km(here, self._positions[name]),
            default=None,
        )

    def _order_from(self, region: str) -> tuple[str, ...]:
        here = self._positions.get(region)

        def how_far(name: str) -> float:
            there = self._positions.get(name)
            far = float("inf") if here is None or there is None else distance_km(here, there)
            return -1.0 if name == region else far

        return tuple(sorted(self.names, key=how_far))


def distance_km(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Great-circle distance of two positions (latitude, longitude in degrees), by haversine."""
    lat1, lon1, lat2, lon2 = (radians(angle) for angle in (*one, *other))
    half = sin((lat2 - lat1) / 2) ** 2 + cos(lat1) * cos(lat2) * sin((lon2 - lon1) / 2) ** 2
    return 2 * EARTH_RADIUS_KM * asin(min(1.0, sqrt(half)))


def _position_of(region: RegionSettings) -> tuple[float, float] | None:
    if (region.latitude is None) is not (region.longitude is None):
        raise ValueError(f"region {region.id} has only half a position")
    if region.latitude is None or region.longitude is None:
        return None
    return region.latitude, region.longitude


def _by_prefix(
    regions: Sequence[RegionSettings],
) -> dict[int, list[tuple[int, dict[int, str]]]]:
    """Per IP version, longest prefix first: region by the leading bits."""
    found: dict[int, dict[int, dict[int, str]]] = {4: {}, 6: {}}
    for region in regions:
        for text in region.networks:
            try:
                network: _Network = ipaddress.ip_network(text)
            except ValueError as flaw:
                raise ValueError(f"region {region.id}: {flaw}") from flaw
            bits = int(network.network_address) >> (network.max_prefixlen - network.prefixlen)
            found[network.version].setdefault(network.prefixlen, {}).setdefault(bits, region.id)
    return {version: sorted(tables.items(), reverse=True) for version, tables in found.items()}
