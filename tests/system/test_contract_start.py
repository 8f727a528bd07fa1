"""How Parley is started, configured and stopped: what operators type, and what they are told."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from accounts import Account
from raw_session import RawSession
from servers import Parley, Server, start_parley, start_serve

ROOT = Path(__file__).resolve().parents[2]
PARLEY = [sys.executable, "-m", "signal_server"]
READY = {
    *("url", "ws_url", "account_sid", "auth_token", "admin_token", "access_token"),
    *("room", "turn_urls", "pid"),
}
HOME = Account()
CONFIG = f"""
[server]
port = 0
drain_s = 30

[turn]
secret = "a-secret-that-only-this-test-has-and-no-other"
urls = ["turn:192.0.2.1:3478?transport=udp"]

{HOME.toml}
"""


@pytest.fixture(scope="module")
def parley() -> Iterator[Parley]:
    with start_parley("--region", "mars") as running:
        yield running


def run(*words: str, module: str = "signal_server", **environment: str) -> Any:
    """A command to its end."""
    plain = {name: text for name, text in os.environ.items() if not name.startswith("PARLEY_")}
    command = [sys.executable, "-m", module, *words]
    return subprocess.run(
        command,
        check=False,
        cwd=ROOT,
        env=plain | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


@contextlib.contextmanager
def taken_port(port: int = 0) -> Iterator[int]:
    """A port of loopback on which somebody listens, whoever it is."""
    with socket.socket() as listener:
        with contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            listener.listen()
            port = listener.getsockname()[1]
        yield port


# parley dev ---------------------------------------------------------------------------------------


def test_the_one_line_of_dev(tmp_path: Path) -> None:
    command = [*PARLEY, "dev", "--json", "--port", "0", "--turn-port", "0", "--state", "keys"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        process.terminate()
        rest, log = process.communicate(timeout=30)
    assert (process.returncode, rest) == (0, "")
    assert set(ready) == READY
    assert ready["pid"] == process.pid
    assert ready["turn_urls"]
    assert all(url.startswith("turn:") for url in ready["turn_urls"])
    assert all(json.loads(line)["level"] for line in log.splitlines())
    assert "eyJ" not in log
    (keys,) = (tmp_path / "keys").glob("keys.json")
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600


def test_the_page_of_dev_and_the_next_free_port(tmp_path: Path) -> None:
    """A default port that is taken gives the next one, and says so."""
    command = [*PARLEY, "dev", "--state", str(tmp_path)]
    with (
        taken_port(8080),
        taken_port(3478),
        subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process,
    ):
        assert process.stdout is not None
        shown = [process.stdout.readline() for _ in range(15)]
        process.terminate()
        _, log = process.communicate(timeout=30)
    assert process.returncode == 0
    text = "".join(shown)
    assert "port 8080 is taken, using " in log
    assert "TURN port 3478 is taken, using " in log
    url = next(line.split()[-1] for line in shown if "/demo" in line).removesuffix("/demo")
    assert not url.endswith(":8080")
    for part in (f"{url}/diagnostics", "ws://", "turn:", "Access token     eyJ", "curl -s -X POST"):
        assert part in text, text


@pytest.mark.parametrize("flag", ["--port", "--turn-port"])
def test_a_port_that_was_asked_for_is_not_exchanged(tmp_path: Path, flag: str) -> None:
    other = "--turn-port" if flag == "--port" else "--port"
    with taken_port() as port:
        dev = ("dev", "--state", str(tmp_path), other, "0", flag, str(port))
        refused = run(*dev)
    assert refused.returncode == 2
    assert f"{flag} {port}: " in refused.stderr


def test_a_token_for_whoever_asks_of_dev(parley: Parley) -> None:
    token = json.loads(parley.get("/dev/token?identity=ann&room=r-*"))
    assert set(token) == {"access_token"}
    claims = jwt.decode(token["access_token"], options={"verify_signature": False})
    wanted = {"iss": parley.account_sid, "aud": "parley", "sub": "ann", "room": "r-*"}
    assert wanted.items() <= claims.items()
    assert claims["exp"] > claims["iat"]
    for query in ("", "?identity=", "?identity=" + "x" * 129):
        with pytest.raises(urllib.error.HTTPError) as refused:
            parley.get(f"/dev/token{query}")
        with refused.value as answer:
            assert (answer.code, json.loads(answer.read())["code"]) == (400, "bad_request")


async def test_nodes_of_one_state_take_each_others_tokens(tmp_path: Path) -> None:
    """And flags go over the environment, which goes over defaults."""
    shared = ("--state", str(tmp_path / "shared"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARLEY_NODE_NAME", "from-environment")
        patch.setenv("PARLEY_NODE_REGION", "from-environment")
        with start_parley(*shared) as one, start_parley(*shared, "--node", "flag") as two:
            for key in ("account_sid", "auth_token", "admin_token"):
                assert getattr(one, key) == getattr(two, key)
            session = await RawSession.open(two.ws_url, one.access_token)
            assert session.greeting["node"] == "flag"
            assert session.greeting["region"] == "from-environment"
            session.kill()


def test_flags_that_make_no_sense(tmp_path: Path) -> None:
    state = ("--state", str(tmp_path), "--port", "0", "--turn-port", "0")
    for flags, named in (
        (("--node", "a b"), "node.name"),
        (("--backplane", "http://x"), "backplane.url"),
    ):
        refused = run("dev", *state, *flags)
        assert (refused.returncode, named in refused.stderr) == (2, True), refused.stderr


# parley serve -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("[turn]", "[turn]\nsecrte = 1", "turn.secrte"),
        ("[server]", "[servers]\nx = 1\n[server]", "servers"),
        ("a-secret-that-only-this-test-has-and-no-other", "", "turn.secret"),
        ("a-secret-that-only-this-test-has-and-no-other", "changeme" * 4, "turn.secret"),
        (HOME.auth_token, "", "accounts[0].auth_token"),
        (HOME.secret, "your-secret-here" * 2, "accounts[0].keys[0].secret"),
        (HOME.toml, "", "accounts"),
    ],
    ids=["key", "section", "secret", "short", "token", "example", "accounts"],
)
@pytest.mark.parametrize("command", [("serve",), ("config", "check")], ids=["serve", "check"])
def test_serve_does_not_start_with_a_flaw(
    tmp_path: Path, command: tuple[str, ...], old: str, new: str, named: str
) -> None:
    flawed = CONFIG.replace(old, new)
    assert flawed != CONFIG
    path = tmp_path / "parley.toml"
    path.write_text(flawed)
    refused = run(*command, "--config", str(path))
    assert refused.returncode == 2
    assert named in refused.stderr, refused.stderr
    assert "Traceback" not in refused.stderr


def test_the_environment_goes_over_the_file(tmp_path: Path) -> None:
    path, secret = tmp_path / "parley.toml", tmp_path / "secret"
    path.write_text(CONFIG)
    secret.write_text("from-a-file-" + "x7" * 16 + "\n")
    shown = run(
        *("config", "show", "--config", str(path)),
        PARLEY_SERVER_PORT="4711",
        PARLEY_BACKPLANE_URL="redis://127.0.0.1:1/0",
        PARLEY_TURN_SECRET_FILE=str(secret),
    )
    assert shown.returncode == 0, shown.stderr
    settings = json.loads(shown.stdout)
    assert (settings["server"]["port"], settings["server"]["drain_s"]) == (4711, 30)
    assert settings["backplane"]["url"].startswith("redis://")
    assert settings["turn"]["secret"] == "***"
    assert HOME.secret not in shown.stdout
    assert json.loads(run("config", "defaults").stdout)["server"]["port"] == 8080
    refused = run("config", "check", "--config", str(path), PARLEY_SERVER_PROT="1")
    assert (refused.returncode, "PARLEY_SERVER_PROT" in refused.stderr) == (2, True)


async def statuses(server: Server, *paths: str) -> list[int]:
    async with httpx.AsyncClient(base_url=server.url) as http:
        return [(await http.get(path)).status_code for path in paths]


async def test_sigterm_drains_and_a_second_one_stops() -> None:
    with start_serve(CONFIG) as server:
        assert await statuses(server, "/dev/token?identity=ann") == [404]
        assert await statuses(server, "/healthz", "/readyz") == [200, 200]
        session = await RawSession.open(server.ws_url, HOME.token("ann"), room="r")
        await session.until("room")
        server.process.send_signal(signal.SIGTERM)
        away = await session.until("go_away")
        assert away["deadline_ms"] == 30_000
        assert await statuses(server, "/healthz", "/readyz") == [200, 503]
        late = await RawSession.open(server.ws_url, HOME.token("bob"))
        assert late.greeting["code"] == "draining"
        assert await late.closed() == 4000
        assert (await session.ask("message", id=1, data=1))["type"] == "ok", "it goes on until then"
        server.process.send_signal(signal.SIGTERM)
        assert await session.closed() == 4000
        assert server.process.wait(20) == 0


def test_generated_keys_serve_and_sign(tmp_path: Path) -> None:
    made = run("keys", "generate", "--format", "toml")
    assert made.returncode == 0
    text = made.stdout.replace("[turn]", '[turn]\nurls = ["turn:192.0.2.1:3478"]')
    path = tmp_path / "parley.toml"
    path.write_text(text.replace("[server]", "[server]\nport = 0\ndrain_s = 0"))
    config = ("--config", str(path))
    assert run("config", "check", *config).returncode == 0
    token = run("token", "create", *config, "--identity", "ann", "--room", "r").stdout.strip()
    assert json.loads(run("token", "verify", *config, token).stdout)["identity"] == "ann"
    assert run("token", "verify", *config, token + "x").returncode == 2
    minted = json.loads(run("turn", "mint", *config).stdout)["iceServers"][0]
    credential = (minted["username"], minted["credential"])
    assert run("turn", "verify", *config, *credential).returncode == 0
    assert run("turn", "verify", *config, minted["username"], "x").returncode == 2
    with start_serve(path.read_text()) as server:
        request = urllib.request.Request(
            f"{server.url}/v1/ice-servers", headers={"Authorization": f"Bearer {token}"}
        )
        with urllib.request.urlopen(request, timeout=10) as reply:
            assert json.loads(reply.read())["iceServers"]


@pytest.mark.parametrize("module", ["signal_server", "turn_broker", "probes"])
def test_each_room_alone_has_the_same_exit_codes(module: str) -> None:
    helped = run("--help", module=module)
    assert (helped.returncode, "Usage" in helped.stdout) == (0, True)
    refused = run("--no-such-flag", module=module)
    assert (refused.returncode, "no-such-flag" in refused.stderr) == (64, True)


def test_the_commands_there_are() -> None:
    assert run("version").stdout.split()[0][0].isdigit()
    listed = run("--help").stdout
    for command in ("dev", "serve", "config", "keys", "token", "turn", "probe", "version"):
        assert f"\n  {command} " in listed
    turn = run("turn", "--help").stdout
    for command in ("mint", "verify", "doctor", "agent"):
        assert f"\n  {command} " in turn
    probe = run("probe", "--help").stdout
    for command in ("turn", "ws", "api", "quality", "all"):
        assert f"\n  {command} " in probe
    assert run("no-such-command").returncode == 64
