"""The server's peer and a browser that tells no address, as browsers without camera permission."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import httpx
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from deployments import node
from rtc import isolated_network, needs_own_network
from servers import Server

CANDIDATE = re.compile(r"(a=candidate:\S+ \d+ \S+ \d+ )\S+")
HIDDEN = r"\g<1>0b0d1b2c-aaaa-bbbb-cccc-0123456789ab.local"
NO_CANDIDATE = re.compile(r"a=(end-of-)?candidate.*\r\n")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Its peers are not behind a relay, as those of `parley dev` are."""
    with isolated_network(), node() as deployment:
        yield deployment.node


@needs_own_network
@pytest.mark.parametrize(
    ("pattern", "instead"), [(CANDIDATE, HIDDEN), (NO_CANDIDATE, "")], ids=["mDNS", "none"]
)
async def test_a_client_that_tells_no_address_is_found_by_its_checks(
    server: Server, pattern: re.Pattern[str], instead: str
) -> None:
    """Firefox ends its candidates in the offer, Chromium does not say that there are no more."""
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    echoes: asyncio.Queue[str] = asyncio.Queue()
    channel = pc.createDataChannel("direct")
    channel.on("open", lambda: channel.send("hello"))
    channel.on("message", echoes.put_nowait)
    await pc.setLocalDescription(await pc.createOffer())
    offer = pattern.sub(instead, pc.localDescription.sdp)
    assert offer != pc.localDescription.sdp
    try:
        async with httpx.AsyncClient(base_url=server.url) as client:
            session = (await client.post("/v1/probes/sessions")).json()
            bearer = {"Authorization": f"Bearer {session['token']}"}
            asked = {"sdp": offer, "mode": "data"}
            answer = await client.post("/v1/probes/peers", json=asked, headers=bearer)
            assert answer.status_code == 201
            peer = answer.json()
            await pc.setRemoteDescription(RTCSessionDescription(peer["sdp"], "answer"))
            assert await asyncio.wait_for(echoes.get(), 10) == "hello"
            await client.delete(f"/v1/probes/peers/{peer['id']}", headers=bearer)
    finally:
        await pc.close()
    assert server.metric("probe_server_peers") == 0
