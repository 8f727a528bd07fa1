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
from dataclasses import dataclass
from pathlib import Path

from turn_broker.relay.stun import Kind, Method, build, parse

LOOPBACK = "127.0.0.1"


def has_coturn() -> bool:
    """Whether `turnserver` is installed."""
    return shutil.which("turnserver") is not None


def free_port() -> int:
    """A port number free for TCP and UDP at this moment."""
    while True:
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.bind((LOOPBACK, 0))
            port: int = tcp.getsockname()[1]
            try:
                udp.bind((LOOPBACK, port))
            except OSError:
                continue
            return port


@dataclass(frozen=True)
class Coturn:
    """A running coturn."""

    port: int
    """UDP and TCP."""
    realm: str
    secret: str
    log: Path

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return (LOOPBACK, self.port)


@contextmanager
def start_coturn(
    *,
    secret: str = "coturn-secret",
    realm: str = "parley.test",
    port: int | None = None,
    extra: Sequence[str] = (),
) -> Iterator[Coturn]:
    """coturn with `use-auth-secret` on loopback; `extra` are further lines of its configuration."""
    with tempfile.TemporaryDirectory(prefix="coturn-") as folder:
        home = Path(folder)
        for attempt in range(5):
            coturn = Coturn(port or free_port(), realm, secret, home / f"{attempt}.log")
            config = home / "turnserver.conf"
            config.write_text(_config(coturn, home, extra))
            with (
                coturn.log.open("wb") as log,
                subprocess.Popen(
                    ["turnserver", "-c", str(config)], stdout=log, stderr=log
                ) as child,
            ):
                try:
                    if _answers(coturn.address, child):
                        yield coturn
                        return
                finally:
                    child.kill()
        raise RuntimeError(f"coturn did not start:\n{coturn.log.read_text()[-2000:]}")


def _config(coturn: Coturn, home: Path, extra: Sequence[str]) -> str:
    first_relay_port = 15_000 + secrets.randbelow(15_000)
    lines = [
        f"listening-ip={LOOPBACK}",
        f"relay-ip={LOOPBACK}",
        f"listening-port={coturn.port}",
        f"min-port={first_relay_port}",
        f"max-port={first_relay_port + 500}",
        "use-auth-secret",
        f"static-auth-secret={coturn.secret}",
        f"realm={coturn.realm}",
        "allow-loopback-peers",
        "no-multicast-peers",
        "fingerprint",
        "stale-nonce=600",
        "no-tls",
        "no-dtls",
        "no-cli",
        "log-file=stdout",
        "simple-log",
        f"pidfile={home}/turnserver.pid",
        f"userdb={home}/turndb",
        *extra,
    ]
    return "\n".join(lines) + "\n"


def _answers(address: tuple[str, int], child: subprocess.Popen[bytes]) -> bool:
    """Whether a STUN Binding is answered over UDP, and TCP accepts, before the child ends."""
    deadline = time.monotonic() + 10
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.settimeout(0.1)
        while time.monotonic() < deadline and child.poll() is None:
            try:
                transaction_id = secrets.token_bytes(12)
                client.sendto(build(Method.BINDING, Kind.REQUEST, transaction_id), address)
                answer = parse(client.recv(2048))
                with socket.create_connection(address, timeout=1):
                    return answer is not None and answer.transaction_id == transaction_id
            except OSError:
                continue
    return False
