"""Chromium with /js/parley.js to aiortc with the Python client: direct and through each relay."""

from __future__ import annotations

import asyncio
import itertools
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from coturn import has_coturn, start_coturn
from playwright.async_api import Browser, Page, async_playwright
from rtc import aiortc_peer, candidate_types, isolated_network, needs_own_network, traceless, until
from servers import Parley, start_parley

from signal_server.aiortc_link import CallSettings

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    "--allow-loopback-in-peer-connection",
    "--disable-background-timer-throttling",
    "--disable-renderer-backgrounding",
]
pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.chromium,
    pytest.mark.skipif(shutil.which(CHROMIUM) is None, reason="needs chromium"),
]
_rooms = itertools.count(1)

# window.peer: one member of the room, with one connection to whoever is there.
MEMBER = """async ({ url, token, room, transport }) => {
  const { SignalingClient } = await import("/js/parley.js");
  const client = new SignalingClient({ url, token });
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true, video: true });
  const peer = { client, messages: [], errors: [], link: null };
  window.peer = peer;
  client.on("error", (error) => peer.errors.push(String(error)));
  await client.connect();
  const granted = transport ? (await client.iceServers()).iceServers : [];
  const iceServers = granted
    .map((server) => ({ ...server, urls: [server.urls].flat().filter((url) =>
      url.startsWith("turn:") && url.endsWith(`transport=${transport}`)) }))
    .filter((server) => server.urls.length);
  const rtcConfiguration = { iceServers, iceTransportPolicy: transport ? "relay" : "all" };
  const use = (channel) => {
    peer.channel = channel;
    channel.onmessage = ({ data }) => peer.messages.push(data);
    const greet = () => channel.send("from the browser");
    if (channel.readyState === "open") greet(); else channel.onopen = greet;
  };
  const addTracks = (rtc) => stream.getTracks().forEach((each) => rtc.addTrack(each, stream));
  const open = (other, options) => {
    const link = client.peerConnection(other, { rtcConfiguration, ...options });
    peer.link = link;
    peer.connections = (peer.connections ?? 0) + 1;
    link.on("error", (error) => peer.errors.push(String(error)));
    link.rtc.ondatachannel = ({ channel }) => use(channel);
    return link;
  };
  client.on("incoming", (offer) => open(offer.peer, { pc: offer.pc, beforeAnswer: addTracks }));
  peer.call = (other) => {
    const { rtc } = open(other, {});
    use(rtc.createDataChannel("chat"));
    addTracks(rtc);
  };
  await client.join(room);
  return client.peer;
}"""

MEASURE = """async () => {
  const { link, messages, errors } = window.peer;
  const found = { messages, errors, video: 0, audio: 0, path: null, state: "none" };
  if (!link) return found;
  found.state = link.rtc.connectionState;
  found.path = await link.path();
  for (const each of (await link.rtc.getStats()).values()) {
    if (each.type !== "inbound-rtp") continue;
    if (each.kind === "video") found.video = each.framesDecoded ?? 0;
    if (each.kind === "audio") found.audio = each.packetsReceived ?? 0;
  }
  return found;
}"""


@dataclass(frozen=True)
class Way:
    """How both sides connect, and what must be seen of it."""

    transport: str | None
    settings: CallSettings
    type: str


DIRECT = Way(None, CallSettings(ice_servers=[]), "host")
OWN_DIRECT = pytest.param(DIRECT, marks=[pytest.mark.root, needs_own_network])
UDP = Way("udp", CallSettings(transport="udp", relay_only=True), "relay")
TCP = Way("tcp", CallSettings(transport="tcp", relay_only=True), "relay")


@pytest.fixture(scope="module")
def network() -> Iterator[None]:
    with isolated_network():
        yield


@pytest.fixture(scope="module")
def parley(network: None) -> Iterator[Parley]:
    with start_parley() as parley:
        yield parley
        assert traceless(parley.log_file)


@pytest.fixture(scope="module")
def with_coturn(network: None) -> Iterator[Parley]:
    if not has_coturn():
        pytest.skip("needs turnserver")
    with start_coturn(secret="a-secret-of-coturn-and-parley-only") as coturn:
        at = f"turn:127.0.0.1:{coturn.port}?transport="
        urls = ["--turn-url", at + "udp", "--turn-url", at + "tcp"]
        with start_parley(*urls, "--turn-secret", coturn.secret) as parley:
            yield parley
            assert traceless(parley.log_file)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(network: None) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM, headless=True, args=FLAGS, timeout=60_000
        )
        yield browser
        await browser.close()


@asynccontextmanager
async def member(browser: Browser, parley: Parley, room: str, way: Way) -> AsyncIterator[Page]:
    """A page that is in the room."""
    context = await browser.new_context()
    page = await context.new_page()
    try:
        await page.goto(parley.url)
        await page.evaluate(
            MEMBER,
            {
                "url": parley.ws_url,
                "token": parley.token("browser"),
                "room": room,
                "transport": way.transport,
            },
        )
        yield page
    finally:
        await context.close()


async def measured(page: Page, condition: Any, within_s: float = 30.0) -> dict[str, Any]:
    """What the page measures, once it satisfies the condition."""
    found: dict[str, Any] = {}
    deadline = asyncio.get_running_loop().time() + within_s
    while not (found and condition(found)):
        assert asyncio.get_running_loop().time() < deadline, found
        found = await page.evaluate(MEASURE)
    return found


def has_everything(found: dict[str, Any]) -> bool:
    return bool(found["messages"]) and found["video"] >= 5 and found["audio"] >= 10


async def connect(browser: Browser, parley: Parley, way: Way, caller: str) -> None:
    room = f"room-{next(_rooms)}"
    async with (
        member(browser, parley, room, way) as page,
        aiortc_peer(parley, "python", room, way.settings) as (peer, media),
    ):
        await until(lambda: bool(peer.client.roster.peers))
        (other,) = peer.client.roster.peers
        if caller == "chromium":
            await page.wait_for_function("(id) => peer.client.peers.has(id)", arg=peer.client.peer)
            await page.evaluate("(id) => peer.call(id)", peer.client.peer)
        else:
            await peer.call(other)
        found = await measured(page, has_everything)
        await until(lambda: media.has_everything)
        assert (found["messages"], media.messages) == (["from python"], ["from the browser"])
        assert found["errors"] == []
        assert found["path"]["localType"] == way.type
        assert found["path"]["relayProtocol"] == way.transport
        assert candidate_types(peer.link(other).pc.localDescription.sdp) == {way.type}


@pytest.mark.parametrize("caller", ["chromium", "aiortc"])
@pytest.mark.parametrize("way", [OWN_DIRECT, UDP, TCP], ids=["direct", "udp", "tcp"])
async def test_peer_chromium_and_aiortc(
    browser: Browser, parley: Parley, way: Way, caller: str
) -> None:
    await connect(browser, parley, way, caller)


@pytest.mark.coturn
@pytest.mark.parametrize("caller", ["chromium", "aiortc"])
@pytest.mark.parametrize("way", [UDP, TCP], ids=["udp", "tcp"])
async def test_peer_chromium_and_aiortc_through_coturn(
    browser: Browser, with_coturn: Parley, way: Way, caller: str
) -> None:
    await connect(browser, with_coturn, way, caller)


@pytest.mark.parametrize("polite", ["chromium", "aiortc"])
@pytest.mark.root
@needs_own_network
async def test_peer_chromium_and_aiortc_glare(
    browser: Browser, parley: Parley, polite: str
) -> None:
    """Both call before either has seen the other's offer; the later one to join is polite."""
    room = f"room-{next(_rooms)}"
    before = parley.metric("signaling_glare_total")
    async with (
        aiortc_peer(parley, "early", room, DIRECT.settings) as early,
        member(browser, parley, room, DIRECT) as page,
        aiortc_peer(parley, "late", room, DIRECT.settings) as late,
    ):
        peer, media = early if polite == "chromium" else late
        await until(lambda: len(peer.client.roster.peers) == 2)
        (browser_peer,) = (
            each.peer for each in peer.client.roster.peers.values() if each.identity == "browser"
        )
        await collide(page, peer, browser_peer)
        await measured(page, has_everything)
        await until(lambda: media.has_everything)
        assert peer.link(browser_peer).replaced == (1 if polite == "aiortc" else 0)
        assert parley.metric("signaling_glare_total") == before + 1


async def collide(page: Page, peer: Any, browser_peer: str) -> None:
    """Hold the Python offer until the browser's has arrived, and what arrives until it is sent."""
    link = peer.link(browser_peer)
    arrived, send = asyncio.Event(), peer.client.offer
    receive = link.receive

    def note(message: Any) -> None:
        receive(message)
        arrived.set()

    async def offer(to: str, sdp: str) -> int:
        await page.wait_for_function("(id) => peer.client.peers.has(id)", arg=peer.client.peer)
        await page.evaluate("(id) => peer.call(id)", peer.client.peer)
        await asyncio.wait_for(arrived.wait(), 10)
        number: int = await send(to, sdp)
        return number

    link.receive = note
    peer.client.offer = offer
    await link.call()


@pytest.mark.root
@needs_own_network
async def test_peer_chromium_restarts_ice_with_aiortc(browser: Browser, parley: Parley) -> None:
    """aiortc cannot: its end is replaced by a new connection, and media goes on."""
    room = f"room-{next(_rooms)}"
    async with (
        member(browser, parley, room, DIRECT) as page,
        aiortc_peer(parley, "python", room, DIRECT.settings) as (peer, media),
    ):
        await page.wait_for_function("(id) => peer.client.peers.has(id)", arg=peer.client.peer)
        await page.evaluate("(id) => peer.call(id)", peer.client.peer)
        found = await measured(page, has_everything)
        (link,) = peer.links.values()
        await page.evaluate("() => peer.link.restartIce()")
        await until(lambda: link.replaced == 1)
        await measured(
            page,
            lambda now: now["video"] > found["video"] + 30 and now["state"] == "connected",
        )
        before = media.frames["video"]
        await until(lambda: media.frames["video"] > before + 10)
