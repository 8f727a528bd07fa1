"""Whole deployments for the probes: nodes of `parley serve` and a coturn, whole or with a fault.

They listen on fixed ports of SERVER_ADDRESS: each test's network is its own.
"""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from certificates import Authority, Pair
from coturn import Coturn, start_coturn
from servers import Server, start_serve
from two_networks import SERVER_ADDRESS

NODE_PORT, TURN_PORT = 8080, 3478
REGION_PORTS = {"here": NODE_PORT, "west": 8081, "east": 8082}
SECRET = "the-secret-of-coturn-and-parley-only"
_NODE = """
[server]
host = "0.0.0.0"
port = {port}
admin_token = "{admin_token}"
drain_s = 0
[cors]
origins = ["*"]
[node]
name = "{region}-1"
region = "{region}"
[probes]
allow_private_peers = true
address_burst = 1000
address_per_s = 100.0
{probes}
[turn]
secret = "{secret}"
urls = [{urls}]
probing.enabled = false
[[accounts]]
sid = "AC{sid}"
auth_token = "{auth_token}"
keys = [{{sid = "SK{sid}", secret = "{auth_token}"}}]
"""


@dataclass(kw_only=True)
class Deployment:
    """A node that answers probes, and what it tells clients to use."""

    url: str
    node: Server
    turn: Coturn | None = None
    regions: Mapping[str, str] = field(default_factory=dict)
    """Base URLs by id, as configured."""
    others: Mapping[str, Server] = field(default_factory=dict)
    """The nodes of the other regions, by id."""
    authority: Path | None = None
    """PEM file that the relay's certificate is signed by."""


def address(port: int, scheme: str = "http") -> str:
    """Base URL of a server here."""
    return f"{scheme}://{SERVER_ADDRESS}:{port}"


@contextlib.contextmanager
def relay(
    certificate: Pair | None = None, *extra: str, port: int = TURN_PORT, secret: str = SECRET
) -> Iterator[Coturn]:
    """A coturn for UDP and TCP, and for TLS with a certificate."""
    files = (certificate.certificate, certificate.key) if certificate else None
    with start_coturn(
        host=SERVER_ADDRESS, port=port, secret=secret, certificate=files, extra=extra
    ) as started:
        yield started


def leaf(authority: Authority, name: str, *, self_signed: bool = False) -> Pair:
    """A certificate for SERVER_ADDRESS."""
    return authority.leaf(name, (SERVER_ADDRESS,), self_signed=self_signed)


@contextlib.contextmanager
def node(
    turn: Coturn | None = None,
    *,
    port: int = NODE_PORT,
    region: str = "here",
    secret: str = SECRET,
    regions: Mapping[str, str] | None = None,
    probes: Sequence[str] = (),
    relays: Mapping[str, Coturn] | None = None,
) -> Iterator[Deployment]:
    """A node with that relay, or with one for each region; `secret` is what it believes theirs to
    be."""
    tables = [
        f'[[turn.nodes]]\nid = "{name}"\nregion = "{name}"\nurls = {json.dumps(_urls(one))}\n'
        for name, one in (relays or {}).items()
    ]
    tables += [
        f'[[regions]]\nid = "{name}"\nurl = "{url}"\n' for name, url in (regions or {}).items()
    ]
    config = _NODE.format(
        port=port,
        region=region,
        secret=secret,
        urls="" if relays else ", ".join(f'"{url}"' for url in _urls(turn)),
        probes="\n".join(probes),
        sid=secrets.token_hex(16),
        auth_token=secrets.token_hex(32),
        admin_token=secrets.token_hex(32),
    )
    with start_serve(config + "".join(tables)) as started:
        yield Deployment(url=address(port), node=started, turn=turn, regions=regions or {})


@contextlib.contextmanager
def whole(
    home: Path,
    *relay_lines: str,
    secret: str = SECRET,
    self_signed: bool = False,
    port: int = NODE_PORT,
    regions: Mapping[str, str] | None = None,
    probes: Sequence[str] = (),
) -> Iterator[Deployment]:
    """Nothing is wrong with it, unless told: lines of coturn's configuration, the secret that the
    node believes in, or a certificate that nobody trusts."""
    authority = Authority(home)
    certificate = leaf(authority, "turn", self_signed=self_signed)
    with (
        relay(certificate, *relay_lines) as turn,
        node(turn, secret=secret, port=port, regions=regions, probes=probes) as started,
    ):
        started.authority = authority.path
        yield started


@contextlib.contextmanager
def three_regions(home: Path) -> Iterator[Deployment]:
    """`here`, `west` and `east`, a node each; `here` has the relay and answers the API."""
    urls = {name: address(port) for name, port in REGION_PORTS.items()}
    with contextlib.ExitStack() as stack:
        deployment = stack.enter_context(whole(home, regions=urls))
        deployment.others = {
            name: stack.enter_context(node(port=port, region=name, regions=urls)).node
            for name, port in REGION_PORTS.items()
            if name != "here"
        }
        yield deployment


def _urls(turn: Coturn | None) -> list[str]:
    if turn is None:
        return ["turn:192.0.2.1:3478"]
    plain = f"turn:{SERVER_ADDRESS}:{turn.port}?transport="
    urls = [f"{plain}udp", f"{plain}tcp"]
    if turn.tls_port:
        urls.append(f"turns:{SERVER_ADDRESS}:{turn.tls_port}?transport=tcp")
    return urls
