"""Real servers for tests: started as foreground children on free loopback ports, ended for sure."""

from __future__ import annotations

import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from turn_broker.relay.stun import Kind, Method, build, parse

LOOPBACK = "127.0.0.1"
_PORTS: tuple[int, ...] = (*range(11_000, 15_000), *range(31_000, 32_700))
"""Of servers; no test relays through them, and no browser shuns them."""
_FIRST_RELAY_PORT = 15_000
_RELAY_PORT_SPREAD = 15_000
_RELAY_PORTS = 500


def has_coturn() -> bool:
    """Whether `turnserver` is installed."""
    return shutil.which("turnserver") is not None


def free_port() -> int:
    """A port number free for TCP and UDP, below those that the kernel gives to clients.

    So nobody takes it by accident: neither before its server starts nor while it is down.
    """
    while True:
        port: int = secrets.choice(_PORTS)
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            # What a former server's clients have left in TIME_WAIT keeps none from starting.
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tcp.bind((LOOPBACK, port))
                udp.bind((LOOPBACK, port))
            except OSError:
                continue
            return port


def close_relay_ports() -> None:
    """Drop what arrives at any relayed port, in the network namespace of this thread."""
    last = _FIRST_RELAY_PORT + _RELAY_PORT_SPREAD + _RELAY_PORTS
    for command in (
        "add table ip parley",
        "add chain ip parley input { type filter hook input priority 0; }",
        f"add rule ip parley input udp dport {_FIRST_RELAY_PORT}-{last} drop",
    ):
        subprocess.run(["nft", command], check=True)


@dataclass(frozen=True)
class Coturn:
    """A running coturn."""

    port: int
    """UDP and TCP."""
    realm: str
    secret: str
    log: Path
    tls_port: int = 0
    """0: no TLS."""
    host: str = LOOPBACK
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False, compare=False)

    def kill(self) -> None:
        """As a crash."""
        assert self.process is not None
        self.process.kill()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return (self.host, self.port)


@contextmanager
def start_coturn(
    *,
    secret: str = "coturn-secret",
    realm: str = "parley.test",
    port: int | None = None,
    extra: Sequence[str] = (),
    certificate: tuple[Path, Path] | None = None,
    tcp: bool = True,
    host: str = LOOPBACK,
) -> Iterator[Coturn]:
    """coturn with `use-auth-secret` on `host`; `extra` are further lines of its configuration.

    Without a `secret` it relays for anybody. `certificate` (PEM files of it and of its key) opens a
    TLS port. Without `tcp` nobody waits for the TCP port.
    """
    with tempfile.TemporaryDirectory(prefix="coturn-") as folder:
        home = Path(folder)
        for attempt in range(5):
            tls_port = free_port() if certificate else 0
            log_file = home / f"{attempt}.log"
            coturn = Coturn(port or free_port(), realm, secret, log_file, tls_port, host)
            config = home / "turnserver.conf"
            config.write_text(_config(coturn, home, (*_tls(coturn, certificate), *extra)))
            with (
                coturn.log.open("wb") as log,
                subprocess.Popen(
                    ["turnserver", "-c", str(config)], stdout=log, stderr=log
                ) as child,
            ):
                try:
                    if _answers(coturn, child, tcp=tcp):
                        yield replace(coturn, process=child)
                        return
                finally:
                    child.kill()
        raise RuntimeError(f"coturn did not start:\n{coturn.log.read_text()[-2000:]}")


def _config(coturn: Coturn, home: Path, extra: Sequence[str]) -> str:
    first_relay_port = _FIRST_RELAY_PORT + secrets.randbelow(_RELAY_PORT_SPREAD)
    lines = [
        f"listening-ip={coturn.host}",
        f"relay-ip={coturn.host}",
        f"listening-port={coturn.port}",
        f"min-port={first_relay_port}",
        f"max-port={first_relay_port + _RELAY_PORTS}",
        *(
            ["use-auth-secret", f"static-auth-secret={coturn.secret}"]
            if coturn.secret
            else ["no-auth"]
        ),
        f"realm={coturn.realm}",
        "allow-loopback-peers",
        "no-multicast-peers",
        "fingerprint",
        "stale-nonce=600",
        "no-dtls",
        "no-cli",
        "log-file=stdout",
        "simple-log",
        f"pidfile={home}/turnserver.pid",
        f"userdb={home}/turndb",
        *extra,
    ]
    return "\n".join(lines) + "\n"


def _tls(coturn: Coturn, certificate: tuple[Path, Path] | None) -> list[str]:
    if certificate is None:
        return ["no-tls"]
    chain, key = certificate
    return [f"tls-listening-port={coturn.tls_port}", f"cert={chain}", f"pkey={key}"]


def _answers(coturn: Coturn, child: subprocess.Popen[bytes], *, tcp: bool) -> bool:
    """Whether STUN is answered over UDP and the streams accept, before the child ends."""
    deadline = time.monotonic() + 30
    streams = [coturn.port] * tcp + [coturn.tls_port] * bool(coturn.tls_port)
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.settimeout(0.1)
        while time.monotonic() < deadline and child.poll() is None:
            try:
                transaction_id = secrets.token_bytes(12)
                client.sendto(build(Method.BINDING, Kind.REQUEST, transaction_id), coturn.address)
                answer = parse(client.recv(2048))
                for port in streams:
                    socket.create_connection((coturn.host, port), timeout=5).close()
                return answer is not None and answer.transaction_id == transaction_id
            except OSError:
                continue
    return False
