"""The turnserver.conf that we write, the settings it comes from, and the database beside it."""

from __future__ import annotations

import ipaddress
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest

from turn_broker.coturn.config_text import (
    DENIED_NETWORKS,
    console_password_of,
    turnserver_conf,
)
from turn_broker.coturn.settings import (
    CoturnSettings,
    CoturnSettingsError,
    Version,
    alternate,
    parse_version,
)
from turn_broker.coturn.turndb import TurnDb

OLD, NEW = (4, 6, 1), (4, 17, 1)


def conf(version: Version = OLD, **changed: Any) -> list[str]:
    text = turnserver_conf(
        CoturnSettings(**changed), realm="turn.lab", console_password="pw", version=version
    )
    return text.splitlines()


def test_the_usual_file_is_hardened() -> None:
    lines = conf(relay_ips=["198.51.100.7"])
    for line in (
        "use-auth-secret",
        "realm=turn.lab",
        "fingerprint",
        "stale-nonce=600",
        "no-tcp-relay",
        "no-multicast-peers",
        "denied-peer-ip=169.254.0.0-169.254.255.255",
        "denied-peer-ip=::ffff:0:0-::ffff:ffff:ffff",
        "denied-peer-ip=64:ff9b::-64:ff9b::ffff:ffff",
        "denied-peer-ip=2002::-2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        "denied-peer-ip=::1",
        "allowed-peer-ip=198.51.100.7",
        "cli-ip=127.0.0.1",
        "no-software-attribute",
        "no-tls",
        "no-dtls",
        "verbose",
    ):
        assert line in lines
    assert not any(
        line.startswith(("static-auth-secret", "redis-", "allow-loop")) for line in lines
    )
    assert "cli" not in lines


def test_no_denied_range_reaches_into_ipv4_by_mistake() -> None:
    assert not any(each.startswith("::/") for each in DENIED_NETWORKS)
    for text in ("8.8.8.8", "1.1.1.1", "2606:4700::1", "9.255.255.255", "172.32.0.1"):
        address = ipaddress.ip_address(text)
        assert not any(address in ipaddress.ip_network(each) for each in DENIED_NETWORKS), text


def test_later_versions_have_to_be_told_of_the_console() -> None:
    assert "cli" in conf((4, 10))


def test_what_is_set_is_written() -> None:
    lines = conf(
        NEW,
        listening_ips=["192.0.2.1", "2001:db8::1"],
        relay_ips=["192.0.2.1", "2001:db8::1"],
        external_ip="203.0.113.5/192.0.2.1",
        certificate="/tls/chain.pem",
        private_key="/tls/key.pem",
        denied_peers=["1.2.3.0/24"],
        allowed_peers=["10.0.0.5/32"],
        relay_to_itself=False,
        statsdb="ip=127.0.0.1 dbname=3",
    )
    for line in (
        "listening-ip=2001:db8::1",
        "external-ip=203.0.113.5/192.0.2.1",
        "cert=/tls/chain.pem",
        "no-tlsv1",
        "denied-peer-ip=1.2.3.0-1.2.3.255",
        "denied-peer-ip=203.0.113.5",
        "denied-peer-ip=192.0.2.1",
        "allowed-peer-ip=10.0.0.5",
        'redis-statsdb="ip=127.0.0.1 dbname=3"',
    ):
        assert line in lines
    assert "no-tls" not in lines
    assert "allowed-peer-ip=192.0.2.1" not in lines


def test_an_old_coturn_relays_from_ipv4_only() -> None:
    lines = conf(OLD, listening_ips=["192.0.2.1", "2001:db8::1"])
    assert [line for line in lines if line.startswith("relay-ip")] == ["relay-ip=192.0.2.1"]
    lines = conf(NEW, listening_ips=["192.0.2.1", "2001:db8::1"])
    assert not [line for line in lines if line.startswith("relay-ip")]


def test_loopback_is_a_peer_only_in_laboratories() -> None:
    lines = conf(allow_loopback_peers=True)
    assert "allow-loopback-peers" in lines
    assert "denied-peer-ip=127.0.0.0-127.255.255.255" not in lines
    assert "denied-peer-ip=10.0.0.0-10.255.255.255" in lines


@pytest.mark.parametrize(
    ("key", "changed"),
    [
        ("certificate", {"certificate": 'a"b', "private_key": "k"}),
        ("certificate", {"certificate": "chain"}),
        ("database", {"database": "a\nallow-loopback-peers"}),
        ("log_file", {"log_file": "a#b"}),
        ("console_password", {"console_password": "a\rb"}),
        ("listening_ips", {"listening_ips": ["example.org"]}),
        ("relay_ips", {"relay_ips": ["fe80::1%eth0"]}),
        ("relay_ips", {"relay_ips": ["2001:db8::1"]}),
        ("external_ip", {"external_ip": "1.2.3.4/x"}),
        ("denied_peers", {"denied_peers": ["10.0.0.1/8"]}),
        ("allowed_peers", {"allowed_peers": ["all"]}),
        ("min_port", {"min_port": 2, "max_port": 1}),
        ("drain_to", {"drain_to": "example.org:3478"}),
        ("drain_to", {"drain_to": "192.0.2.1:0"}),
        ("drain_to", {"drain_to": "192.0.2.1:x"}),
        ("statsdb", {"statsdb": 'x"\ncli-password=y'}),
        ("statsdb", {"statsdb": "ip=127.0.0.1"}),
    ],
)
def test_what_cannot_be_is_refused_with_its_key(key: str, changed: dict[str, Any]) -> None:
    with pytest.raises(CoturnSettingsError) as refused:
        conf(OLD, **changed)
    assert refused.value.key == key


def test_statsdb_is_refused_where_it_crashes_and_says_why() -> None:
    with pytest.raises(CoturnSettingsError, match=r"4\.6\.1.*4\.13.*%s.*GHSA-4g7c-p5wg-j4hp"):
        conf(OLD, statsdb="ip=127.0.0.1")


def test_the_settings_show_no_password() -> None:
    assert "hush" not in repr(CoturnSettings(console_password="hush"))
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"nodes": "x"}, CoturnSettings)


def test_addresses_to_drain_to() -> None:
    assert alternate("192.0.2.1:3478") == ("192.0.2.1", 3478)
    assert alternate("[2001:db8::1]:3478") == ("2001:db8::1", 3478)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("Coturn-4.6.1 'Gorst'", (4, 6, 1)),
        ("4.17", (4, 17)),
        ("0: : log file opened\n4.6.1\n", (4, 6, 1)),
        ("no number", None),
        ("10.0.0.1.5", None),
    ],
)
def test_versions(text: str, version: Version | None) -> None:
    assert parse_version(text) == version


def test_the_console_s_password_is_derived_and_differs_between_nodes() -> None:
    one, two = CoturnSettings(node="one"), CoturnSettings(node="two")
    assert console_password_of(one, "s") == console_password_of(one, "s")
    assert len({console_password_of(each, key) for each in (one, two) for key in "ab"}) == 4
    assert console_password_of(CoturnSettings(console_password="own"), "s") == "own"


# The database


@pytest.fixture
def database(tmp_path: Path) -> TurnDb:
    database = TurnDb(tmp_path / "turndb", "turn.lab")
    database.create()
    return database


def test_secrets_are_replaced_and_other_realms_left_alone(database: TurnDb, tmp_path: Path) -> None:
    database.create()
    TurnDb(tmp_path / "turndb", "other").replace_secrets(("theirs",))
    for secrets in (("a", "b"), ("a", "b"), ("b", "c"), ()):
        database.replace_secrets(secrets)
        assert database.secrets() == set(secrets)
    assert TurnDb(tmp_path / "turndb", "other").secrets() == {"theirs"}


def test_the_database_is_not_for_everybody(database: TurnDb, tmp_path: Path) -> None:
    assert not (tmp_path / "turndb").stat().st_mode & 0o007


def test_a_reader_is_not_locked_out(database: TurnDb, tmp_path: Path) -> None:
    database.replace_secrets(("a",))
    writer = sqlite3.connect(tmp_path / "turndb", isolation_level=None)
    writer.execute("BEGIN EXCLUSIVE")
    try:
        assert database.secrets() == {"a"}
    finally:
        writer.close()


def test_a_database_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.Error):
        TurnDb(tmp_path / "none", "r").secrets()
