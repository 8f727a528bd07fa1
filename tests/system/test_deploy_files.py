"""What is shipped for operators is accepted by the programs it is for, and refuses what it must."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import stat
import subprocess
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import yaml
from coturn import free_port
from docker_engine import compose_command
from servers import start_parley

from signal_server import config
from signal_server.client import SignalingClient
from turn_broker.coturn.agent_settings import load_agent
from turn_broker.coturn.config_text import turnserver_conf

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
SECRETS = {
    f"PARLEY_TURN_{name}": f"{number}d0c3b1f5a9e4e62b8d4f0a6c2e8137f"
    for number, name in enumerate(("SECRET", "IDENTITY_SECRET"))
}
OWN = {
    f"PARLEY_{name}": f"{number}a0c3b1f5a9e4e62b8d4f0a6c2e8137f"
    for number, name in enumerate(
        ("SERVER_ADMIN_TOKEN", "ACCOUNTS_AUTH_TOKEN", "ACCOUNTS_KEY_SECRET")
    )
} | {"PARLEY_ACCOUNTS_SID": "AC" + "1a" * 16, "PARLEY_ACCOUNTS_KEY_SID": "SK" + "2b" * 16}
BLACKBOX = {"probe_success"}
"""Not of /metrics but of GET /probe."""


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


@contextlib.contextmanager
def _serving(command: list[str], port: int) -> Iterator[None]:
    """The server as a foreground child, while it accepts connections on that port."""
    with subprocess.Popen(command) as child:
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


class TestPrometheus:
    FOLDER = DEPLOY / "prometheus"

    def test_rules_and_dashboard_name_metrics_that_exist(self) -> None:
        with start_parley() as parley:
            families = dict(
                re.findall(r"^# TYPE (\S+) (\S+)$", parley.get("/metrics"), re.MULTILINE)
            )
        known = families.keys() | {f"{name}_bucket" for name in families} | BLACKBOX
        rules = yaml.safe_load((self.FOLDER / "rules.yml").read_text())
        dashboard = json.loads((self.FOLDER / "dashboard.json").read_text())
        asked = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
        asked += [one["expr"] for panel in dashboard["panels"] for one in panel["targets"]]
        for expression in asked:
            names = re.findall(r"\b(?:turn_broker|signaling|probe)_[a-z_]+\b", expression)
            assert names, expression
            assert set(names) <= known, expression

    @_needs("promtool")
    def test_promtool_accepts_the_rules_and_sees_them_fire(self) -> None:
        for verb, file in (("check", "rules.yml"), ("test", "rules_test.yml")):
            done = _run("promtool", verb, "rules", self.FOLDER / file)
            assert done.returncode == 0, done.stdout + done.stderr

    @_needs("promtool")
    def test_promtool_accepts_the_scrape_configuration(self, tmp_path: Path) -> None:
        text = (DEPLOY / "README.md").read_text()
        (block,) = re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        (tmp_path / "prometheus.yml").write_text(block)
        shutil.copy(self.FOLDER / "rules.yml", tmp_path)
        done = _run("promtool", "check", "config", tmp_path / "prometheus.yml")
        assert done.returncode == 0, done.stdout + done.stderr

    def test_the_runbook_knows_every_alert(self) -> None:
        rules = yaml.safe_load((self.FOLDER / "rules.yml").read_text())
        alerts = [rule["alert"] for group in rules["groups"] for rule in group["rules"]]
        page = (ROOT / "docs" / "operations.md").read_text()
        assert re.findall(r"^\| `([A-Z]\w+)` \|", page, re.MULTILINE) == alerts


class TestSecrets:
    def test_written_once_and_private(self, checkout: Path) -> None:
        script = checkout / "deploy" / "docker" / "make-secrets"
        assert _run(script, "parley.test", "198.51.100.7").returncode == 0
        folder = checkout / "deploy" / "docker" / "secrets"
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((checkout / ".env").stat().st_mode) == 0o600
        secrets = {path.name: path.read_text() for path in folder.iterdir()}
        names = {"turn_secret", "identity_secret", "admin_token", "auth_token", "key_secret"}
        assert secrets.keys() == names | {"redis_url", "redis.conf", "turn.toml"}
        assert len({secrets[name] for name in names}) == len(names)
        password = re.search("^requirepass (.+)$", secrets["redis.conf"], re.MULTILINE)
        assert password is not None
        assert secrets["redis_url"] == f"redis://:{password[1]}@redis:6379"

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
            "PARLEY_TURN_IDENTITY_SECRET_FILE": f"{docker}/secrets/identity_secret",
            "PARLEY_BACKPLANE_URL_FILE": f"{docker}/secrets/redis_url",
            "PARLEY_SERVER_ADMIN_TOKEN_FILE": f"{docker}/secrets/admin_token",
            "PARLEY_ACCOUNTS_AUTH_TOKEN_FILE": f"{docker}/secrets/auth_token",
            "PARLEY_ACCOUNTS_KEY_SECRET_FILE": f"{docker}/secrets/key_secret",
        }
        config.check(config.load(docker / "parley.toml", variables))

    def test_the_agent_writes_a_configuration_with_them(self, checkout: Path) -> None:
        docker = checkout / "deploy" / "docker"
        assert _run(docker / "make-secrets", "parley.test", "198.51.100.7").returncode == 0
        variables = {
            "PARLEY_TURN_REALM": "parley.test",
            "PARLEY_TURN_SECRET_FILE": f"{docker}/secrets/turn_secret",
            "PARLEY_TURN_IDENTITY_SECRET_FILE": f"{docker}/secrets/identity_secret",
            "PARLEY_BACKPLANE_URL_FILE": f"{docker}/secrets/redis_url",
        }
        settings = load_agent(docker / "secrets" / "turn.toml", variables)
        text = turnserver_conf(
            settings.coturn, realm="parley.test", console_password="p", version=(4, 17, 1)
        )
        assert "external-ip=198.51.100.7/192.168.213.2\n" in text
        compose = (ROOT / "docker-compose.yml").read_text()
        ports = f"{settings.coturn.min_port}-{settings.coturn.max_port}"
        assert f'"{ports}:{ports}/udp"' in compose
        assert f"ipv4_address: {settings.coturn.listening_ips[0]}\n" in compose


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


def test_the_settings_in_the_readme(tmp_path: Path) -> None:
    """Secrets come from elsewhere there, SIDs are shortened."""
    secret = SECRETS | {"PARLEY_BACKPLANE_URL": "rediss://:p@redis.test:6380"}
    blocks = re.findall(
        r"^```toml\n(.*?)^```$", (DEPLOY / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    for number, block in enumerate(blocks):
        path = tmp_path / f"{number}.toml"
        path.write_text(
            block.replace('"AC..."', f'"AC{"1a" * 16}"').replace("SK...", "SK" + "2b" * 16)
        )
        if block.startswith("# /etc/parley/turn.toml"):
            coturn = load_agent(path, secret).coturn
            unit = (DEPLOY / "systemd" / "parley-turn.service").read_text()
            for file in (coturn.database, coturn.log_file, coturn.pid_file):
                assert file in unit
        else:
            config.check(config.load(path, secret | OWN))
    assert len(blocks) == 3


@_needs("systemd-analyze")
@pytest.mark.parametrize("name", ["parley.service", "parley-turn.service"])
def test_systemd_accepts_the_unit(tmp_path: Path, name: str) -> None:
    unit = tmp_path / name
    text = (DEPLOY / "systemd" / name).read_text()
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


def test_the_image_is_compiled_and_leaves_the_compiler_out() -> None:
    build, final = (ROOT / "Dockerfile").read_text().split("\nFROM ")[1:]
    assert "ARG COMPILE=1" in build
    assert "gcc" in build
    assert "apt-get" not in final
    assert re.findall(r"COPY .*", final) == ["COPY --from=build /opt/parley /opt/parley"]


def test_the_image_leaves_aiortc_out() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert not [name for name in project["dependencies"] if name.startswith(("aiortc", "av"))]
    assert 'ARG EXTRAS=""' in (ROOT / "Dockerfile").read_text()


def test_the_build_context_is_an_allow_list() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    let_in = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert not let_in & {".env", "deploy", ".git", "tests"}
