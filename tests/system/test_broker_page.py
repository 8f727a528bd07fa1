"""Every block of docs/broker.md does what the page says, against a broker with a real coturn.

Shell blocks run as they stand; a JSON block after one has the members and types of its output.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from brokers import ACCOUNT_SID, AUTH_TOKEN, KEY_SECRET, KEY_SID, ROOT, TURN_SECRET, start_broker
from coturn import has_coturn
from coturn_node import PASSWORD, REALM, coturn_node

from turn_broker.accounts.access_token import AccessTokens
from turn_broker.accounts.table import Account, Accounts, ApiKey
from turn_broker.config import load
from turn_broker.coturn.agent_settings import load_agent
from turn_broker.parts import accounts_of, node_list_of

PAGE = (ROOT / "docs" / "broker.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
ADMIN_TOKEN = "e-0123456789abcdef0123456789abcdef"
NODE_ID = "default"
NAMES = ("PARLEY", "ACCOUNT_SID", "AUTH_TOKEN", "KEY_SID", "KEY_SECRET", "ACCESS_TOKEN")
pytestmark = [
    pytest.mark.coturn,
    pytest.mark.skipif(not has_coturn(), reason="turnserver is not installed"),
]


def blocks(*languages: str) -> list[Any]:
    """With the block that follows; `-k` finds them by their first words."""
    following = [*BLOCKS[1:], ("", "")]
    return [
        pytest.param(language, code, after, id=re.sub(r"\W+", "-", code[:60]))
        for (language, code), after in zip(BLOCKS, following, strict=True)
        if language in languages
    ]


def filled(toml: str) -> str:
    """With SIDs and secrets in the place of the dots."""
    toml = toml.replace('"AC..."', f'"{ACCOUNT_SID}"').replace('"SK..."', f'"{KEY_SID}"')
    return re.sub(r'"\.\.\."', lambda _: f'"{secrets.token_hex(32)}"', toml)


def toml_block(name: str) -> str:
    (found, *_) = [code for kind, code in BLOCKS if kind == "toml" and code.startswith(f"# {name}")]
    return filled(found)


def settings_file(home: Path, coturn: Any) -> Path:
    """A broker that runs the agent of the coturn beside it."""
    values = {name: getattr(coturn, name) for name in coturn.__struct_fields__}
    values |= {"node": NODE_ID, "console_password": PASSWORD}
    lines = [
        f'[turn]\nrealm = "{REALM}"\naccounts_file = "{home}/accounts.json"',
        f'accounts_key = "{secrets.token_hex(32)}"',
        "[turn.probing]\ninterval_s = 1.0\n[turn.coturn]",
        *(f"{name} = {json.dumps(value)}" for name, value in values.items()),
    ]
    path = home / "parley.toml"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The variables that the page's blocks take, for a running broker."""
    home = tmp_path_factory.mktemp("broker-page")
    with coturn_node() as node:
        config = settings_file(home, node.settings)
        port = node.settings.listening_port
        urls = [f"turn:127.0.0.1:{port}?transport={name}" for name in ("udp", "tcp")]
        turn_config = home / "turn.toml"
        turn_config.write_text(toml_block("turn.toml"))
        account = Account(ACCOUNT_SID, AUTH_TOKEN, (ApiKey(KEY_SID, KEY_SECRET),))
        admin = {"PARLEY_SERVER_ADMIN_TOKEN": ADMIN_TOKEN}
        with start_broker(f"stun:127.0.0.1:{port}", *urls, extra=admin, config=config) as broker:
            wait_for_agent(broker.url)
            yield {
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "HOME": str(home),
                "PARLEY": broker.url,
                "ACCOUNT_SID": ACCOUNT_SID,
                "AUTH_TOKEN": AUTH_TOKEN,
                "KEY_SID": KEY_SID,
                "KEY_SECRET": KEY_SECRET,
                "ACCESS_TOKEN": AccessTokens(Accounts([account])).issue(
                    account, KEY_SID, "carol", now=time.time()
                ),
                "ADMIN_TOKEN": ADMIN_TOKEN,
                "CONFIG": str(config),
                "TURN_CONFIG": str(turn_config),
                "TURN_PORT": str(port),
                "TURN_SECRET": TURN_SECRET,
                "TURN_REALM": REALM,
                "ID": token_id(broker.url),
                "NODE": NODE_ID,
            }


def wait_for_agent(url: str) -> None:
    deadline = time.monotonic() + 20
    headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
    while True:
        (node,) = httpx.get(f"{url}/v1/turn-nodes", headers=headers).json()["nodes"]
        if node["agent"] is not None:
            return
        assert time.monotonic() < deadline, "the agent does not report"
        time.sleep(0.1)


def token_id(url: str) -> str:
    asked = httpx.get(
        f"{url}/v1/ice-servers", params={"identity": "bob"}, auth=(ACCOUNT_SID, AUTH_TOKEN)
    )
    return str(asked.json()["id"])


def run(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def alike(shown: Any, seen: Any) -> None:
    """The same members and types, to the bottom."""
    assert type(shown) is type(seen), f"{shown!r} and {seen!r}"
    if isinstance(shown, dict):
        assert shown.keys() == seen.keys()
        for name, value in shown.items():
            alike(value, seen[name])
    elif isinstance(shown, list):
        for one, other in zip(shown, seen, strict=False):
            alike(one, other)


def test_every_language_is_known() -> None:
    assert {language for language, _ in BLOCKS} == {"sh", "json", "toml", "python", "js"}


@pytest.mark.parametrize(("language", "code", "after"), blocks("sh", "python", "js"))
def test_it_runs(
    environment: dict[str, str], language: str, code: str, after: tuple[str, str]
) -> None:
    """In the order of the page: what it revokes, it revokes last."""
    program = {"sh": "curl", "python": sys.executable, "js": "node"}[language]
    if shutil.which(program) is None and not os.environ.get("CI"):
        pytest.skip(f"{program} is not installed")
    said = run(command_of(language, code), environment)
    if language == "js":
        (*_, relays) = json.loads(said)
        assert relays["username"]
        assert relays["credential"]
    elif after[0] == "json":
        alike(json.loads(after[1]), json.loads(said))
    elif "curl " in code:
        assert "code" not in json.loads(said), said


def command_of(language: str, code: str) -> list[str]:
    """With the page's variables in scope."""
    names = ", ".join(NAMES)
    if language == "sh":
        return ["bash", "-euo", "pipefail", "-c", code]
    if language == "python":
        given = f"import os\n{names} = (os.environ[name] for name in {NAMES})\n"
        return [sys.executable, "-c", given + code]
    shown = f"const {{ {names} }} = process.env;\n{code}\nconsole.log(JSON.stringify(iceServers));"
    return ["node", "--input-type=module", "-e", shown]


@pytest.mark.parametrize(("language", "code", "after"), blocks("toml"))
def test_settings(language: str, code: str, after: tuple[str, str], tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(filled(code))
    if code.startswith("# turn.toml"):
        load_agent(path, {})
        return
    settings = load(path, {})
    if settings.accounts:
        accounts_of(settings.accounts)
    node_list_of(settings.turn)


def test_a_coturn_without_an_agent_is_said_so() -> None:
    """What the page says of a static secret: nothing can be rotated or cut."""
    with start_broker(
        "turn:127.0.0.1:3478", extra={"PARLEY_SERVER_ADMIN_TOKEN": ADMIN_TOKEN}
    ) as broker:
        operator = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
        refused = httpx.post(f"{broker.url}/v1/turn-secrets/rotate", headers=operator)
        assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
        token = f"{broker.url}/v1/tokens/{token_id(broker.url)}"
        revoked = httpx.delete(token, auth=(ACCOUNT_SID, AUTH_TOKEN)).json()
        assert (revoked["relays_cut"], revoked["nodes"], revoked["silent"]) == (0, [], [])
