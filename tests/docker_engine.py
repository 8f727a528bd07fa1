"""A Docker engine of the test's own: in a network namespace, with stand-ins for official images.

Nothing is pulled. The base is Debian's packages by mmdebstrap, kept in a cache directory between
runs; the stand-ins take over what decides whether a compose file works with the official images:
users, volumes and file capabilities. Only root can start it.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "parley-tests"
PROGRAMS = ("dockerd", "docker", "mmdebstrap", "nsenter", "unshare", "ip")
SERVER_ADDRESS = "10.97.0.1"
"""Where clients reach the published ports."""
CLIENT_ADDRESS = "10.97.0.2"

_SUITE = "bookworm"
_PYTHON = "3.11"
"""The Python of that suite, for which the wheels are."""
_PACKAGES = (
    "python3,python3-venv,ca-certificates,redis-server,coturn,caddy,libcap2-bin,wget,"
    "gcc,libc6-dev,python3-dev"
)
"""The last three because a build in here has no network to install a compiler from."""
_START_S = 30.0

# What the official Dockerfiles do to Debian's or Alpine's programs (coturn: docker/coturn/debian;
# caddy: caddy-docker): the capability makes the program refuse to start where it is dropped.
_STAND_INS = {
    "python:3.11-slim": "",
    "redis:8": "RUN install -d -o 999 /data\nVOLUME /data\n",
    "coturn/coturn:4.17": (
        "RUN setcap CAP_NET_BIND_SERVICE=+ep /usr/bin/turnserver "
        "&& install -d -o nobody -g nogroup /var/lib/coturn\n"
        "USER nobody:nogroup\nVOLUME /var/lib/coturn\n"
    ),
    "caddy:2": (
        "RUN setcap cap_net_bind_service=+ep /usr/bin/caddy\n"
        "ENV XDG_CONFIG_HOME=/config XDG_DATA_HOME=/data\nWORKDIR /srv\n"
    ),
}


@dataclass(frozen=True)
class Engine:
    """A running engine."""

    socket: Path
    client_namespace: str
    compose: tuple[str, ...]

    def run(
        self, *command: str | Path, cwd: Path | None = None, check: bool = True, **variables: str
    ) -> str:
        """A command's output, with DOCKER_HOST set."""
        done = subprocess.run(
            [str(part) for part in command],
            cwd=cwd,
            env={**os.environ, "DOCKER_HOST": f"unix://{self.socket}", **variables},
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
        if check and done.returncode:
            raise RuntimeError(f"{command} failed:\n{(done.stdout + done.stderr)[-6000:]}")
        return done.stdout

    def client(self, *command: str | Path, hosts: Path) -> list[str]:
        """That command as a machine that reaches only the published ports."""
        # A mount of its own, so that no /etc/hosts but its own changes.
        script = 'mount --bind "$0" /etc/hosts && exec "$@"'
        inside = ["unshare", "--mount", "sh", "-c", script, str(hosts), *map(str, command)]
        return ["nsenter", f"--net=/run/netns/{self.client_namespace}", *inside]


def missing() -> list[str]:
    """The programs this needs and does not find."""
    left = [program for program in PROGRAMS if shutil.which(program) is None]
    if not left and not compose_command():
        left.append("docker-compose")
    return left


def compose_command() -> tuple[str, ...]:
    """Compose v2 where it is, else v1; nothing where neither is."""
    plugin = ("docker", "compose")
    if shutil.which("docker"):
        asked = subprocess.run([*plugin, "version"], capture_output=True, check=False)
        if asked.returncode == 0:
            return plugin
    return ("docker-compose",) if shutil.which("docker-compose") else ()


@contextlib.contextmanager
def start_engine(home: Path) -> Iterator[Engine]:
    """dockerd with its data under `home`, between two network namespaces that end with it."""
    with contextlib.ExitStack() as stack:
        server, client = f"parley-s{os.getpid()}", f"parley-c{os.getpid()}"
        _link(stack, server, client)
        # Short, because unix sockets lie below it.
        run = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="parley-", dir="/run")))
        log = stack.enter_context((home / "dockerd.log").open("wb"))
        # Not `ip netns exec`, which hides the cgroups.
        command = ["nsenter", f"--net=/run/netns/{server}", "dockerd"]
        command += ["-H", f"unix://{run}/docker.sock", "--pidfile", f"{run}/docker.pid"]
        command += ["--exec-root", f"{run}/exec", "--data-root", str(home / "data")]
        dockerd = subprocess.Popen(command, stdout=log, stderr=log)
        stack.callback(_unmount, run, home)
        stack.callback(_stop, dockerd)
        engine = Engine(run / "docker.sock", client, compose_command())
        deadline = time.monotonic() + _START_S
        while not engine.run("docker", "info", "--format", "{{.ID}}", check=False).strip():
            if dockerd.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((home / "dockerd.log").read_text()[-6000:])
            time.sleep(0.1)
        yield engine


def _link(stack: contextlib.ExitStack, server: str, client: str) -> None:
    for name in (server, client):
        _ip("netns", "add", name)
        stack.callback(_ip, "netns", "del", name)
        _ip("-n", name, "link", "set", "lo", "up")
    pair = "link add up0 type veth peer name up0 netns"
    _ip("-n", server, *pair.split(), client)
    for name, address in ((server, SERVER_ADDRESS), (client, CLIENT_ADDRESS)):
        _ip("-n", name, "address", "add", f"{address}/24", "dev", "up0")
        _ip("-n", name, "link", "set", "up0", "up")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def _stop(dockerd: subprocess.Popen[bytes]) -> None:
    dockerd.terminate()
    try:
        dockerd.wait(30)
    except subprocess.TimeoutExpired:
        dockerd.kill()
        dockerd.wait()


def _unmount(*below: Path) -> None:
    """What an engine that was killed leaves mounted."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in reversed(mounts):
        if any(Path(mount).is_relative_to(folder) for folder in below):
            subprocess.run(["umount", "--lazy", mount], check=False)


def load_stand_ins(engine: Engine) -> None:
    """Make the images that docker-compose.yml names, under the same names."""
    base = "parley-test-base"
    engine.run("docker", "import", rootfs(), base)
    for name, instructions in _STAND_INS.items():
        with tempfile.TemporaryDirectory() as context:
            Path(context, "Dockerfile").write_text(f"FROM {base}\n{instructions}")
            engine.run("docker", "build", "--quiet", "--tag", name, context, DOCKER_BUILDKIT="0")


def rootfs() -> Path:
    """A tar of Debian with the programs of every stand-in."""
    tar = CACHE / f"{_SUITE}-{_digest(_PACKAGES)}.tar"
    if not tar.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            draft = Path(folder, "rootfs.tar")
            command = ["mmdebstrap", "--quiet", "--variant=apt", f"--include={_PACKAGES}"]
            subprocess.run([*command, _SUITE, str(draft)], check=True, timeout=600)
            draft.rename(tar)
    return tar


def wheelhouse() -> Path:
    """Wheels of everything the server image installs, for the stand-in's Python."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    # redis needs async-timeout up to Python 3.11.2, which is Debian's.
    wanted = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    wanted += ["async-timeout", *_compiler_wheels()]
    folder = CACHE / f"wheels-{_digest(*wanted)}"
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as draft:
            target = Path(draft, "wheels")
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(target)]
            command += ["--only-binary=:all:", "--python-version", _PYTHON]
            subprocess.run([*command, *wanted], check=True, timeout=300)
            # Another run may have been faster.
            with contextlib.suppress(OSError):
                target.rename(folder)
    return folder


def _compiler_wheels() -> tuple[str, ...]:
    """What hatch_build.py needs to compile; read, because hatchling is not here to import it."""
    tree = ast.parse((ROOT / "hatch_build.py").read_text())
    (needs,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "NEEDS"
    )
    wheels: tuple[str, ...] = ast.literal_eval(needs)
    return wheels


def _digest(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]


def wait_healthy(engine: Engine, containers: Sequence[str], within_s: float) -> None:
    """Until every container is healthy; raises with the log of one that is not."""
    template = "{{if .State.Health}}{{.State.Health.Status}}{{else}}{{.State.Status}}{{end}}"
    deadline = time.monotonic() + within_s
    waiting = list(containers)
    while waiting:
        states = engine.run("docker", "inspect", "--format", template, *waiting).split()
        late = time.monotonic() > deadline
        for name, state in zip(tuple(waiting), states, strict=True):
            if state == "healthy":
                waiting.remove(name)
            elif late or state == "exited":
                detail = engine.run("docker", "inspect", "--format", "{{json .State}}", name)
                output = engine.run("sh", "-c", f"docker logs --tail 40 {name} 2>&1")
                raise RuntimeError(f"{name} is {state}:\n{detail}\n{output}")
        if waiting:
            time.sleep(0.2)
