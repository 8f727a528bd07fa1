"""The server's own peers: what they receive is counted and sent back, and they are bounded in
number, time and work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from accounts import Account
from aiortc import RTCPeerConnection, RTCSessionDescription
from rtc import isolated_network, needs_own_network, traceless, until
from servers import Server, cpu_s, start_serve

from probes.checks.synthetic import Picture, Sound

PEER_S = 5
PEERS, PEERS_PER_SESSION = 3, 2
CONFIG = f"""
[server]
port = 0
drain_s = 0
admin_token = "admin-token-of-the-contract-tests"
[turn]
secret = "a-secret-that-only-this-test-has-and-no-other"
urls = ["turn:192.0.2.1:3478"]
probing.enabled = false
[probes]
address_burst = 1000
peers = {PEERS}
peers_per_session = {PEERS_PER_SESSION}
peer_s = {PEER_S}
allow_private_peers = true
{Account().toml}
"""
MEDIA_S = 2.0
MOST_CPU = 0.6
"""Of a core, for one echo of 1.5 Mbit/s, which takes 0.05 and once half a second to load aiortc."""
pytestmark = [pytest.mark.root, needs_own_network]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with isolated_network(), start_serve(CONFIG) as server:
        yield server
        assert traceless(server.log_file)


@pytest.fixture
async def http(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, timeout=15) as client:
        yield client


@pytest.fixture
async def session(http: httpx.AsyncClient) -> dict[str, str]:
    return await begin(http)


async def begin(http: httpx.AsyncClient) -> dict[str, str]:
    """The headers of a fresh session."""
    answer = await http.post("/v1/probes/sessions")
    return {"Authorization": f"Bearer {answer.json()['token']}"}


@asynccontextmanager
async def offering(*tracks: Any) -> AsyncIterator[tuple[RTCPeerConnection, Any]]:
    """A connection with a data channel that has its offer."""
    pc = RTCPeerConnection()
    channel = pc.createDataChannel("probe")
    for track in tracks:
        pc.addTrack(track)
    await pc.setLocalDescription(await pc.createOffer())
    try:
        yield pc, channel
    finally:
        await pc.close()


@asynccontextmanager
async def connected(
    http: httpx.AsyncClient, session: dict[str, str], mode: str, *tracks: Any
) -> AsyncIterator[tuple[str, Any, list[Any]]]:
    """The peer's path, the open channel, and the tracks that come back."""
    async with offering(*tracks) as (pc, channel):
        back: list[Any] = []
        pc.on("track", back.append)
        body = {"sdp": pc.localDescription.sdp, "mode": mode}
        answer = await http.post("/v1/probes/peers", json=body, headers=session)
        assert answer.status_code == 201, answer.text
        description = answer.json()
        assert description["type"] == "answer"
        await pc.setRemoteDescription(RTCSessionDescription(description["sdp"], "answer"))
        await pc.addIceCandidate(None)
        await until(lambda: channel.readyState == "open")
        path = f"/v1/probes/peers/{description['id']}"
        yield path, channel, back
        await http.delete(path, headers=session)


async def test_a_data_peer_sends_back_and_counts(
    http: httpx.AsyncClient, session: dict[str, str]
) -> None:
    async with connected(http, session, "data") as (path, channel, _):
        heard: list[str] = []
        channel.on("message", heard.append)
        for text in ("one", "two"):
            channel.send(text)
        await until(lambda: heard == ["one", "two"])
        figures = (await http.get(path, headers=session)).json()
        assert figures.items() >= {
            "mode": "data", "state": "connected", "messages": 2, "message_bytes": 6, "tracks": [],
        }.items()  # fmt: skip
        stranger = await http.get(path, headers=await begin(http))
        assert (stranger.status_code, stranger.json()["code"]) == (404, "not_found")
        assert (await http.delete(path, headers=await begin(http))).status_code == 204
        assert (await http.get(path, headers=session)).status_code == 200
        last = await http.delete(path, headers=session)
        assert (last.status_code, last.json()["messages"]) == (200, 2)
        assert (await http.delete(path, headers=session)).status_code == 204


@pytest.mark.parametrize("mode", ["sink", "echo"])
async def test_media_is_counted_and_only_an_echo_comes_back(
    mode: str, http: httpx.AsyncClient, session: dict[str, str], server: Server
) -> None:
    before = cpu_s(server.pid)
    async with connected(http, session, mode, Sound(), Picture(1_500_000)) as (path, _, back):
        figures: dict[str, Any] = {}
        async with asyncio.timeout(20):
            while figures.get("audio", {}).get("packets", 0) < 50 * MEDIA_S:
                answer = await http.get(path, headers=session)
                figures = {track["kind"]: track for track in answer.json()["tracks"]}
                await asyncio.sleep(0.1)
        assert figures["video"]["frames"] > 10 * MEDIA_S
        assert figures["video"]["bytes"] > 1_000_000 / 8
        assert {track["lost"] for track in figures.values()} == {0}
        assert {track.kind for track in back} == ({"audio", "video"} if mode == "echo" else set())
        if mode == "echo":
            await asyncio.wait_for(back[0].recv(), 5)
    assert cpu_s(server.pid) - before < MOST_CPU * PEER_S


async def test_peers_are_bounded_in_number_and_in_time(
    http: httpx.AsyncClient, server: Server
) -> None:
    async def ask(session: dict[str, str], sdp: str) -> tuple[int, dict[str, Any]]:
        body = {"sdp": sdp, "mode": "data"}
        answer = await http.post("/v1/probes/peers", json=body, headers=session)
        return answer.status_code, answer.json()

    await until(lambda: server.metric("probe_server_peers") == 0)
    one, other = await begin(http), await begin(http)
    async with offering() as (pc, _):
        sdp = pc.localDescription.sdp
        first = await ask(one, sdp)
        found = [first, await ask(one, sdp), await ask(one, sdp)]
        found += [await ask(other, sdp), await ask(other, sdp)]
        assert [status for status, _ in found] == [201, 201, 429, 201, 429]
        assert found[2][1]["code"] == found[4][1]["code"] == "limit_exceeded"
        path = f"/v1/probes/peers/{first[1]['id']}"
        assert (await http.get(path, headers=one)).status_code == 200
        await until(lambda: server.metric("probe_server_peers") == 0, PEER_S + 15)
        assert (await http.get(path, headers=one)).status_code == 404
        assert (await ask(one, sdp))[0] == 201, "an ended peer frees its place"
        await until(lambda: server.metric("probe_server_peers") == 0, PEER_S + 15)


async def test_bad_requests_take_no_place(
    http: httpx.AsyncClient, session: dict[str, str], server: Server
) -> None:
    async def ask(**body: Any) -> tuple[int, str]:
        answer = await http.post("/v1/probes/peers", json=body, headers=session)
        return answer.status_code, answer.json()["code"]

    await until(lambda: server.metric("probe_server_peers") == 0)
    for _ in range(PEERS_PER_SESSION + 1):
        assert await ask(sdp="v=0\r\nm=audio") == (400, "bad_request")
    assert await ask(sdp="v=0", mode="mixer") == (400, "bad_request")
    assert await ask(mode="data") == (400, "bad_request")
    assert await ask(sdp="x" * 200_000) == (413, "payload_too_large")
    answer = await http.post("/v1/probes/peers", json={"sdp": "v=0"})
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    assert server.metric("probe_server_peers") == 0
