"""A call through a whole deployment, seen from a client machine: run as a program by test_compose.

Standard input is a JSON object (url, account_sid, auth_token, tokens), standard output what was
found. Trust in the proxy's CA comes from SSL_CERT_FILE.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import httpx
from rtc import Media, meet, until

from signal_server.aiortc_link import CallSettings
from signal_server.aiortc_peer import AiortcPeer
from signal_server.client import SignalingClient

_DEADLINE_S = 30.0
Facts = dict[str, Any]


def _http(given: Facts) -> Facts:
    with httpx.Client(base_url=given["url"], timeout=10) as http:
        tokens = f"/2010-04-01/Accounts/{given['account_sid']}/Tokens.json"
        basic = (given["account_sid"], given["auth_token"])
        return {
            "healthz": http.get("/healthz").status_code,
            "metrics": http.get("/metrics").status_code,
            "insecure": http.get(given["url"].replace("https:", "http:")).status_code,
            "demo": http.get("/demo").status_code,
            "unauthorized": http.post(tokens, auth=(basic[0], "0" * 64)).status_code,
            "token_status": (answer := http.post(tokens, auth=basic)).status_code,
            "token": answer.json(),
        }


async def _call(given: Facts, token: Facts) -> Facts:
    """Two relay-only peers: one with the Twilio token's servers, one with those of signaling."""
    ws_url = given["url"].replace("https:", "wss:") + "/v1/signal"
    media = [Media("alice"), Media("bob")]
    twilio = CallSettings(ice_servers=token["ice_servers"], relay_only=True)
    first, second = given["tokens"]
    async with (
        SignalingClient(ws_url, first, room="blue") as alice,
        SignalingClient(ws_url, second, room="blue") as bob,
        AiortcPeer(alice, media[0], twilio) as caller,
        AiortcPeer(bob, media[1], CallSettings(relay_only=True)) as callee,
    ):
        await meet(caller, callee)
        link = await caller.call(bob.peer)
        await link.connected()
        await until(lambda: all(each.has_everything for each in media))
        ends = (link, callee.links[alice.peer])
        facts = {
            "identities": [alice.welcome.identity, bob.welcome.identity],
            "heard": [each.messages for each in media],
            "frames": [each.frames for each in media],
            "candidate_types": sorted({kind for end in ends for kind in _selected(end.pc)}),
        }
        for each in media:
            await each.close()
        return facts


def _selected(pc: Any) -> list[str]:
    """Types of both ends' candidates of the pair that carries the data."""
    connection = pc.sctp.transport.transport._connection
    pairs = connection._nominated.values()
    return [end.type for pair in pairs for end in (pair.local_candidate, pair.remote_candidate)]


async def _main() -> None:
    given = json.load(sys.stdin)
    facts = await asyncio.to_thread(_http, given)
    async with asyncio.timeout(_DEADLINE_S):
        facts |= await _call(given, facts["token"])
    json.dump(facts, sys.stdout)


if __name__ == "__main__":
    asyncio.run(_main())
