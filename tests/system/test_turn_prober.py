"""The prober against real coturn: what dies leaves the list, what returns is handed out again."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from certificates import Authority
from coturn import LOOPBACK, close_relay_ports, free_port, has_coturn, start_coturn
from rtc import is_root, isolated_network
from turn_client import eventually

from turn_broker.credentials import TurnCredential
from turn_broker.ice_servers import TurnUri, parse_turn_uri
from turn_broker.nodes.health import NodeList, TurnNode, UrlHealth, Verdict
from turn_broker.nodes.prober import LATENCY_BOUNDS_MS, Prober, ProberSettings, probe_credential

pytestmark = [
    pytest.mark.coturn,
    pytest.mark.skipif(not has_coturn(), reason="turnserver is not installed"),
]
SECRET = "coturn-secret"
FAST = ProberSettings(interval_s=0.05, timeout_s=5)


def urls(port: int, *kinds: str, tls_port: int = 0) -> tuple[TurnUri, ...]:
    texts = {
        "udp": f"turn:{LOOPBACK}:{port}?transport=udp",
        "tcp": f"turn:{LOOPBACK}:{port}?transport=tcp",
        "tls": f"turns:{LOOPBACK}:{tls_port}?transport=tcp",
        "stun": f"stun:{LOOPBACK}:{port}",
    }
    return tuple(parse_turn_uri(texts[kind]) for kind in kinds)


def minted(secret: str = SECRET) -> Callable[[], TurnCredential]:
    return lambda: probe_credential(secret, time.time(), secrets.token_bytes(10))


def prober_of(
    nodes: NodeList, settings: ProberSettings = FAST, authority: Authority | None = None
) -> Prober:
    return Prober(
        nodes,
        minted(),
        settings,
        clock=time.time,
        chance=lambda: 0.5,
        tls=authority.trust() if authority else None,
    )


def health(nodes: NodeList, node: str, kind: str) -> UrlHealth:
    return next(
        found
        for status in nodes.statuses()
        if status.node.id == node
        for found in status.urls
        if found.url.kind == kind
    )


def listed(nodes: NodeList) -> set[str]:
    """Nodes that some client is given."""
    return {url.host + str(url.port) for c in (0.1, 0.9) for url in nodes.choose(chance=c).urls}


async def test_a_killed_node_leaves_after_three_misses_and_returns_after_two_successes() -> None:
    with start_coturn() as stays, ExitStack() as going:
        goes = going.enter_context(start_coturn())
        nodes = NodeList(
            [
                TurnNode("stays", "eu", urls(stays.port, "udp", "tcp")),
                TurnNode("goes", "eu", urls(goes.port, "udp", "tcp", "stun")),
            ]
        )
        both = {f"{LOOPBACK}{stays.port}", f"{LOOPBACK}{goes.port}"}
        prober = prober_of(nodes)
        await prober.probe_all()
        assert listed(nodes) == both
        assert {h.verdict for s in nodes.statuses() for h in s.urls} == {"up"}

        going.close()
        await prober.probe_all()
        await prober.probe_all()
        assert listed(nodes) == both
        await prober.probe_all()
        assert listed(nodes) == {f"{LOOPBACK}{stays.port}"}
        assert health(nodes, "goes", "tcp").reason == "refused"

        with start_coturn(port=goes.port):
            await prober.probe_all()
            assert listed(nodes) == {f"{LOOPBACK}{stays.port}"}
            await prober.probe_all()
            assert listed(nodes) == both


async def test_one_transport_that_fails_takes_only_its_url() -> None:
    with start_coturn(extra=["no-tcp"], tcp=False) as coturn:
        nodes = NodeList([TurnNode("a", "eu", urls(coturn.port, "udp", "tcp", "stun"))])
        prober = prober_of(nodes)
        for _ in range(3):
            await prober.probe_all()

        assert [url.kind for url in nodes.choose().urls] == ["udp", "stun"]
        assert health(nodes, "a", "tcp").reason == "refused"
        assert not nodes.is_degraded


async def test_a_url_that_swallows_everything_times_out() -> None:
    with start_coturn() as coturn, closing(socket.socket(type=socket.SOCK_DGRAM)) as silent:
        silent.bind((LOOPBACK, 0))
        hole = urls(silent.getsockname()[1], "udp", "stun")
        nodes = NodeList([TurnNode("a", "eu", urls(coturn.port, "tcp") + hole)])
        prober = prober_of(nodes, ProberSettings(timeout_s=1))
        for _ in range(3):
            await prober.probe_all()

        assert [url.kind for url in nodes.choose().urls] == ["tcp"]
        assert {health(nodes, "a", kind).reason for kind in ("udp", "stun")} == {"timeout"}


async def test_tls_with_a_bad_certificate_takes_only_its_url(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.leaf("self", self_signed=True)
    with start_coturn(certificate=(pair.certificate, pair.key)) as coturn:
        nodes = NodeList(
            [TurnNode("a", "eu", urls(coturn.port, "udp", "tls", tls_port=coturn.tls_port))]
        )
        prober = prober_of(nodes, authority=authority)
        for _ in range(3):
            await prober.probe_all()

        assert [url.kind for url in nodes.choose().urls] == ["udp"]
        assert health(nodes, "a", "tls").reason == "tls_self_signed"


async def test_tls_with_a_good_certificate_is_up(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.leaf("good")
    with start_coturn(certificate=(pair.certificate, pair.key)) as coturn:
        nodes = NodeList([TurnNode("a", "eu", urls(coturn.port, "tls", tls_port=coturn.tls_port))])
        await prober_of(nodes, authority=authority).probe_all()

        assert health(nodes, "a", "tls").verdict == "up"


async def test_a_node_that_denies_our_address_is_up_but_unproven() -> None:
    with start_coturn(extra=["allow-loopback-peers=false"]) as coturn:
        nodes = NodeList([TurnNode("a", "eu", urls(coturn.port, "udp"))])
        prober = prober_of(nodes)
        for _ in range(4):
            await prober.probe_all()

        found = health(nodes, "a", "udp")
        assert (found.is_listed, found.verdict, found.reason) == (True, "unproven", "forbidden")
        assert prober.counters.outcomes == {("a", "udp", "unproven"): 4}


@pytest.mark.root
@pytest.mark.skipif(not is_root(), reason="needs network namespaces")
async def test_a_node_whose_relayed_ports_are_closed_leaves_although_it_allocates() -> None:
    with isolated_network(), start_coturn() as coturn:
        close_relay_ports()
        nodes = NodeList([TurnNode("a", "eu", urls(coturn.port, "tcp"))])
        prober = prober_of(nodes, ProberSettings(timeout_s=1))
        for _ in range(3):
            await prober.probe_all()

        found = health(nodes, "a", "tcp")
        assert (found.is_listed, found.reason) == (False, "timeout")


async def test_a_wrong_secret_is_seen() -> None:
    with start_coturn(secret="another-secret") as coturn:
        nodes = NodeList([TurnNode("a", "eu", urls(coturn.port, "udp"))])
        await prober_of(nodes).probe_all()

        assert health(nodes, "a", "udp").reason == "unauthorized"


async def test_it_probes_while_it_is_entered_and_counts() -> None:
    with start_coturn() as coturn:
        nodes = NodeList([TurnNode("a", "eu", urls(coturn.port, "udp", "tcp"))])
        async with prober_of(nodes) as prober:
            await eventually(lambda: prober.rounds >= 3)
        rounds = prober.rounds
        counters = prober.counters

        assert rounds <= counters.outcomes["a", "udp", "up"] <= rounds + 1
        latency = counters.latency["a", "tcp"]
        assert len(latency.counts) == len(LATENCY_BOUNDS_MS) + 1
        assert sum(latency.counts) == counters.outcomes["a", "tcp", "up"]
        assert latency.total_ms > 0


async def test_it_does_nothing_when_it_is_not_enabled() -> None:
    nodes = NodeList([TurnNode("a", "eu", urls(free_port(), "udp"))])
    async with prober_of(nodes, ProberSettings(enabled=False)) as prober:
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
    assert prober.counters.outcomes == {}


async def test_a_draining_node_is_left_alone() -> None:
    nodes = NodeList([TurnNode("a", "eu", urls(free_port(), "udp"))])
    nodes.set_draining({"a"})
    prober = prober_of(nodes)
    await prober.probe_all()

    assert prober.counters.outcomes == {}


async def test_a_mistake_of_ours_takes_no_node_away(caplog: pytest.LogCaptureFixture) -> None:
    nodes = NodeList([TurnNode("a", "eu", urls(free_port(), "udp"))])
    prober = Prober(nodes, _broken, FAST, clock=time.time, chance=lambda: 0.5)
    with caplog.at_level(logging.CRITICAL):
        await prober.probe_all()

    assert health(nodes, "a", "udp").verdict == "unknown"
    assert prober.rounds == 1


async def test_concurrency_is_bounded() -> None:
    nodes = NodeList([TurnNode(f"n{i}", "eu", urls(free_port(), "tcp")) for i in range(6)])
    running = most = 0

    class Counted(Prober):
        async def _ask(self, uri: TurnUri) -> tuple[Verdict, str]:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.001)
            running -= 1
            return "up", ""

    settings = ProberSettings(concurrency=2)
    await Counted(nodes, minted(), settings, clock=time.time, chance=lambda: 0).probe_all()
    assert most == 2


def _broken() -> TurnCredential:
    raise RuntimeError("no credential")
