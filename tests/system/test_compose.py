"""docker-compose.yml comes up on a real Docker engine and carries a call through proxy and coturn.

From a client machine that reaches only the published ports, and trusts only the proxy's CA.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker_engine
import pytest
from docker_engine import CLIENT_ADDRESS, ROOT, SERVER_ADDRESS, Engine

pytestmark = [
    pytest.mark.docker,
    pytest.mark.root,
    pytest.mark.timeout(1000),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to start a Docker engine"),
]
DOMAIN = "parley.test"
SOURCES = (
    *("Dockerfile", ".dockerignore", "docker-compose.yml"),
    *("pyproject.toml", "hatch_build.py", "README.md"),
)


@dataclass(frozen=True)
class Deployment:
    """A running compose project."""

    engine: Engine
    home: Path
    folder: Path
    facts: dict[str, Any]
    """What the client machine found (tests/compose_call.py)."""

    def compose(self, *arguments: str) -> str:
        return _compose(self.engine, self.folder, *arguments)

    def on_client(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        return _on_client(self.engine, self.home, *command)

    def secret(self, name: str) -> str:
        return (self.folder / "deploy/docker/secrets" / name).read_text()

    def inspect(self, service: str, template: str) -> str:
        container = self.compose("ps", "-q", service).strip()
        return self.engine.run("docker", "inspect", "--format", template, container).strip()


def _compose(engine: Engine, folder: Path, *arguments: str) -> str:
    return engine.run(
        *engine.compose,
        *("-p", "parley", "-f", "docker-compose.yml"),
        *arguments,
        cwd=folder,
        PIP_ARGS="--no-index --find-links wheelhouse",
    )


def _check_out(folder: Path) -> None:
    """A clone as the image is built from, with a wheelhouse and fresh secrets."""
    folder.mkdir()
    for name in (*SOURCES, "LICENSE"):
        shutil.copy(ROOT / name, folder)
    junk = shutil.ignore_patterns("__pycache__", "secrets")
    for name in ("signal_server", "turn_broker", "probes", "deploy"):
        shutil.copytree(ROOT / name, folder / name, ignore=junk)
    shutil.copytree(docker_engine.wheelhouse(), folder / "wheelhouse")
    script = folder / "deploy" / "docker" / "make-secrets"
    subprocess.run([script, DOMAIN, SERVER_ADDRESS], check=True, capture_output=True)


def _on_client(
    engine: Engine, home: Path, *command: str | Path, given: str = ""
) -> subprocess.CompletedProcess[str]:
    """Python with these arguments on the client machine, which trusts the proxy's CA."""
    trust = {"SSL_CERT_FILE": str(home / "ca.pem"), "PYTHONPATH": f"{ROOT}:{ROOT}/tests"}
    return subprocess.run(
        engine.client(sys.executable, *command, hosts=home / "hosts"),
        input=given,
        env=os.environ | trust,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def _call(engine: Engine, folder: Path, home: Path) -> dict[str, Any]:
    """tests/compose_call.py on the client machine."""
    authority = ("cat", "/data/caddy/pki/authorities/local/root.crt")
    (home / "ca.pem").write_text(_compose(engine, folder, "exec", "-T", "proxy", *authority))
    (home / "hosts").write_text(f"127.0.0.1 localhost\n{SERVER_ADDRESS} {DOMAIN}\n")
    tokens = []
    for identity in ("alice", "bob"):
        command = ("exec", "-T", "server", "parley", "token", "create", "--identity", identity)
        tokens.append(_compose(engine, folder, *command).strip())
    names = dict(line.split("=", 1) for line in (folder / ".env").read_text().splitlines())
    given = {
        "url": f"https://{DOMAIN}",
        "account_sid": names["PARLEY_ACCOUNTS_SID"],
        "auth_token": (folder / "deploy/docker/secrets/auth_token").read_text(),
        "tokens": tokens,
    }
    program = ROOT / "tests" / "compose_call.py"
    done = _on_client(engine, home, program, given=json.dumps(given))
    logs = "" if done.returncode == 0 else _compose(engine, folder, "logs", "--tail", "40")
    assert done.returncode == 0, f"{done.stderr[-4000:]}\n{logs}"
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Everything up and healthy, and one call made."""
    absent = docker_engine.missing()
    if absent:
        pytest.skip(f"not installed: {', '.join(absent)}")
    home = tmp_path_factory.mktemp("docker")
    folder = home / "parley"
    _check_out(folder)
    with docker_engine.start_engine(home) as engine:
        docker_engine.load_stand_ins(engine)
        _compose(engine, folder, "build")
        try:
            _compose(engine, folder, "up", "-d")
            containers = _compose(engine, folder, "ps", "-q").split()
            assert len(containers) == 4
            docker_engine.wait_healthy(engine, containers, within_s=90)
            yield Deployment(engine, home, folder, _call(engine, folder, home))
        finally:
            _compose(engine, folder, "down", "--volumes", "--timeout", "2")


def test_the_proxy_serves_with_tls(deployment: Deployment) -> None:
    facts = deployment.facts
    assert facts["healthz"] == 200
    assert facts["demo"] == 200
    assert facts["insecure"] == 308
    assert facts["metrics"] == 404


def test_the_twilio_dialect_names_this_relay(deployment: Deployment) -> None:
    facts = deployment.facts
    assert facts["unauthorized"] == 401
    assert facts["token_status"] == 201
    urls = {server["url"] for server in facts["token"]["ice_servers"]}
    assert f"turn:{SERVER_ADDRESS}:3478?transport=udp" in urls


def test_two_peers_see_and_hear_each_other_through_the_relay_only(deployment: Deployment) -> None:
    facts = deployment.facts
    assert facts["identities"] == ["alice", "bob"]
    assert facts["heard"] == [["from bob"], ["from alice"]]
    assert all(frames["audio"] >= 10 and frames["video"] >= 5 for frames in facts["frames"])
    assert facts["candidate_types"] == ["relay"]


def test_the_agent_has_the_relay_under_control(deployment: Deployment) -> None:
    """It reports through Redis, and puts a new secret in force that the relay then verifies."""
    command = ("parley", "turn", "rotate", "--timeout", "20")
    said = deployment.compose("exec", "-T", "server", *command)
    assert "ring * mints with a new secret" in said
    ask = (
        "import os, urllib.request as u; token = open('/run/secrets/admin_token').read(); "
        "r = u.Request('http://127.0.0.1:8080/v1/turn-nodes', headers={'Authorization': "
        "'Bearer ' + token}); print(u.urlopen(r).read().decode())"
    )
    deadline = time.monotonic() + 30
    while True:
        answer = deployment.compose("exec", "-T", "server", "/opt/parley/bin/python3", "-c", ask)
        (node,) = json.loads(answer)["nodes"]
        # coturn counts a session when it ends, and the agent reports it with its next sign of life.
        if node["agent"]["sent_bytes"] > 1_000 or time.monotonic() > deadline:
            break
    assert node["id"] == "default"
    assert all(url["listed"] for url in node["urls"])
    assert node["agent"]["software"].startswith("coturn ")
    assert node["agent"]["secrets_version"] >= 2
    assert node["agent"]["sent_bytes"] > 1_000


def test_probe_and_doctor_find_nothing_wrong(deployment: Deployment) -> None:
    parley = ("-m", "signal_server")
    probed = deployment.on_client(*parley, "probe", "all", f"https://{DOMAIN}")
    assert probed.returncode == 0, probed.stdout + probed.stderr
    assert "Calls can connect from here." in probed.stdout
    secret = deployment.secret("turn_secret")
    known = ("--secret", secret, "--realm", DOMAIN)
    url = f"turn:{SERVER_ADDRESS}:3478"
    examined = deployment.on_client(*parley, "turn", "doctor", url, *known)
    assert examined.returncode == 0, examined.stdout + examined.stderr
    assert "private addresses that were tried are denied" in examined.stdout


def test_who_guesses_shuts_out_himself_and_not_the_proxy(deployment: Deployment) -> None:
    engine, other = deployment.engine, "10.97.0.3"
    add = ("address", "add", f"{other}/24", "dev", "up0")
    subprocess.run(["ip", "-n", engine.client_namespace, *add], check=True)
    names = dict(
        line.split("=", 1) for line in (deployment.folder / ".env").read_text().splitlines()
    )
    good = f"{names['PARLEY_ACCOUNTS_SID']}:{deployment.secret('auth_token')}"

    def asked(address: str, who: str) -> str:
        command = [
            "curl",
            "-sk",
            "--interface",
            address,
            "-u",
            who,
            "-o",
            "-",
            "-w",
            "%{http_code}",
        ]
        command += [
            "--resolve",
            f"{DOMAIN}:443:{SERVER_ADDRESS}",
            f"https://{DOMAIN}/v1/ice-servers",
        ]
        namespace = f"--net=/run/netns/{engine.client_namespace}"
        return engine.run("nsenter", namespace, *command)[-3:]

    # The first wrong password was tests/compose_call.py's.
    assert [asked(CLIENT_ADDRESS, "AC:wrong") for _ in range(9)] == ["401"] * 9
    assert asked(CLIENT_ADDRESS, good) == "429"
    assert asked(other, good) == "200"


def test_redis_keeps_what_it_must_not_forget(deployment: Deployment) -> None:
    deployment.compose("restart", "redis")
    command = (
        "REDISCLI_AUTH=$(sed -n 's/^requirepass //p' /run/secrets/redis_conf) redis-cli DBSIZE"
    )
    for _ in range(100):
        said = deployment.engine.run(
            *deployment.engine.compose,
            *("-p", "parley", "-f", "docker-compose.yml"),
            *("exec", "-T", "redis", "sh", "-c", command),
            cwd=deployment.folder,
            check=False,
        )
        if said.strip().isdecimal():
            break
    assert int(said) > 0


def test_the_containers_are_confined(deployment: Deployment) -> None:
    host = "{{json .HostConfig}}"
    for service in ("server", "redis", "turn", "proxy"):
        settings = json.loads(deployment.inspect(service, host))
        assert settings["ReadonlyRootfs"], service
        assert not settings["Privileged"], service
        assert settings["CapDrop"] == ["ALL"], service
        assert "no-new-privileges:true" in settings["SecurityOpt"], service
    status = deployment.compose("exec", "-T", "server", "cat", "/proc/1/status")
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    assert set(fields["Uid"].split()) == {"10001"}
    assert int(fields["CapBnd"], 16) == 0


def test_the_image_has_no_aiortc_no_pip_and_nothing_to_compile_with(
    deployment: Deployment,
) -> None:
    names = ("aiortc", "pip", "setuptools", "mypy")
    command = f"import importlib.util as i; print([n for n in {names} if i.find_spec(n)])"
    found = deployment.compose("exec", "-T", "server", "/opt/parley/bin/python3", "-c", command)
    assert found.strip() == "[]"


def test_the_server_is_compiled(deployment: Deployment) -> None:
    said = deployment.compose("exec", "-T", "server", "parley", "version")
    assert said.strip().endswith("(compiled)")


def test_stop_drains(deployment: Deployment) -> None:
    """Last, because it stops the server: SIGTERM ends it well before Docker would kill it."""
    deployment.compose("stop", "server")
    container = deployment.compose("ps", "-aq", "server").strip() or "parley_server_1"
    code = deployment.engine.run(
        "docker", "inspect", "--format", "{{.State.ExitCode}}", container
    ).strip()
    assert code == "0"
