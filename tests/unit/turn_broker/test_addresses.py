"""Addresses as keys of tables."""

from __future__ import annotations

import pytest

from turn_broker.addresses import address_key


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:0DB8:1:2::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("/run/parley.sock", "/run/parley.sock"),
        ("", ""),
        ("x" * 500, "x" * 64),
    ],
)
def test_an_address_stands_for_a_subscriber(address: str, key: str) -> None:
    assert address_key(address) == key
