"""parley.js against the real server in Chromium, without the demo page's buttons."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page
from servers import Parley

pytestmark = pytest.mark.chromium

ENTER = """async ([url, token, room]) => {
  const { SignalingClient } = await import("/js/parley.js");
  window.client = new SignalingClient({ url, token });
  await client.connect();
  await client.join(room, { name: "x" });
}"""
OFFER = """async () => {
  const [peer] = client.peers.keys();
  window.link = client.peerConnection(peer);
  window.events = [];
  link.on("error", (error) => events.push(`error ${error.message}`));
  link.on("description", ({ direction, type }) => events.push(`${direction} ${type}`));
  link.rtc.addTransceiver("audio");
  window.channel = link.rtc.createDataChannel("both", { negotiated: true, id: 1 });
}"""
# Both ends must have begun before either can finish.
BEGIN_TALK = """() => {
  window.talk = (async () => {
  const late = () => new Error(`nothing heard within 15 s: ${events}`);
  const event = (name) => new Promise((resolve, reject) => {
    channel.addEventListener(name, resolve);
    setTimeout(() => reject(late()), 15000);
  });
  if (channel.readyState !== "open") await event("open");
  const heard = event("message").then(({ data }) => data);
  const again = setInterval(() => channel.send(`from ${link.polite ? "polite" : "impolite"}`), 50);
  const word = await heard;
  setTimeout(() => clearInterval(again), 500);
  return { word, state: link.rtc.signalingState, events, path: await link.path() };
  })();
}"""


def until(page: Page, condition: str) -> None:
    """Wait in the page for a JavaScript condition; 15 s are enough."""
    page.evaluate(
        f"""async () => {{
          for (let turn = 0; !({condition}); turn++) {{
            if (turn > 3000) throw new Error("never: {condition}");
            await new Promise((resolve) => setTimeout(resolve, 5));
          }}
        }}"""
    )


def talk(*pages: Page) -> list[dict[str, Any]]:
    """What each hears from the other through the data channel, and how its connection is."""
    for page in pages:
        page.evaluate(BEGIN_TALK)
    return [page.evaluate("talk") for page in pages]


def meet(context: BrowserContext, parley: Parley, room: str) -> tuple[Page, Page]:
    """Two peers in a room who know of each other; the first one is impolite."""
    ada, bo = (entered(context, parley, name, room) for name in ("ada", "bo"))
    until(ada, "client.peers.size === 1")
    return ada, bo


def entered(context: BrowserContext, parley: Parley, name: str, room: str) -> Page:
    page = context.new_page()
    page.goto(parley.url)
    page.evaluate(ENTER, [parley.ws_url, parley.token(name, room), room])
    return page


def test_offers_that_cross_end_in_one_connection(context: BrowserContext, parley: Parley) -> None:
    pages = ada, bo = meet(context, parley, "glare")
    # Held back until both have offered, so that the offers cross for certain.
    for page in pages:
        page.evaluate(
            """() => {
              const receive = client.onMessage.bind(client);
              const held = [];
              client.onMessage = (message) => held.push(message);
              window.letIn = () => { client.onMessage = receive; held.forEach(receive); };
            }"""
        )
    for page in pages:
        page.evaluate(OFFER)
    for page in pages:
        until(page, "events.includes('sent offer')")
    for page in pages:
        page.evaluate("letIn()")
    told = talk(ada, bo)
    assert [one["word"] for one in told] == ["from polite", "from impolite"]
    for one in told:
        assert one["state"] == "stable"
        assert not [event for event in one["events"] if event.startswith("error")]
        assert one["path"]["localType"] == "host"
    assert "sent answer" not in told[0]["events"][:2], "the first in the room is impolite"
    assert "received offer" in told[0]["events"]
    assert "sent answer" in told[1]["events"]


def test_an_ice_restart_keeps_the_connection(context: BrowserContext, parley: Parley) -> None:
    ada, bo = meet(context, parley, "restart")
    bo.evaluate(
        """() => client.on("incoming", ({ peer }) => {
          window.events = [];
          window.link = client.peerConnection(peer, { beforeAnswer: (rtc) => {
            window.channel ??= rtc.createDataChannel("both", { negotiated: true, id: 1 });
          } });
        })"""
    )
    ada.evaluate(OFFER)
    until(ada, "channel.readyState === 'open'")
    ufrag = "link.rtc.currentRemoteDescription.sdp.match(/a=ice-ufrag:(.+)/)[1]"
    ada.evaluate(f"window.before = {ufrag}")
    ada.evaluate("link.restartIce()")
    until(ada, f"{ufrag} !== before")
    told = talk(ada, bo)
    assert [one["state"] for one in told] == ["stable", "stable"]


def test_ice_servers_and_pings_through_the_socket(context: BrowserContext, parley: Parley) -> None:
    page = entered(context, parley, "ada", "ice")
    found = page.evaluate(
        "async () => ({ ice: await client.iceServers({ ttl: 600 }), ping: await client.ping() })"
    )
    assert found["ice"]["iceServers"]
    assert 0 <= found["ping"] < 5000


def test_a_peer_of_another_room_is_not_found(context: BrowserContext, parley: Parley) -> None:
    ada = entered(context, parley, "ada", "one")
    bo = entered(context, parley, "bo", "two")
    code = ada.evaluate(
        "(peer) => client.send(peer, 1).then(() => null, (error) => error.code)",
        bo.evaluate("client.peer"),
    )
    assert code == "not_found"
