"""A real coturn with the configuration that we write, and what an agent needs to control it."""

from __future__ import annotations

import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coturn import LOOPBACK, Coturn, _answers, free_port

from turn_broker.coturn.config_text import turnserver_conf
from turn_broker.coturn.control import CoturnControl
from turn_broker.coturn.settings import CoturnSettings
from turn_broker.coturn.turndb import TurnDb

REALM = "parley.test"
SECRET = "a-secret-of-the-coturn-node"
PASSWORD = "console-password"


@dataclass
class CoturnNode:
    """Started with `start`; may be ended and started again."""

    settings: CoturnSettings
    home: Path
    child: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> tuple[str, int]:
        return (LOOPBACK, self.settings.listening_port)

    def control(self) -> CoturnControl:
        return CoturnControl(self.settings, realm=REALM, console_password=PASSWORD)

    @property
    def database(self) -> TurnDb:
        return TurnDb(Path(self.settings.database), REALM)

    def start(self) -> bool:
        """Whether it answers."""
        config = self.home / "turnserver.conf"
        config.write_text(
            turnserver_conf(
                self.settings, realm=REALM, console_password=PASSWORD, version=(4, 6, 1)
            )
        )
        with (self.home / "out").open("ab") as out:
            self.child = subprocess.Popen(["turnserver", "-c", str(config)], stdout=out, stderr=out)
        known = Coturn(self.settings.listening_port, REALM, SECRET, self.home / "out")
        return _answers(known, self.child, tcp=True)

    def stop(self) -> None:
        if self.child is not None:
            self.child.kill()
            self.child.wait()
            self.child = None


@contextmanager
def coturn_node(**changed: Any) -> Iterator[CoturnNode]:
    """Running, on loopback, with `SECRET` in its database; `changed` goes over its settings."""
    with tempfile.TemporaryDirectory(prefix="coturn-node-") as folder:
        home = Path(folder)
        for _ in range(5):
            first_relay_port = 15_000 + secrets.randbelow(15_000)
            usual: dict[str, Any] = {
                "listening_ips": [LOOPBACK],
                "relay_ips": [LOOPBACK],
                "listening_port": free_port(),
                "console_port": free_port(),
                "min_port": first_relay_port,
                "max_port": first_relay_port + 500,
                "allow_loopback_peers": True,
                "database": str(home / "turndb"),
                "log_file": str(home / "turnserver.log"),
                "pid_file": str(home / "turnserver.pid"),
            }
            node = CoturnNode(CoturnSettings(**{**usual, **changed}), home)
            node.database.create()
            node.database.replace_secrets((SECRET,))
            try:
                if node.start():
                    yield node
                    return
            finally:
                node.stop()
        raise RuntimeError(f"coturn did not start:\n{(home / 'out').read_text()[-2000:]}")
