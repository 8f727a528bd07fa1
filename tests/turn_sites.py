"""TURN fleets of real processes: brokers, coturn nodes under their agents, Redis; or one process.

Three ways to run the same thing: `fleet` (two regions, two brokers, Redis), `direct` (one machine,
the agent inside `parley serve`) and `embedded` (`parley dev` with its own relay).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import jwt
from brokers import ACCOUNT_SID, AUTH_TOKEN, KEY_SECRET, KEY_SID, ROOT, TURN_SECRET
from coturn import LOOPBACK, free_port
from coturn_node import PASSWORD, REALM, coturn_node
from redis_server import RedisServer, start_redis
from servers import start_parley, start_serve

from turn_broker.credentials import TurnCredential

ADMIN_TOKEN = "d-0123456789abcdef0123456789abcdef"
METERED_SID, METERED_TOKEN = "AC" + "3c" * 16, "e-0123456789abcdef0123456789abcdef"
METERED_BYTES = 20_000
ALLOCATIONS = 3
"""That one identity may hold."""
PATIENCE_S = 40.0
_COMMON = f"""
[turn]
realm = "{REALM}"
secret = "{TURN_SECRET}"
min_ttl_s = 1
[turn.issue]
identity_burst = 1000
address_burst = 1000
"""
_BROKER = f"""
[server]
port = 0
drain_s = 0
admin_token = "{ADMIN_TOKEN}"
[turn.probing]
interval_s = {{interval_s}}
timeout_s = 1.0
misses = 2
[[accounts]]
sid = "{ACCOUNT_SID}"
auth_token = "{AUTH_TOKEN}"
[[accounts.keys]]
sid = "{KEY_SID}"
secret = "{KEY_SECRET}"
[[accounts]]
sid = "{METERED_SID}"
auth_token = "{METERED_TOKEN}"
limits = {{{{ byte_quota = {METERED_BYTES}, identity_bytes = {METERED_BYTES // 2} }}}}
"""


@dataclass(frozen=True, kw_only=True)
class Issued:
    """A credential, and where it may be used."""

    id: str
    username: str
    password: str = field(repr=False)
    urls: tuple[str, ...]

    @property
    def credential(self) -> TurnCredential:
        return TurnCredential(self.username, self.password)

    @property
    def address(self) -> tuple[str, int]:
        """Of the first URL's node."""
        return LOOPBACK, int(self.urls[0].partition("?")[0].rpartition(":")[2])


@dataclass(kw_only=True)
class TurnSite:
    """One broker's HTTP, and what stands behind it."""

    kind: str
    url: str
    realm: str
    account: tuple[str, str]
    admin_token: str
    key: tuple[str, str]
    logs: list[Path]
    """Of every process."""
    secrets: set[str]
    """That may stand in no log."""
    ports: dict[str, int]
    """Of the TURN nodes, by id."""
    second_url: str = ""
    """Of another broker of the same fleet."""
    redis: RedisServer | None = None
    agents: dict[str, AgentProcess] = field(default_factory=dict)

    http: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=30))

    def ask(self, method: str, path: str, body: Any = None, **options: Any) -> httpx.Response:
        """As the default account, unless `auth` or `headers` say otherwise; `url` is a broker's."""
        url = options.pop("url", self.url)
        if "authorization" not in options.get("headers", {}):
            options.setdefault("auth", self.account)
        response = self.http.request(method, url.rstrip("/") + path, json=body, **options)
        assert response.headers["cache-control"] == "no-store", path
        return response

    def token(self, identity: str | None = None, **wishes: Any) -> Issued:
        """From the native endpoint; `url` and `auth` as in `ask`, the rest is the request's."""
        options = {name: wishes.pop(name) for name in ("url", "auth", "headers") if name in wishes}
        if identity is not None:
            wishes["identity"] = identity
        answer = self.ask("POST", "/v1/ice-servers", wishes, **options)
        assert answer.status_code == 200, answer.text
        found = answer.json()
        relays = found["ice_servers"][-1]
        self.secrets.add(relays["credential"])
        return Issued(
            id=found["id"],
            username=found["username"],
            password=relays["credential"],
            urls=tuple(relays["urls"]),
        )

    def access_token(self, identity: str, **grants: Any) -> str:
        claims = {
            "iss": self.account[0],
            "aud": "parley",
            "sub": identity,
            "exp": int(time.time()) + 600,
            **grants,
        }
        token = jwt.encode(claims, self.key[1], "HS256", {"kid": self.key[0]})
        self.secrets.add(token)
        return token

    def node(self, name: str, url: str = "") -> dict[str, Any]:
        answer = self.ask("GET", "/v1/turn-nodes", url=url or self.url).json()
        return next(node for node in answer["nodes"] if node["id"] == name)

    def is_ready(self, url: str = "") -> bool:
        return self.http.get((url or self.url).rstrip("/") + "/readyz").is_success

    def metrics(self, name: str, url: str = "") -> list[str]:
        page = self.http.get((url or self.url).rstrip("/") + "/metrics").text
        return [line for line in page.splitlines() if line.startswith((name + " ", name + "{"))]


@dataclass(kw_only=True)
class AgentProcess:
    """`parley turn agent --run turnserver`."""

    config: Path
    home: Path
    child: subprocess.Popen[bytes]

    @property
    def turnserver(self) -> int:
        """Its process id."""
        return int((self.home / "turnserver.pid").read_text())


@contextlib.contextmanager
def ready_site(kind: str) -> Iterator[TurnSite]:
    """One of `SITES`, whose nodes have agents and are handed out.

    Afterwards no process may have written a secret or a traceback into its log.
    """
    with SITES[kind]() as site, site.http:
        wait_until(lambda: all(_works(site.node(name)) for name in site.ports))
        yield site
        _check_logs(site)


def _works(node: dict[str, Any]) -> bool:
    return bool(node["agent"] and node["up"])


def _check_logs(site: TurnSite) -> None:
    site.ask("GET", "/v1/turn-nodes", headers={"authorization": "Bearer wrong-token-of-somebody"})
    site.ask("GET", "/v1/tokens/x%0d%0aforged.y", auth=("AC" + "0" * 32, "wrong-password-of-a"))
    secret = site.secrets | {"wrong-token-of-somebody", "wrong-password-of-a", "mallory/with"}
    for path in site.logs:
        text = path.read_text(errors="replace")
        assert not [one[:6] for one in secret if one in text], path
        assert "Traceback" not in text, path


async def rotate(site: TurnSite) -> None:
    """`parley turn rotate`, which must succeed."""
    command = [sys.executable, "-m", "signal_server", "turn", "rotate", "--url", site.url]
    environment = {**os.environ, "PARLEY_SERVER_ADMIN_TOKEN": site.admin_token}
    child = await asyncio.create_subprocess_exec(
        *command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await asyncio.wait_for(child.communicate(), PATIENCE_S)
    assert child.returncode == 0, err.decode()
    assert b"mints with a new secret" in out


def wait_until(condition: Callable[[], Any], patience_s: float = PATIENCE_S) -> float:
    """Seconds until it was so; fails after the patience."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < patience_s, "it never came to that"
        time.sleep(0.02)
    return time.monotonic() - began


@contextlib.contextmanager
def fleet_site() -> Iterator[TurnSite]:
    """Redis, nodes `east-1` and `west-1`, and `parley serve` twice."""
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="turn-fleet-")))
        redis = stack.enter_context(start_redis())
        backplane = f'[backplane]\nurl = "{redis.url}"\n'
        ports = {"east-1": free_port(), "west-1": free_port()}
        first_relay_port = 15_000 + secrets.randbelow(2_000)
        agents = {}
        for number, name in enumerate(ports):
            other = next(port for node, port in ports.items() if node != name)
            agents[name] = stack.enter_context(
                _agent(
                    *(home / name, name, _COMMON + backplane),
                    listening_port=ports[name],
                    min_port=first_relay_port + 6_000 * number,
                    max_port=first_relay_port + 6_000 * number + 5_999,
                    drain_to=f"{LOOPBACK}:{other}",
                )
            )
        nodes = "".join(
            f'[[turn.nodes]]\nid = "{name}"\nregion = "{name[:4]}"\n'
            f"urls = {json.dumps(_urls(port))}\n"
            for name, port in ports.items()
        )
        regions = (
            '[[turn.regions]]\nid = "east"\nnetworks = ["192.0.2.0/24"]\n'
            '[[turn.regions]]\nid = "west"\nnetworks = ["127.0.0.0/8"]\n'
        )
        config = _COMMON + _BROKER.format(interval_s=0.5) + nodes + regions + backplane
        server = stack.enter_context(start_serve(config))
        # Without a prober of its own: it knows what the first one's has found.
        idle = config.replace("interval_s = 0.5", "enabled = false")
        second = stack.enter_context(start_serve(idle))
        yield _site(
            "fleet",
            server.url,
            ports,
            logs=[server.log_file, second.log_file, *(home / name / "err" for name in ports)],
            second_url=second.url,
            redis=redis,
            agents=agents,
        )


@contextlib.contextmanager
def direct_site() -> Iterator[TurnSite]:
    """A coturn with our configuration, and `parley serve` with the agent in it; no Redis."""
    first = 28_000
    with coturn_node(
        min_port=first, max_port=first + 2_500, allocations_per_identity=ALLOCATIONS
    ) as node:
        settings = node.settings
        table = {name: getattr(settings, name) for name in settings.__struct_fields__}
        table["console_password"] = PASSWORD
        lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in table.items())
        urls = f"urls = {json.dumps(_urls(settings.listening_port))}\n"
        config = _COMMON.replace("[turn.issue]", f"{urls}[turn.issue]")
        config += _BROKER.format(interval_s=1.0) + f"[turn.coturn]\n{lines}"
        with start_serve(config) as server:
            ports = {"default": settings.listening_port}
            yield _site("direct", server.url, ports, logs=[server.log_file, node.home / "out"])


@contextlib.contextmanager
def embedded_site() -> Iterator[TurnSite]:
    """`parley dev` with its own relay."""
    with start_parley("--turn-min-ttl", "1", "--no-rate-limits") as parley:
        port = int(parley.turn_urls[0].partition("?")[0].rpartition(":")[2])
        keys = json.loads((parley.log_file.parent / "keys" / "keys.json").read_text())
        site = _site("embedded", parley.url, {"dev": port}, logs=[parley.log_file])
        site.realm = "parley"
        site.account = (parley.account_sid, parley.auth_token)
        site.admin_token = parley.admin_token
        site.key = (keys["key_sid"], keys["key_secret"])
        site.secrets = {parley.auth_token, parley.admin_token, keys["key_secret"]}
        yield site


SITES = {"fleet": fleet_site, "direct": direct_site, "embedded": embedded_site}


def _site(kind: str, url: str, ports: dict[str, int], **more: Any) -> TurnSite:
    return TurnSite(
        kind=kind,
        url=url,
        realm=REALM,
        account=(ACCOUNT_SID, AUTH_TOKEN),
        admin_token=ADMIN_TOKEN,
        key=(KEY_SID, KEY_SECRET),
        ports=ports,
        secrets={AUTH_TOKEN, METERED_TOKEN, ADMIN_TOKEN, KEY_SECRET, TURN_SECRET, PASSWORD},
        **more,
    )


def _urls(port: int) -> list[str]:
    return [f"turn:{LOOPBACK}:{port}?transport={transport}" for transport in ("udp", "tcp")]


@contextlib.contextmanager
def _agent(home: Path, name: str, common: str, **coturn: Any) -> Iterator[AgentProcess]:
    home.mkdir()
    table = {
        "node": name,
        "listening_ips": [LOOPBACK],
        "relay_ips": [LOOPBACK],
        "console_port": free_port(),
        "allow_loopback_peers": True,
        "allocations_per_identity": ALLOCATIONS,
        "max_allocations": 6000,
        "database": str(home / "turndb"),
        "log_file": str(home / "turnserver.log"),
        "pid_file": str(home / "turnserver.pid"),
        **coturn,
    }
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
    config = home / "parley.toml"
    config.write_text(f"{common}[turn.coturn]\n{lines}")
    command = [sys.executable, "-m", "turn_broker.coturn.cli", "--config", str(config)]
    with (home / "err").open("ab") as err:
        child = subprocess.Popen(
            [*command, "--run", "turnserver"], cwd=ROOT, stdout=err, stderr=err
        )
    try:
        yield AgentProcess(config=config, home=home, child=child)
    finally:
        child.terminate()
        try:
            child.wait(15)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
