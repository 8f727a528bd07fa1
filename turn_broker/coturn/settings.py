"""Settings of a coturn node and its agent: `[turn.coturn]`. Bounds only; nothing is read here."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated

from msgspec import Meta, Struct

Port = Annotated[int, Meta(ge=1, le=65_535)]
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\"'#]")

Version = tuple[int, ...]
IPV6_RELAY_SINCE: Version = (4, 9)
"""Before, `::ffff:10.0.0.1` walks past the denied ranges (CVE-2026-27624)."""
STATSDB_SINCE: Version = (4, 13)
"""Before, a user name with %s in it ends the process (GHSA-4g7c-p5wg-j4hp)."""


class CoturnSettingsError(ValueError):
    """A setting that cannot be; `key` says which."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"turn.coturn.{key}: {reason}")
        self.key = key
        self.reason = reason


class CoturnSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[turn.coturn]`: the coturn beside which `parley turn agent` runs."""

    node: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}$")] = "default"
    """The `id` of this node in `[[turn.nodes]]`."""
    listening_ips: Annotated[list[str], Meta(max_length=16)] = []
    """Empty: all of the machine's."""
    listening_port: Port = 3478
    tls_listening_port: Port = 5349
    """Open only with `certificate` and `private_key`."""
    certificate: str = ""
    """PEM file with the chain."""
    private_key: str = ""
    relay_ips: Annotated[list[str], Meta(max_length=16)] = []
    """Addresses to relay from. Empty: all of the machine's."""
    external_ip: str = ""
    """The address clients reach where it is not the machine's own: `PUBLIC` or `PUBLIC/PRIVATE`."""
    min_port: Port = 49_160
    max_port: Port = 49_999
    """One port for each allocation."""
    denied_peers: Annotated[list[str], Meta(max_length=256)] = []
    """Networks (CIDR) that no client may reach, beyond all that are not public: own servers."""
    allowed_peers: Annotated[list[str], Meta(max_length=256)] = []
    """Networks that may be reached although they are not public."""
    relay_to_itself: bool = True
    """Two clients that both relay through this node need it. It also lets a client reach other UDP
    services on the relay address: run none there."""
    allow_loopback_peers: bool = False
    """For laboratories only."""
    allocations_per_credential: Annotated[int, Meta(ge=1, le=1_000_000)] = 12
    """coturn refuses more (486)."""
    allocations_per_identity: Annotated[int, Meta(ge=1, le=1_000_000)] = 16
    """Over all its credentials; the agent cuts the newest above it."""
    max_allocations: Annotated[int, Meta(ge=1, le=1_000_000)] = 800
    max_bytes_per_second: Annotated[int, Meta(ge=0)] = 750_000
    """Of one allocation; 0: no limit."""
    capacity_bytes_per_second: Annotated[int, Meta(ge=0)] = 0
    """Of the whole server; 0: no limit."""
    database: str = "/var/lib/coturn/turndb"
    """SQLite file through which the agent hands over secrets; agent and coturn both write it."""
    log_file: str = "/var/log/coturn/turnserver.log"
    """Written by coturn, read by the agent; rotate it by renaming and SIGHUP."""
    pid_file: str = "/var/tmp/turnserver.pid"  # noqa: S108 - coturn's own default
    max_log_bytes: Annotated[int, Meta(ge=65_536)] = 64 * 1024 * 1024
    """The agent rotates the log of a coturn that it runs itself at this size."""
    console_port: Port = 5766
    """coturn's command line on 127.0.0.1."""
    console_password: str = ""
    """Empty: derived from `turn.secret`."""
    drain_to: str = ""
    """`ADDRESS:PORT` that new clients are sent to (300 Try Alternate) while this node drains;
    without it their credentials are refused."""
    statsdb: str = ""
    """coturn's `redis-statsdb` (`ip=... dbname=...`), for dashboards of your own; refused before
    4.13. The agent follows the log whatever it is."""

    def __repr__(self) -> str:
        return f"CoturnSettings(node={self.node!r}, ...)"

    def check(self) -> None:
        """Raises CoturnSettingsError for what contradicts itself or cannot stand in a file."""
        for key in ("certificate", "private_key", "database", "log_file", "pid_file"):
            _check_text(key, getattr(self, key))
        _check_text("console_password", self.console_password)
        _check_text("statsdb", self.statsdb)
        for key in ("listening_ips", "relay_ips"):
            for text in getattr(self, key):
                _check_address(key, text)
        for part in filter(None, self.external_ip.split("/", 1)):
            _check_address("external_ip", part)
        for key in ("denied_peers", "allowed_peers"):
            for text in getattr(self, key):
                _check_network(key, text)
        if self.min_port > self.max_port:
            raise CoturnSettingsError("min_port", "is above max_port")
        if bool(self.certificate) != bool(self.private_key):
            raise CoturnSettingsError("certificate", "needs private_key, and the other way round")
        if self.drain_to:
            alternate(self.drain_to)

    def check_version(self, version: Version) -> None:
        """Raises CoturnSettingsError for what this coturn must not be told to do."""
        if self.statsdb and version < STATSDB_SINCE:
            raise CoturnSettingsError(
                "statsdb",
                f"refused on coturn {_text(version)}: before {_text(STATSDB_SINCE)} anybody can"
                " end the process with a user name that has %s in it (GHSA-4g7c-p5wg-j4hp)",
            )
        for text in self.relay_ips:
            if ":" in text and version < IPV6_RELAY_SINCE:
                raise CoturnSettingsError(
                    "relay_ips",
                    f"IPv6 on coturn {_text(version)}: before {_text(IPV6_RELAY_SINCE)}"
                    " IPv4-mapped peers walk past the denied ranges (CVE-2026-27624)",
                )


def alternate(text: str) -> tuple[str, int]:
    """Address and port of `drain_to`; raises CoturnSettingsError."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    _check_address("drain_to", host)
    if not port.isdecimal() or not 1 <= int(port) <= 65_535:
        raise CoturnSettingsError("drain_to", "needs an address and a port")
    return host, int(port)


def parse_version(text: str) -> Version | None:
    """`4.6.1` anywhere in the text."""
    found = re.search(r"(?<![\d.])(\d{1,3})\.(\d{1,3})(?:\.(\d{1,3}))?(?![\d.])", text)
    return tuple(int(part) for part in found.groups() if part) if found else None


def _text(version: Version) -> str:
    return ".".join(map(str, version))


def _check_text(key: str, text: str) -> None:
    if _UNSAFE.search(text):
        raise CoturnSettingsError(key, "has a quote, # or control character in it")


def _check_address(key: str, text: str) -> None:
    try:
        ipaddress.ip_address(text)
    except ValueError as flaw:
        raise CoturnSettingsError(key, str(flaw)) from flaw
    if "%" in text:
        raise CoturnSettingsError(key, "must have no zone")


def _check_network(key: str, text: str) -> None:
    try:
        ipaddress.ip_network(text)
    except ValueError as flaw:
        raise CoturnSettingsError(key, str(flaw)) from flaw
