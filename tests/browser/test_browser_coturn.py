"""Two Chromium tabs, and Chromium with a token of the Twilio SDK, through a real coturn."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from coturn import start_coturn
from people import ONLY, Person, connect
from playwright.sync_api import BrowserContext
from rtc import isolated_network
from servers import Parley, start_parley
from twilio.rest import Client

pytestmark = [pytest.mark.chromium, pytest.mark.coturn]

LOOP = """
async (iceServers) => {
  const pcs = [0, 1].map(() => new RTCPeerConnection({ iceServers, iceTransportPolicy: "relay" }));
  const [a, b] = pcs;
  const found = { candidates: 0, errors: [], data: "" };
  pcs.forEach((pc, n) => {
    pc.onicecandidate = ({ candidate }) => {
      if (candidate?.candidate) found.candidates += 1;
      pcs[1 - n].addIceCandidate(candidate);
    };
    pc.onicecandidateerror = ({ errorCode }) => found.errors.push(errorCode);
  });
  const channel = a.createDataChannel("d");
  channel.onopen = () => channel.send("through coturn");
  b.ondatachannel = (event) => { event.channel.onmessage = ({ data }) => { found.data = data; }; };
  await a.setLocalDescription();
  await b.setRemoteDescription(a.localDescription);
  await b.setLocalDescription();
  await a.setRemoteDescription(b.localDescription);
  for (let n = 0; n < 100 && !found.data && !found.errors.length; n += 1) {
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  pcs.forEach((pc) => pc.close());
  return found;
}
"""


@pytest.fixture(scope="module")
def parley() -> Iterator[Parley]:
    with isolated_network(), start_coturn(secret="a-secret-of-coturn-and-parley-only") as coturn:
        at = f"turn:127.0.0.1:{coturn.port}?transport="
        urls = ["--turn-url", f"{at}udp", "--turn-url", f"{at}tcp"]
        with start_parley(*urls, "--turn-secret", coturn.secret, "--turn-min-ttl", "1") as started:
            yield started


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_a_call_between_two_tabs(context: BrowserContext, parley: Parley, transport: str) -> None:
    ada = Person(context, parley.url, "Ada", ONLY % transport)
    bo = Person(context, parley.url, "Bo", ONLY % transport)
    bo.join(ada.create_room())
    for person in (ada, bo):
        person.page.click("#relay")
    connect(ada, bo)
    for person in (ada, bo):
        person.sees_and_hears()
        measured = person.measure()
        assert (measured["local"], measured["relay"]) == ("relay", transport)
    for person in (ada, bo):
        person.leave()


def test_chromium_allocates_with_a_twilio_token_until_it_expires(
    context: BrowserContext, parley: Parley, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TWILIO_EDGE", "TWILIO_REGION"):
        monkeypatch.delenv(name, raising=False)
    client = Client(parley.account_sid, parley.auth_token)
    client.api.base_url = parley.url
    token = client.tokens.create(ttl=8)
    servers = [server for server in token.ice_servers if "transport=udp" in server["urls"]]
    page = context.new_page()
    page.goto(f"{parley.url}/healthz")
    accepted: dict[str, Any] = page.evaluate(LOOP, servers)
    assert accepted["data"] == "through coturn", accepted
    until = int(servers[0]["username"].partition(":")[0]) + 1
    deadline = time.monotonic() + 20
    while time.time() <= until:
        assert time.monotonic() < deadline
        page.wait_for_timeout(200)
    refused: dict[str, Any] = page.evaluate(LOOP, servers)
    assert (refused["candidates"], set(refused["errors"])) == (0, {401}), refused
