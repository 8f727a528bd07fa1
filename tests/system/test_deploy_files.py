"""What is shipped for operators is accepted by the programs it is for, and refuses what it must."""

from __future__ import annotations

import contextlib
import shutil
import socket
import stat
import subprocess
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import httpx
import pytest
from coturn import free_port
from docker_engine import compose_command
from servers import start_parley
from turn_client import RawClient, raw_client
from turn_messages import Caller, code_of

from signal_server import config
from signal_server.client import SignalingClient
from turn_broker.credentials import mint

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
SECRET = "7d0c3b1f5a9e4e62b8d4f0a6c2e8137f"
REALM = "parley.test"
DENIED = (
    *("0.0.0.0", "10.0.0.1", "100.64.0.1", "127.0.0.2", "169.254.169.254", "172.16.0.1"),
    *("192.0.0.1", "192.168.1.1", "198.18.0.1", "203.0.113.1", "239.0.0.1", "255.255.255.255"),
)


def _run(*command: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def _needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The parts of a clone that `make-secrets` works on."""
    clone = tmp_path / "parley"
    shutil.copytree(DEPLOY, clone / "deploy", ignore=shutil.ignore_patterns("secrets"))
    return clone


def _turnserver_conf(home: Path, port: int) -> str:
    first = 30_000 + port % 1000 * 10
    text = (DEPLOY / "coturn" / "turnserver.conf").read_text()
    for name, value in {
        "@REALM@": REALM,
        "@SECRET@": SECRET,
        "@PUBLIC_IP@": "127.0.0.1",
        "@PRIVATE_IP@": "127.0.0.1",
        "listening-port=3478": f"listening-port={port}",
        "min-port=49160": f"min-port={first}",
        "max-port=49259": f"max-port={first + 9}",
        "/var/lib/coturn/turndb": f"{home}/turndb",
        "/var/tmp/turnserver.pid": f"{home}/turnserver.pid",
    }.items():
        assert name in text, f"turnserver.conf has no {name}"
        text = text.replace(name, value)
    return text


@pytest.fixture
def reference_coturn(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """coturn with the shipped configuration, moved to free ports: its port and its log."""
    port = free_port()
    conf = tmp_path / "turnserver.conf"
    conf.write_text(_turnserver_conf(tmp_path, port))
    log = tmp_path / "log"
    with log.open("wb") as output, _serving(["turnserver", "-c", str(conf)], port, output):
        yield port, log


@contextlib.contextmanager
def _serving(command: list[str], port: int, output: IO[bytes] | None = None) -> Iterator[None]:
    """The server as a foreground child, while it accepts connections on that port."""
    with subprocess.Popen(command, stdout=output, stderr=output) as child:
        try:
            _await_port(port, child)
            yield
        finally:
            child.terminate()


def _await_port(port: int, child: subprocess.Popen[bytes]) -> None:
    """Until the child accepts TCP connections there."""
    deadline = time.monotonic() + 10
    while True:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert child.poll() is None, f"{child.args!r} has ended"
        assert time.monotonic() < deadline, f"{child.args!r} does not listen"
        time.sleep(0.05)


async def _permit(client: RawClient, caller: Caller, peer: str) -> int:
    return code_of(await client.exchange(caller.permit((peer, 9))))


@pytest.mark.coturn
@_needs("turnserver")
class TestCoturn:
    async def test_denied_peers_are_refused(self, reference_coturn: tuple[int, Path]) -> None:
        port, log = reference_coturn
        credential = mint(SECRET, "alice", int(time.time()) + 60)
        async with raw_client(("127.0.0.1", port), transport="tcp") as client:
            caller, _ = await client.allocate(credential, REALM)
            assert await _permit(client, caller, "8.8.8.8") == 0, log.read_text()
            for peer in DENIED:
                assert await _permit(client, caller, peer) == 403, peer
            # An IPv4 allocation has no IPv6 peers at all: the family does not match (RFC 8656).
            for peer in ("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::1", "64:ff9b::a00:1"):
                assert await _permit(client, caller, peer) in (403, 443), peer

    async def test_every_line_is_understood(self, reference_coturn: tuple[int, Path]) -> None:
        _, log = reference_coturn
        assert "Bad configuration" not in log.read_text()

    async def test_a_wrong_secret_is_refused(self, reference_coturn: tuple[int, Path]) -> None:
        port, _ = reference_coturn
        caller = Caller(mint(SECRET[::-1], "alice", int(time.time()) + 60), REALM)
        async with raw_client(("127.0.0.1", port), transport="tcp") as client:
            await client.challenge(caller)
            assert code_of(await client.exchange(caller.allocate())) == 401


class TestSecrets:
    def test_written_once_and_private(self, checkout: Path) -> None:
        script = checkout / "deploy" / "docker" / "make-secrets"
        assert _run(script, "parley.test", "198.51.100.7").returncode == 0
        folder = checkout / "deploy" / "docker" / "secrets"
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((checkout / ".env").stat().st_mode) == 0o600
        secrets = {path.name: path.read_text() for path in folder.iterdir()}
        names = {"turn_secret", "admin_token", "auth_token", "key_secret"}
        assert secrets.keys() == names | {"redis.conf", "turnserver.conf"}
        assert len({secrets[name] for name in names}) == len(names)
        conf = secrets["turnserver.conf"]
        assert "@" not in conf
        assert f"static-auth-secret={secrets['turn_secret']}\n" in conf
        assert "external-ip=198.51.100.7/192.168.213.2\n" in conf

        again = _run(script, "parley.test", "198.51.100.7")
        assert again.returncode == 2
        assert (folder / "turn_secret").read_text() == secrets["turn_secret"]

    @pytest.mark.parametrize("arguments", [("a b", "198.51.100.7"), ("a.test", "x;y")])
    def test_what_would_break_the_files_is_refused(
        self, checkout: Path, arguments: tuple[str, str]
    ) -> None:
        assert _run(checkout / "deploy/docker/make-secrets", *arguments).returncode == 2
        assert not (checkout / ".env").exists()

    def test_the_server_starts_with_them(self, checkout: Path) -> None:
        docker = checkout / "deploy" / "docker"
        assert _run(docker / "make-secrets", "parley.test", "198.51.100.7").returncode == 0
        names = dict(
            line.split("=", 1) for line in (checkout / ".env").read_text().splitlines() if line
        )
        variables = {
            "PARLEY_TURN_URLS": f"turn:{names['PARLEY_TURN_HOST']}:3478?transport=udp",
            "PARLEY_ACCOUNTS_SID": names["PARLEY_ACCOUNTS_SID"],
            "PARLEY_ACCOUNTS_KEY_SID": names["PARLEY_ACCOUNTS_KEY_SID"],
            "PARLEY_TURN_SECRET_FILE": f"{docker}/secrets/turn_secret",
            "PARLEY_SERVER_ADMIN_TOKEN_FILE": f"{docker}/secrets/admin_token",
            "PARLEY_ACCOUNTS_AUTH_TOKEN_FILE": f"{docker}/secrets/auth_token",
            "PARLEY_ACCOUNTS_KEY_SECRET_FILE": f"{docker}/secrets/key_secret",
        }
        config.check(config.load(docker / "parley.toml", variables))


@dataclass(frozen=True)
class Nginx:
    """The shipped example, moved to free ports of loopback."""

    conf: Path
    certificate: Path
    https_port: int

    def command(self, *more: str) -> list[str]:
        return ["nginx", "-e", "stderr", "-c", str(self.conf), *more]


def _nginx(home: Path, upstream_port: int) -> Nginx:
    certificate = home / "fullchain.pem"
    made = _run(
        *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=parley.test"),
        *("-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"),
        *("-keyout", home / "privkey.pem", "-out", certificate),
    )
    assert made.returncode == 0, made.stderr
    text = (DEPLOY / "proxy" / "nginx.conf").read_text()
    https_port = free_port()
    temporary = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    writable = "".join(f"{name}_temp_path {home}/{name};\n" for name in temporary)
    for shipped, moved in {
        "/etc/ssl/parley": str(home),
        "/var/log/nginx": str(home),
        "listen 80;": f"listen 127.0.0.1:{free_port()};",
        "listen 443 ssl": f"listen 127.0.0.1:{https_port} ssl",
        "server 127.0.0.1:8080;": f"server 127.0.0.1:{upstream_port};",
        "http {": f"http {{\n{writable}",
        "worker_rlimit_nofile 20000;": "worker_rlimit_nofile 1024;",
        "worker_connections 10000;": "worker_connections 256;",
    }.items():
        assert shipped in text, f"nginx.conf has no {shipped}"
        text = text.replace(shipped, moved)
    conf = home / "nginx.conf"
    conf.write_text(f"daemon off;\npid {home}/nginx.pid;\n{text}")
    return Nginx(conf, certificate, https_port)


@_needs("nginx")
class TestNginx:
    def test_accepts_its_example(self, tmp_path: Path) -> None:
        tested = _run(*_nginx(tmp_path, 8080).command("-t"))
        assert tested.returncode == 0, tested.stderr
        assert "[warn]" not in tested.stderr

    async def test_passes_signaling_and_hides_metrics(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with start_parley() as parley:
            nginx = _nginx(tmp_path, urlsplit(parley.url).port or 0)
            monkeypatch.setenv("SSL_CERT_FILE", str(nginx.certificate))
            at = f"127.0.0.1:{nginx.https_port}"
            with _serving(nginx.command(), nginx.https_port):
                async with SignalingClient(f"wss://{at}/v1/signal", parley.token("a")) as one:
                    assert await one.ping() >= 0
                async with httpx.AsyncClient(base_url=f"https://{at}") as http:
                    assert (await http.get("/healthz")).status_code == 200
                    assert (await http.get("/metrics")).status_code == 404


@_needs("systemd-analyze")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "parley.service"
    text = (DEPLOY / "systemd" / "parley.service").read_text()
    # It verifies that the programs exist.
    unit.write_text(text.replace("/opt/parley/bin/parley ", f"{shutil.which('true')} "))
    verified = _run("systemd-analyze", "verify", unit)
    assert verified.returncode == 0, verified.stderr
    assert verified.stderr == ""


@pytest.mark.skipif(not compose_command(), reason="docker-compose is not installed")
def test_compose_reads_its_file_and_wants_secrets(checkout: Path) -> None:
    shutil.copy(ROOT / "docker-compose.yml", checkout)
    where = ("--project-directory", str(checkout), "-f", str(checkout / "docker-compose.yml"))
    config_command = (*compose_command(), *where, "config", "--quiet")
    without = _run(*config_command)
    assert without.returncode != 0
    assert "make-secrets" in without.stderr
    assert _run(checkout / "deploy/docker/make-secrets", "a.test", "198.51.100.7").returncode == 0
    # Compose v1 looks for .env where it is started, v2 in the project directory.
    read = _run(*config_command, cwd=checkout)
    assert read.returncode == 0, read.stderr


def test_the_image_does_not_run_as_root() -> None:
    instructions = [
        line.split(maxsplit=1)
        for line in (ROOT / "Dockerfile").read_text().splitlines()
        if line and not line.startswith(("#", " "))
    ]
    last = {instruction[0]: instruction[1] for instruction in instructions}
    assert last["USER"] == "10001:10001"
    assert (last["ENTRYPOINT"], last["CMD"]) == ('["parley"]', '["serve"]')
    assert last["STOPSIGNAL"] == "SIGTERM"


def test_the_image_leaves_aiortc_out() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert not [name for name in project["dependencies"] if name.startswith(("aiortc", "av"))]
    assert 'ARG EXTRAS=""' in (ROOT / "Dockerfile").read_text()


def test_the_build_context_is_an_allow_list() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    let_in = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert not let_in & {".env", "deploy", ".git", "tests"}
