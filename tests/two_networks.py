"""A server with one person beside it, and another who reaches both over one of two networks.

The far side is a network namespace of its own with two links, as a phone has Wi-Fi and mobile. The
near side is the namespace of this thread: what it starts is there.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rtc import isolated_network

SERVER_ADDRESS = "10.99.0.1"
"""Reached over either link."""
LINKS = {"wifi": "10.99.1", "mobile": "10.99.2"}
_TABLE = "parley"


@dataclass
class FarSide:
    """The other namespace; it uses one link, and the other one is down."""

    namespace: str
    link: str = "wifi"

    @property
    def spare(self) -> str:
        """The link that is down."""
        return "mobile" if self.link == "wifi" else "wifi"

    def program(self, home: Path, program: str) -> str:
        """A script that runs that program over there."""
        script = home / Path(program).name
        script.write_text(
            f'#!/bin/sh\nexec nsenter --net=/run/netns/{self.namespace} {program} "$@"\n'
        )
        script.chmod(0o755)
        return str(script)

    def connect(self) -> None:
        """Bring the link up, with the default route."""
        self._ip("link", "set", self.link, "up")
        self._ip("address", "replace", f"{LINKS[self.link]}.2/24", "dev", self.link)
        self._ip("route", "replace", "default", "via", f"{LINKS[self.link]}.1")

    def disconnect(self, link: str) -> None:
        """Take its address away, and the link down."""
        self._ip("address", "flush", "dev", link)
        self._ip("link", "set", link, "down")

    def move(self, wait: Callable[[], object] | None = None) -> None:
        """Use the spare link: before the other goes, or after it went and a wait."""
        former, self.link = self.link, self.spare
        if wait is None:
            self.connect()
            self.disconnect(former)
        else:
            self.disconnect(former)
            wait()
            self.connect()

    @contextlib.contextmanager
    def silence(self) -> Iterator[None]:
        """Every packet of either direction is dropped; nobody is told."""
        _nft("add", "table", "ip", _TABLE)
        try:
            for hook, way in (("input", "iifname"), ("output", "oifname")):
                rule = f"{{ type filter hook {hook} priority 0; }}"
                _nft("add", "chain", "ip", _TABLE, hook, rule)
                for link in LINKS:
                    _nft("add", "rule", "ip", _TABLE, hook, way, link, "drop")
            yield
        finally:
            _nft("delete", "table", "ip", _TABLE)

    def _ip(self, *arguments: str) -> None:
        _ip("-n", self.namespace, *arguments)


@contextlib.contextmanager
def two_networks() -> Iterator[FarSide]:
    """Enter the near side for as long as this lasts."""
    namespace = f"parley-{os.getpid()}-{secrets.token_hex(3)}"
    with isolated_network(), contextlib.ExitStack() as stack:
        _ip("netns", "add", namespace)
        stack.callback(_ip, "netns", "del", namespace)
        for which in ("all", "default"):
            # An IPv6 address that becomes valid a second later is a new network for Chromium,
            # which then fails every request under way.
            setting = f"net.ipv6.conf.{which}.disable_ipv6=1"
            _ip("netns", "exec", namespace, "sysctl", "-qw", setting)
        _ip("-n", namespace, "link", "set", "lo", "up")
        _ip("address", "add", f"{SERVER_ADDRESS}/32", "dev", "lo")
        for link, network in LINKS.items():
            _ip("link", "add", link, "type", "veth", "peer", "name", link, "netns", namespace)
            _ip("address", "add", f"{network}.1/24", "dev", link)
            _ip("link", "set", link, "up")
        far = FarSide(namespace)
        far.connect()
        yield far


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def _nft(*arguments: str) -> None:
    subprocess.run(["nft", *arguments], check=True)
