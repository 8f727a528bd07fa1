"""Which region is a client's: asked for, by network, by place, or the default."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmdb_writer import MMDBWriter
from netaddr import IPSet  # type: ignore[import-untyped]

from turn_broker.nodes.geoip import open_geoip, place_of
from turn_broker.nodes.regions import Place, Regions, RegionSettings, distance_km

EUROPE = RegionSettings(
    id="eu",
    countries=["DE"],
    continents=["EU"],
    latitude=50.1,
    longitude=8.7,
    networks=["10.0.0.0/8"],
)
AMERICA = RegionSettings(
    id="us", continents=["NA"], latitude=39.0, longitude=-77.5, networks=["10.2.0.0/16"]
)
ASIA = RegionSettings(id="sg", latitude=1.35, longitude=103.8, networks=["2001:db8::/32"])
LAB = RegionSettings(id="lab")
ALL = [EUROPE, AMERICA, ASIA, LAB]
PLACES = {
    "192.0.2.1": Place(country="DE", continent="EU", position=(40.0, -70.0)),
    "192.0.2.2": Place(country="FR", continent="EU"),
    "192.0.2.3": Place(country="JP", continent="AS", position=(35.7, 139.7)),
    "192.0.2.4": Place(country="JP", continent="AS"),
}


@pytest.mark.parametrize(
    ("wanted", "address", "region"),
    [
        ("us", "10.1.1.1", "us"),
        ("nowhere", "10.1.1.1", "eu"),
        (None, None, "lab"),
        (None, "10.1.1.1", "eu"),
        (None, "10.2.1.1", "us"),
        (None, "::ffff:10.2.1.1", "us"),
        (None, "2001:db8::5", "sg"),
        (None, "2001:db9::5", "lab"),
        (None, "not an address", "lab"),
        (None, "192.0.2.1", "eu"),
        (None, "192.0.2.2", "eu"),
        (None, "192.0.2.3", "sg"),
        (None, "192.0.2.4", "lab"),
        (None, "192.0.2.5", "lab"),
    ],
)
def test_first(wanted: str | None, address: str | None, region: str) -> None:
    assert Regions(ALL, default="lab", locate=PLACES.get).first(wanted, address) == region


def test_without_positions_a_place_far_away_is_nobodys() -> None:
    assert Regions([LAB], locate=PLACES.get).first(None, "192.0.2.3") == "lab"


def test_the_default_is_the_first() -> None:
    assert Regions(ALL).first(None, None) == "eu"
    assert Regions.named(["b", "a", "b"]).names == ("b", "a")
    assert Regions.named(["b", "a"], default="a").default == "a"


def test_order_is_by_distance() -> None:
    regions = Regions(ALL)

    assert regions.order("eu") == ("eu", "us", "sg", "lab")
    assert regions.order("sg") == ("sg", "eu", "us", "lab")
    assert regions.order("lab") == ("lab", "eu", "us", "sg")


@pytest.mark.parametrize(
    ("regions", "default", "words"),
    [
        ([], None, "at least one"),
        ([LAB, LAB], None, "different"),
        ([LAB], "eu", "default region eu"),
        ([RegionSettings(id="a", latitude=1.0)], None, "half a position"),
        ([RegionSettings(id="a", networks=["10.0.0.1/8"])], None, "region a: "),
    ],
)
def test_refused(regions: list[RegionSettings], default: str | None, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Regions(regions, default=default)


def test_distance() -> None:
    assert distance_km((52.52, 13.405), (48.8566, 2.3522)) == pytest.approx(878, abs=3)
    assert distance_km((0, 0), (0, 180)) == pytest.approx(20_015, abs=1)


ANGLES = st.tuples(st.floats(-90, 90), st.floats(-180, 180))


@given(ANGLES, ANGLES)
def test_distance_is_symmetric_and_on_earth(
    one: tuple[float, float], other: tuple[float, float]
) -> None:
    assert 0 <= distance_km(one, other) <= 20_016
    assert distance_km(one, other) == pytest.approx(distance_km(other, one))


# GeoIP ------------------------------------------------------------------------------------------


@pytest.fixture
def geoip_file(tmp_path: Path) -> Path:
    writer = MMDBWriter(4, "Parley-Test-City", float_type="f64")
    writer.insert_network(
        IPSet(["198.51.100.0/25"]),
        {
            "country": {"iso_code": "JP"},
            "continent": {"code": "AS"},
            "location": {"latitude": 35.7, "longitude": 139.7},
        },
    )
    writer.insert_network(IPSet(["198.51.100.128/25"]), {"registered_country": {"iso_code": "DE"}})
    path = tmp_path / "city.mmdb"
    writer.to_db_file(str(path))
    return path


def test_places_of_a_file(geoip_file: Path) -> None:
    locate = open_geoip(geoip_file)

    assert locate("198.51.100.1") == Place(country="JP", continent="AS", position=(35.7, 139.7))
    assert locate("198.51.100.200") == Place(country="DE")
    assert locate("192.0.2.1") is None
    assert locate("2001:db8::1") is None
    regions = Regions(ALL, default="lab", locate=locate)
    assert regions.first(None, "198.51.100.1") == "sg"
    assert regions.first(None, "198.51.100.200") == "eu"


def test_a_file_of_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "no.mmdb"
    path.write_bytes(b"not a database")
    with pytest.raises(ValueError, match="MaxMind DB"):
        open_geoip(path)
    with pytest.raises(OSError, match="No such file"):
        open_geoip(tmp_path / "missing.mmdb")


def test_without_the_reader_the_extra_is_named(
    geoip_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "maxminddb", None)
    with pytest.raises(ValueError, match=r"parley-rtc\[geoip\]"):
        open_geoip(geoip_file)


@pytest.mark.parametrize(
    "record",
    [
        None,
        "text",
        {},
        {"country": "DE"},
        {"country": {"iso_code": 4}, "location": {"latitude": 1.0}},
        {"location": "here"},
    ],
)
def test_a_record_that_names_no_place(record: Any) -> None:
    assert place_of(record) is None
