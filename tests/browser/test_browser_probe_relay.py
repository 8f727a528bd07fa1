"""ProbeClient's network test through real coturns: what is wrong with a relay, in one word."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from coturn import free_port, start_coturn
from playwright.sync_api import BrowserContext, Page
from probe_pages import SECRET, behind, page_of, states
from rtc import HOST_ADDRESS, needs_own_network
from servers import Parley, start_parley, start_serve

pytestmark = [pytest.mark.chromium, pytest.mark.coturn]

DIRECT_PEERS = """
[server]
port = 0
drain_s = 0
[cors]
origins = ["*"]
[turn]
secret = "{secret}"
urls = ["turn:127.0.0.1:{port}?transport=udp", "turn:127.0.0.1:{port}?transport=tcp"]
[probes]
allow_private_peers = true
[[accounts]]
sid = "AC00000000000000000000000000000001"
auth_token = "an-auth-token-that-nobody-ever-uses"
[[accounts.keys]]
sid = "SK00000000000000000000000000000001"
secret = "a-secret-of-a-key-that-signs-probe-tokens"
"""
"""A deployment whose own peers are not behind the relay, as `parley dev` has them."""


@pytest.fixture
def page(context: BrowserContext, parley: Parley) -> Iterator[Page]:
    with page_of(context, parley) as opened:
        yield opened


def test_coturn_carries_both_transports(context: BrowserContext, parley: Parley) -> None:
    with (
        start_coturn(secret=SECRET) as coturn,
        behind(coturn) as real,
        page_of(context, real) as page,
    ):
        result = page.evaluate("probes.testNetworkConnectivity()")
    assert states(result) == {
        "udp": ("passed", ""),
        "tcp": ("passed", ""),
        "tls": ("skipped", "not_offered"),
    }


def test_a_credential_that_is_wrong_and_one_that_is_old(
    context: BrowserContext, parley: Parley
) -> None:
    with (
        start_coturn(secret=SECRET) as coturn,
        behind(coturn, secret=SECRET[::-1]) as real,
        page_of(context, real) as page,
    ):
        wrong = page.evaluate("probes.testNetworkConnectivity()")
        call = page.evaluate(
            "camera().then((videoTrack) => probes.testPeerToPeerCallQuality({ videoTrack }))"
        )
        username = f"{int(time.time()) - 60}:old"
        digest = hmac.digest(coturn.secret.encode(), username.encode(), hashlib.sha1)
        old = page.evaluate(
            """async (credential) => {
          const aged = async (...request) => {
            const body = await (await fetch(...request)).json();
            const servers = Object.values(body.ice_servers ?? {}).flat();
            for (const server of servers) Object.assign(server, credential);
            return new Response(JSON.stringify(body));
          };
          return client({ fetch: aged }).testNetworkConnectivity();
        }""",
            {"username": username, "credential": base64.b64encode(digest).decode()},
        )
    assert (wrong["result"], wrong["reason"]) == ("failed", "credential_rejected")
    assert [one["code"] for one in wrong["transports"]] == [401, 401, 0]
    assert wrong["durationMs"] < 3000, "Chromium goes on gathering over UDP; the test does not"
    assert wrong["verdict"]["text"] == "The relay does not accept the server's credentials."
    assert (call["result"], call["reason"]) == ("failed", "credential_rejected")
    assert call["errorMsg"] == "The relay does not accept the credential."
    assert (old["result"], old["reason"]) == ("failed", "credential_expired")


def test_tcp_only_and_no_relay_at_all(context: BrowserContext, parley: Parley, page: Page) -> None:
    """Two clients at once; a closed UDP port answers a browser nothing."""
    closed = f"turn:127.0.0.1:{free_port()}?transport="
    with ExitStack() as stack:
        coturn = stack.enter_context(start_coturn(secret=SECRET))
        tcp = f"turn:127.0.0.1:{coturn.port}?transport=tcp"
        deployments = [
            stack.enter_context(
                start_parley("--turn-url", one, "--turn-url", other, "--turn-secret", coturn.secret)
            ).url
            for one, other in ((f"{closed}udp", tcp), (f"{closed}udp", f"{closed}tcp"))
        ]
        partly, none = page.evaluate(
            """(urls) => Promise.all(
              urls.map((baseUrl) => client({ baseUrl }).testNetworkConnectivity()))""",
            deployments,
        )
    assert (partly["result"], partly["reason"]) == ("passed", "")
    assert states(partly)["udp"] == ("failed", "unreachable")
    assert states(partly)["tcp"] == ("passed", "")
    assert "This network blocks UDP" in partly["verdict"]["text"]
    assert (none["result"], none["reason"]) == ("failed", "unreachable")
    assert {ask["protocol"] for ask in none["verdict"]["asks"]} == {"UDP", "TCP"}


@needs_own_network
def test_a_relay_that_cannot_reach_itself_is_told_from_one_that_reaches_nobody(
    context: BrowserContext, parley: Parley, page: Page
) -> None:
    itself = "denied-peer-ip=127.0.0.0-127.255.255.255"
    with ExitStack() as stack:
        urls = []
        for extra in ([itself], [itself, f"denied-peer-ip={HOST_ADDRESS}"]):
            coturn = stack.enter_context(start_coturn(secret=SECRET, extra=extra))
            config = DIRECT_PEERS.format(port=coturn.port, secret=coturn.secret)
            urls.append(stack.enter_context(start_serve(config)).url)
        hairpin, denied, aborted = page.evaluate(
            """async ([hairpin, denied]) => {
          const aborted = client({ baseUrl: hairpin });
          const onProgress = atStep("server", () => aborted.abortTestNetworkConnectivity());
          return Promise.all([
            client({ baseUrl: hairpin }).testNetworkConnectivity(),
            client({ baseUrl: denied }).testNetworkConnectivity(),
            aborted.testNetworkConnectivity(null, { onProgress }),
          ]);
        }""",
            urls,
        )
    assert (hairpin["result"], hairpin["reason"]) == ("passed", "hairpin"), hairpin
    assert states(hairpin)["tcp"] == ("warning", "hairpin")
    assert {one["via"] for one in hairpin["transports"]} == {"server", None}
    assert (denied["result"], denied["reason"]) == ("failed", "peer_denied"), denied
    assert denied["verdict"]["asks"] == []
    assert aborted["result"] == "aborted"
