"""Faults of networks, described once for everything that must name them: terminal and Chromium.

A client in a namespace of its own reaches the servers of this thread's namespace over one link, of
which packets can be dropped, refused, delayed or held back.
"""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from two_networks import LINKS, SERVER_ADDRESS, FarSide, two_networks

LINK = "wifi"
_NEAR, _FAR = f"{LINKS[LINK]}.1", f"{LINKS[LINK]}.2"
_TABLE = "parley_faults"
_SLOW_LINK = Path(__file__).with_name("slow_link.py")
_devices = itertools.count()


@dataclass(frozen=True)
class Network:
    """The link between the client's side, `far`, and this thread's."""

    far: FarSide
    home: Path

    def command(self, program: str) -> str:
        """A program that runs on the client's side."""
        return self.far.program(self.home, program)

    def drops(self, *packets: str) -> contextlib.AbstractContextManager[None]:
        """Packets of these kinds vanish in both directions; nobody is told."""
        return self._filter(*(f"{one} drop" for one in packets))

    def refuses(self, *packets: str) -> contextlib.AbstractContextManager[None]:
        """The same, but the client is told: TCP with a reset."""
        return self._filter(*(f"{one} reject with tcp reset" for one in packets))

    def loses(self, percent: int) -> contextlib.AbstractContextManager[None]:
        """That share of UDP's packets, at random, in each direction."""
        return self.drops(f"ip protocol udp numgen random mod 100 < {percent}")

    @contextlib.contextmanager
    def carries(self, kbit_per_s: int) -> Iterator[None]:
        """So much and no more in each direction, and 200 ms of it may wait."""
        limit = ["root", "tbf", "rate", f"{kbit_per_s}kbit", "burst", "4kb", "latency", "200ms"]
        for side in self._sides:
            _run(*side, "tc", "qdisc", "add", "dev", LINK, *limit)
        try:
            yield
        finally:
            for side in self._sides:
                _run(*side, "tc", "qdisc", "del", "dev", LINK, "root")

    @contextlib.contextmanager
    def takes(self, delay_ms: int) -> Iterator[None]:
        """Each packet to or from the servers is under way for so long."""
        name = f"slow{next(_devices)}"
        command = [sys.executable, str(_SLOW_LINK), self.far.namespace, name, str(delay_ms)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            try:
                assert child.stdout is not None
                assert child.stdout.readline() == "ready\n"
                far = ["ip", "-n", self.far.namespace]
                _run(*far, "address", "add", f"{_FAR}/32", "dev", name)
                _run(*far, "route", "add", SERVER_ADDRESS, "dev", name, "src", _FAR)
                _run("ip", "route", "add", _FAR, "dev", name, "src", SERVER_ADDRESS)
                yield
            finally:
                # The devices and their routes go with the process.
                child.kill()

    @contextlib.contextmanager
    def _filter(self, *rules: str) -> Iterator[None]:
        """At the input of either side: a sender must not notice."""
        text = "\n".join(
            (
                f"add table ip {_TABLE}",
                f"add chain ip {_TABLE} input {{ type filter hook input priority 0; }}",
                *(f"add rule ip {_TABLE} input iifname {LINK} {rule}" for rule in rules),
            )
        )
        for side in self._sides:
            subprocess.run([*side, "nft", "-f", "-"], input=text, text=True, check=True)
        try:
            yield
        finally:
            for side in self._sides:
                _run(*side, "nft", "delete", "table", "ip", _TABLE)

    @property
    def _sides(self) -> tuple[list[str], list[str]]:
        """What to put before a command for this side and for the client's."""
        return [], ["ip", "netns", "exec", self.far.namespace]


@contextlib.contextmanager
def network(home: Path) -> Iterator[Network]:
    """Servers that this thread starts meanwhile are at SERVER_ADDRESS for the client."""
    with two_networks() as far:
        yield Network(far, home)


def _run(*command: str) -> None:
    subprocess.run(command, check=True)
