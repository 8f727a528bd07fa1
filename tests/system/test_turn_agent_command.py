"""`parley turn agent` as a process: its configuration, its coturn, its Redis, its end."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from coturn import LOOPBACK, free_port, has_coturn
from redis_server import RedisServer, has_redis
from turn_client import DEADLINE, eventually, raw_client
from turn_messages import code_of

from turn_broker.coturn.agent_settings import load_agent
from turn_broker.credentials import mint
from turn_broker.fleet.messages import DEFAULT_RING, NodeReport, RealmSecrets, Revocation
from turn_broker.fleet.redis import RedisFleet
from turn_broker.fleet.redis_url import connect
from turn_broker.secret_ring import SecretRing

REALM = "parley.test"
COMMAND = [sys.executable, "-m", "turn_broker.coturn.cli"]
needs_coturn = pytest.mark.skipif(not has_coturn(), reason="turnserver is not installed")
needs_redis = pytest.mark.skipif(not has_redis(), reason="redis-server is not installed")


@dataclass
class Site:
    """Files of one node."""

    home: Path
    secret: str
    port: int
    redis_url: str = ""

    @property
    def config(self) -> Path:
        return self.home / "parley.toml"

    def write(self, **coturn: object) -> None:
        first = 15_000 + secrets.randbelow(15_000)
        values: dict[str, object] = {
            "node": "n1",
            "listening_ips": [LOOPBACK],
            "relay_ips": [LOOPBACK],
            "listening_port": self.port,
            "console_port": free_port(),
            "min_port": first,
            "max_port": first + 100,
            "allow_loopback_peers": True,
            "database": str(self.home / "state" / "turndb"),
            "log_file": str(self.home / "state" / "turnserver.log"),
            "pid_file": str(self.home / "turnserver.pid"),
            "max_log_bytes": 65_536,
            **coturn,
        }
        lines = ["[turn]", f'realm = "{REALM}"', f'secret = "{self.secret}"', "[turn.coturn]"]
        lines += [f"{name} = {json.dumps(value)}" for name, value in values.items()]
        lines += ["[backplane]", f'url = "{self.redis_url}"']
        self.config.write_text("\n".join(lines))

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, "--config", str(self.config), *arguments],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    @contextmanager
    def running(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        with (self.home / "err").open("ab") as err:
            child = subprocess.Popen(
                [*COMMAND, "--config", str(self.config), *arguments], stdout=err, stderr=err
            )
        try:
            yield child
        finally:
            child.terminate()
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


@pytest.fixture
def site() -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="turn-agent-") as folder:
        site = Site(Path(folder), secrets.token_hex(32), free_port())
        site.write()
        yield site


def test_the_configuration_is_printed(site: Site) -> None:
    done = site.run("--print-config", "--coturn-version", "4.17.1")
    assert done.returncode == 0, done.stderr
    assert "use-auth-secret\n" in done.stdout
    assert "\ncli\n" in done.stdout
    assert site.secret not in done.stdout


def test_the_configuration_is_written_for_its_owner_only(site: Site) -> None:
    target = site.home / "turnserver.conf"
    done = site.run("--write-config", str(target), "--only", "--coturn-version", "4.6.1")
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert "no-tcp-relay" in target.read_text()


@pytest.mark.parametrize(
    ("coturn", "arguments", "code", "said"),
    [
        ({"nonsense": 1}, [], 2, "turn.coturn.nonsense: unknown key"),
        ({"min_port": 70_000}, [], 2, "turn.coturn.min_port"),
        ({"drain_to": "host"}, [], 2, "turn.coturn.drain_to"),
        ({"node": "n1"}, [], 2, "backplane.url"),
        ({"statsdb": "ip=127.0.0.1"}, [], 2, "GHSA-4g7c-p5wg-j4hp"),
        ({"node": "n1"}, ["--only"], 64, "--write-config"),
        ({"node": "n1"}, ["--run", "/no/such/turnserver"], 2, "/no/such/turnserver"),
    ],
)
def test_it_does_not_start_and_says_why(
    site: Site, coturn: dict[str, object], arguments: list[str], code: int, said: str
) -> None:
    site.write(**coturn)
    if "--run" not in arguments:
        arguments = [*arguments, "--coturn-version", "4.6.1"]
    done = site.run(*arguments)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert site.secret not in done.stderr


@asynccontextmanager
async def _fleet(site: Site) -> AsyncIterator[RedisFleet]:
    settings = load_agent(site.config, {})
    client = connect(site.redis_url)
    fleet = RedisFleet(client, REALM, time.time, seal_key=settings.seal_key)
    await fleet.start()
    try:
        yield fleet
    finally:
        await fleet.close()


async def _report(fleet: RedisFleet, version: int = 0, live: int = 0) -> NodeReport:
    async with asyncio.timeout(DEADLINE):
        while True:
            for report in await fleet.reports():
                is_recent = report.secrets_version >= version and report.live >= live
                if report.software == "coturn 4.6.1" and is_recent:
                    return report
            await asyncio.sleep(0.02)


async def _listens(site: Site) -> None:
    async with asyncio.timeout(DEADLINE):
        while True:
            try:
                _, writer = await asyncio.open_connection(LOOPBACK, site.port)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            writer.close()
            return


@pytest.mark.coturn
@pytest.mark.redis
@needs_coturn
@needs_redis
async def test_it_runs_a_coturn_and_follows_a_redis() -> None:
    with tempfile.TemporaryDirectory(prefix="turn-agent-") as folder:
        redis = RedisServer(Path(folder))
        redis.start()
        site = Site(Path(folder), secrets.token_hex(32), free_port(), redis.url)
        site.write()
        try:
            with site.running("--run", "turnserver") as agent:
                await _listens(site)
                async with _fleet(site) as fleet:
                    await _report(fleet)
                    expiry = int(time.time()) + 600
                    async with raw_client((LOOPBACK, site.port)) as client:
                        caller, _ = await client.allocate(
                            mint(site.secret, "alice.one", expiry), REALM
                        )
                        await _report(fleet, live=1)
                        cut = await fleet.revoke(
                            Revocation(scope="identity", name="alice", until=expiry)
                        )
                        assert (cut.relays, cut.nodes) == (1, ("n1",))
                        assert code_of(await client.exchange(caller.refresh())) in (437, 438)
                    ring = SecretRing("another-secret")
                    await fleet.replace_secrets(RealmSecrets(version=1, rings={DEFAULT_RING: ring}))
                    await _report(fleet, version=1)
                    async with raw_client((LOOPBACK, site.port)) as client:
                        await client.allocate(mint("another-secret", "bob.one", expiry), REALM)
                    # A coturn that dies is started again, with the secrets of the moment.
                    pid = int((site.home / "turnserver.pid").read_text())
                    os.kill(pid, signal.SIGKILL)
                    written = site.home / "turnserver.pid"
                    await eventually(lambda: written.read_text().strip() not in ("", str(pid)))
                    await _listens(site)
                    async with raw_client((LOOPBACK, site.port), transport="tcp") as client:
                        await client.allocate(mint("another-secret", "carol.one", expiry), REALM)
                agent.send_signal(signal.SIGTERM)
                assert agent.wait(15) == 0, (site.home / "err").read_text()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(LOOPBACK, site.port)
            assert site.secret not in (site.home / "err").read_text()
        finally:
            redis.kill()
