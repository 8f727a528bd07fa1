"""parley.js in Chromium and the real server: receipts, replaced devices, arbitrated glare."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from nodes import start_nodes, token
from people import eventually
from playwright.sync_api import BrowserContext, Page
from redis_server import start_redis
from servers import Parley, start_parley

pytestmark = pytest.mark.chromium

JOIN = """
async ([url, token, options]) => {
  const { SignalingClient } = await import("/js/parley.js");
  const storage = options.isKept ? sessionStorage : undefined;
  const client = new SignalingClient({ url, token, room: "protocol", storage, ...options });
  Object.assign(window, { client, told: [], failed: [] });
  for (const name of ["receipt", "peer_replaced", "peer_left", "peer_updated", "message"]) {
    client.on(name, (detail) => window.told.push([name, detail]));
  }
  client.on("error", (error) => window.failed.push(String(error)));
  const joined = new Promise((resolve) => client.once("room", resolve));
  await client.connect();
  await joined;
  return client.peer;
}
"""
RAW = """
([url, token]) => new Promise((resolve) => {
  window.socket = new WebSocket(url, "parley.v1.json");
  socket.onopen = () => socket.send(JSON.stringify({ type: "hello", token, room: "protocol" }));
  socket.onmessage = ({ data }) => resolve(JSON.parse(data));
})
"""
HOLD = """
() => {
  const send = WebSocket.prototype.send;
  window.held = [];
  WebSocket.prototype.send = function (text) {
    if (!held.length && JSON.parse(text).type !== "offer") send.call(this, text);
    else held.push([this, text]);
  };
  window.release = () => {
    WebSocket.prototype.send = send;
    for (const [socket, text] of held) socket.send(text);
  };
}
"""
DATA = """(peer) => {
  const link = client.peerConnection(peer);
  link.on("error", (error) => window.failed.push(String(error)));
  window.link = link;
  window.heard = [];
  link.rtc.addEventListener("datachannel", ({ channel }) => {
    channel.onmessage = ({ data }) => window.heard.push(data);
  });
  const channel = link.rtc.createDataChannel("chat");
  channel.onopen = () => channel.send("hello");
}"""

MEDIA = """async (to) => {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true, video: true });
  const open = (peer) => {
    window.link = client.peerConnection(peer);
    link.on("error", (error) => window.failed.push(String(error)));
    for (const track of stream.getTracks()) link.rtc.addTrack(track, stream);
  };
  client.on("incoming", ({ peer }) => open(peer));
  if (to) open(to);
}"""
FRAMES = """async () => {
  if (!window.link) return false;
  const reports = [...(await link.rtc.getStats()).values()];
  return reports.some(({ type, framesDecoded }) => type === "inbound-rtp" && framesDecoded > 10);
}"""


def join(context: BrowserContext, parley: Parley, identity: str, **options: object) -> Page:
    page = context.new_page()
    enter(page, parley, identity, **options)
    return page


def enter(page: Page, parley: Parley, identity: str, **options: object) -> None:
    page.goto(f"{parley.url}/healthz")  # a page without a Content-Security-Policy
    page.evaluate(JOIN, [parley.ws_url, parley.token(identity), options])


def test_a_message_is_told_to_have_been_received(context: BrowserContext, parley: Parley) -> None:
    ada = join(context, parley, "ada", features=["receipts"])
    bo = join(context, parley, "bo")
    to = bo.evaluate("client.peer")
    ada.evaluate("(to) => client.send(to, 'hi', { until: 'received' })", to)
    assert bo.evaluate("told.map(([name]) => name)") == ["message"]
    stages = "told.filter(([name]) => name === 'receipt').map(([_, { stage }]) => stage)"
    assert ada.evaluate(stages)[-1] == "received"
    assert ada.evaluate("told.every(([name, { to }]) => name !== 'receipt' || to)")
    for page in (ada, bo):
        assert page.evaluate("failed") == []
        page.evaluate("client.close()")


def test_another_page_takes_the_place_of_one_that_hangs(
    context: BrowserContext, parley: Parley
) -> None:
    ada = join(context, parley, "ada")
    bo = join(context, parley, "bo")
    former, ticket = bo.evaluate("[client.peer, client.ticket]")
    ada.evaluate(DATA, former)
    successor = join(context, parley, "bo", replaces=ticket)
    peer = successor.evaluate("client.peer")
    ada.wait_for_function("told.some(([name]) => name === 'peer_replaced')")
    [[name, detail]] = ada.evaluate("told")
    assert (name, detail["peer"], detail["replaced"]) == ("peer_replaced", peer, former)
    assert ada.evaluate("link.closed")
    assert ada.evaluate("[...client.peers.keys()]") == [peer]
    bo.wait_for_function("client.state === 'closed'")
    for page in (ada, successor):
        page.evaluate("client.close()")


@pytest.mark.parametrize("transport", ["websocket", "http"])
def test_a_page_that_is_reloaded_takes_its_own_place(
    context: BrowserContext, parley: Parley, transport: str
) -> None:
    ada = join(context, parley, "ada")
    bo = join(context, parley, "bo", isKept=True, transport=transport)
    former = bo.evaluate("client.peer")
    enter(bo, parley, "bo", isKept=True, transport=transport)
    peer = bo.evaluate("client.peer")
    ada.wait_for_function("told.some(([name]) => name === 'peer_replaced')")
    changes = ada.evaluate("told.map(([name, { peer, replaced }]) => [name, peer, replaced])")
    assert [change for change in changes if change[0] != "peer_updated"] == [
        ["peer_replaced", peer, former]
    ]
    assert ada.evaluate("[...client.peers.keys()]") == [peer]
    # A second tab of the same device is somebody else.
    copy = join(context, parley, "bo", isKept=True)
    ada.wait_for_function("client.peers.size === 2")
    for page in (ada, bo, copy):
        page.evaluate("client.close()")


def test_media_flows_again_after_a_reload(context: BrowserContext, parley: Parley) -> None:
    """The page that comes back knows nothing; the one that stayed closes what it had with it."""
    ada = join(context, parley, "ada")
    ada.evaluate(MEDIA, None)
    bo = context.new_page()
    for times in range(2):
        enter(bo, parley, "bo", isKept=True)
        bo.evaluate(MEDIA, ada.evaluate("client.peer"))
        for page in (ada, bo):
            eventually(page, lambda page=page: bool(page.evaluate(FRAMES)), "frames arrive")  # type: ignore[misc]
            assert page.evaluate("failed") == []
        assert ada.evaluate("told.filter(([name]) => name === 'peer_replaced').length") == times
        assert ada.evaluate("link.peer") == bo.evaluate("client.peer")
    assert "peer_left" not in ada.evaluate("told.map(([name]) => name)")
    for page in (bo, ada):
        page.evaluate("client.close()")


@pytest.mark.parametrize("transport", ["websocket", "http"])
@pytest.mark.parametrize("how", ["close", "reload"])
def test_a_page_that_keeps_nothing_says_goodbye(
    context: BrowserContext, parley: Parley, how: str, transport: str
) -> None:
    ada = join(context, parley, "ada")
    bo = join(context, parley, "bo", transport=transport)
    peer = bo.evaluate("client.peer")
    getattr(bo, how)()
    ada.wait_for_function("told.length > 0", timeout=20_000)
    [[name, detail]] = ada.evaluate("told")
    assert (name, detail["peer"], detail["reason"]) == ("peer_left", peer, "left")
    ada.evaluate("client.close()")


def test_a_page_without_parley_js_may_come_back(context: BrowserContext, parley: Parley) -> None:
    """Its WebSocket is closed with 1001 by the browser."""
    ada = join(context, parley, "ada")
    bo = context.new_page()
    bo.goto(f"{parley.url}/healthz")
    welcome = bo.evaluate(RAW, [parley.ws_url, parley.token("bo")])
    bo.close()
    ada.wait_for_function("told.length > 0")
    assert ada.evaluate("told.map(([name, { connected }]) => [name, connected])") == [
        ["peer_updated", False]
    ]
    ticket = {"session": welcome["session"], "secret": welcome["resume"]["secret"]}
    successor = join(context, parley, "bo", replaces=ticket)
    ada.wait_for_function("told.length > 1")
    [[name, detail]] = ada.evaluate("told.slice(1)")
    assert (name, detail["replaced"]) == ("peer_replaced", welcome["peer"])
    for page in (ada, successor):
        page.evaluate("client.close()")


def test_both_offer_at_once(context: BrowserContext, parley: Parley) -> None:
    pages = [join(context, parley, identity) for identity in ("ada", "bo")]
    peers = [page.evaluate("client.peer") for page in pages]
    for page, other in zip(pages, reversed(peers), strict=True):
        page.evaluate(f"(peer) => setTimeout(({DATA}), 500 - Date.now() % 500, peer)", other)
    for page in pages:
        page.wait_for_function("window.heard?.length === 1", timeout=15_000)
        assert page.evaluate("failed") == []
        page.evaluate("client.close()")


@pytest.fixture(scope="module")
def arbiter(parley: Parley) -> Iterator[Parley]:
    """Started after the other one, in the same network."""
    with start_parley("--glare", "arbitrate") as started:
        yield started


@pytest.mark.parametrize("winner", ["polite first", "impolite first"])
@pytest.mark.parametrize("mode", ["passthrough", "arbitrate"])
def test_offers_cross_on_their_way(
    context: BrowserContext, parley: Parley, arbiter: Parley, mode: str, winner: str
) -> None:
    """Both have offered before either offer reaches the server."""
    server = arbiter if mode == "arbitrate" else parley
    before = server.metric("signaling_glare_total")
    impolite, polite = (
        join(context, server, identity, features=["receipts"]) for identity in ("ada", "bo")
    )
    polite.evaluate(HOLD)
    impolite.evaluate(HOLD)
    for page, other in ((polite, impolite), (impolite, polite)):
        page.evaluate(DATA, other.evaluate("client.peer"))
        page.wait_for_function("held.length > 0")
    first, second = (polite, impolite) if winner == "polite first" else (impolite, polite)
    for page in (first, second):
        page.evaluate("release()")
    for page in (first, second):
        page.wait_for_function("window.heard?.length === 1", timeout=15_000)
        assert page.evaluate("failed") == []
    assert server.metric("signaling_glare_total") > before
    losing = "told.filter(([name, { type }]) => name === 'receipt' && type === 'offer')"
    for page in (first, second):
        stages = page.evaluate(f"{losing}.map(([_, {{ stage }}]) => stage)")
        assert set(stages) <= {"relayed", "received", "applied"}
        page.evaluate("client.close()")


def test_the_session_goes_on_at_another_address(
    context: BrowserContext, parley: Parley, tmp_path: Path
) -> None:
    """The page knows two nodes, and the one that it is at is killed."""
    anyone = '[cors]\norigins = ["*"]'
    with start_redis() as redis, start_nodes(tmp_path, redis.url, "ab", more=anyone) as nodes:
        pages = {name: context.new_page() for name in ("ada", "bo")}
        for page in pages.values():
            page.goto(f"{parley.url}/healthz")
        ada, bo = pages.values()
        urls = [node.ws_url for node in nodes]
        peer = ada.evaluate(JOIN, [urls, token("ada"), {}])
        at = ada.evaluate("client.welcome.node")
        gone, left = sorted(nodes, key=lambda node: bool(node.name != at))
        bo.evaluate(JOIN, [left.ws_url, token("bo"), {}])
        bo.wait_for_function("client.peers.size === 1")
        gone.kill()
        bo.evaluate("(peer) => client.send(peer, 'still there')", peer)
        ada.wait_for_function("told.some(([name]) => name === 'message')", timeout=20_000)
        assert ada.evaluate("[client.peer, client.welcome.node]") == [peer, left.name]
        for page in pages.values():
            assert page.evaluate("failed") == []
            page.evaluate("client.close()")
