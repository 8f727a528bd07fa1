"""What a journal gives: letters that outlive a process that was killed, once each, in order."""

from __future__ import annotations

import asyncio
import secrets
import stat
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import jwt
import pytest
from links import Talker
from servers import Server, start_serve
from webhook_receiver import DEADLINE_S, SECRET, Receiver, status

from signal_server.backplane.facts import Fact
from signal_server.edge.webhook_journal import WebhookJournal
from signal_server.edge.webhook_post import WebhookPost
from signal_server.edge.webhook_queue import WebhookEndpoint, WebhookSettings
from signal_server.edge.webhooks import Webhooks

_KEY = secrets.token_hex(32)
CONFIG = f"""
[server]
port = 0
drain_s = 0

[turn]
secret = "{secrets.token_hex(32)}"
urls = ["turn:192.0.2.1:3478"]

[[accounts]]
sid = "AC{"0" * 32}"
auth_token = "{secrets.token_hex(32)}"
keys = [{{sid = "SK{"0" * 32}", secret = "{_KEY}"}}]
"""


def token(identity: str) -> str:
    claims = {"iss": f"AC{'0' * 32}", "aud": "parley", "sub": identity, "exp": time.time() + 600}
    return jwt.encode(claims, _KEY, algorithm="HS256", headers={"kid": f"SK{'0' * 32}"})


async def until_arrived(receiver: Receiver, number: int) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while len(receiver.arrived) < number:  # noqa: ASYNC110 - arrivals have no event
            await asyncio.sleep(0.01)


async def make_events(server: Server) -> None:
    """room.created and peer.joined, twice."""
    for room in ("one", "two"):
        talker = Talker(server.url, token(room))
        await talker.hello("websocket", room=room)
        await talker.sees("room")
        await talker.link.cut()


async def test_letters_survive_kill_9(tmp_path: Path) -> None:
    receiver = Receiver(choose=lambda _: status(503))
    await receiver.start()
    config = f"""{CONFIG}
[webhooks]
journal = "{tmp_path / "journal"}"
retry_first_s = 0.05
retry_longest_s = 0.1
endpoints = [{{url = "{receiver.url}", secrets = ["{SECRET}"]}}]
"""
    with start_serve(config) as server:
        await make_events(server)
        await until_arrived(receiver, 4)
        server.kill()
    refused = {each.headers["webhook-id"] for each in receiver.arrived}
    assert stat.S_IMODE((tmp_path / "journal").stat().st_mode) == 0o600

    receiver.arrived.clear()
    receiver.choose = None
    with start_serve(config) as server:
        await until_arrived(receiver, 4)
        server.process.terminate()
        await asyncio.to_thread(server.process.wait, DEADLINE_S)
    ids = [each.headers["webhook-id"] for each in receiver.arrived]
    assert len(ids) == len(set(ids)) == 4
    assert refused <= set(ids), "what was under way keeps its id: a receiver can tell"
    for room in ("one", "two"):
        events = [each.event for each in receiver.arrived if each.event["room"] == room]
        kinds = [(event["type"], event["sequence"]) for event in events]
        assert kinds == [("room.created", 1), ("peer.joined", 2)]

    receiver.arrived.clear()
    with start_serve(config):
        pass
    assert receiver.arrived == [], "what was delivered is not sent again"
    await receiver.stop()


def _joined(number: int) -> Fact:
    return Fact(
        kind="peer.joined", account="a", room="r", sequence=number, unix_ms=1, data={"n": number}
    )


@asynccontextmanager
async def sending(path: Path, endpoint: WebhookEndpoint) -> AsyncIterator[Webhooks]:
    """Tries once, and keeps two that died."""
    settings = WebhookSettings(endpoints=[endpoint], attempts=1, dead_events=2)
    post = WebhookPost(settings.endpoints, timeout_s=5)
    sender = Webhooks(settings, post, journal=WebhookJournal(str(path), settings.endpoints))
    sender.start()
    yield sender
    await sender.close(DEADLINE_S)
    await post.aclose()


async def test_the_dead_are_kept_and_bounded(tmp_path: Path) -> None:
    receiver = Receiver(choose=lambda _: status(503))
    await receiver.start()
    endpoint = WebhookEndpoint(url=receiver.url, secrets=[SECRET])
    path = tmp_path / "journal"
    async with sending(path, endpoint) as sender:
        for number in range(1, 5):
            sender.publish(_joined(number))
        await sender.delivered()
        assert len(sender.dead) == 2

    receiver.choose = None
    receiver.arrived.clear()
    async with sending(path, endpoint) as sender:
        assert [letter["sequence"] for letter in sender.dead] == [3, 4]
        assert sender.replay() == 2
        await sender.delivered()
    assert [each.event["sequence"] for each in receiver.arrived] == [3, 4]
    left = WebhookJournal(str(path), [endpoint])
    assert left.letters() == []
    left.close()
    await receiver.stop()


async def test_letters_of_an_endpoint_that_is_gone_are_dropped(tmp_path: Path) -> None:
    path = str(tmp_path / "journal")
    gone = WebhookEndpoint(url="http://127.0.0.1:9/", secrets=[SECRET])
    async with sending(Path(path), gone) as sender:
        sender.publish(_joined(1))
        await sender.delivered()
    journal = WebhookJournal(path, [WebhookEndpoint(url="http://other/", secrets=[SECRET])])
    assert journal.letters() == []
    journal.close()
    journal = WebhookJournal(path, [gone])
    assert journal.letters() == []
    journal.close()


def test_a_journal_that_cannot_be_written_prevents_the_start(tmp_path: Path) -> None:
    endpoint = f'{{url = "http://127.0.0.1:9/", secrets = ["{SECRET}"]}}'
    missing = tmp_path / "no" / "journal"
    config = f'{CONFIG}\n[webhooks]\njournal = "{missing}"\nendpoints = [{endpoint}]\n'
    with pytest.raises(AssertionError, match=r"webhooks\.journal"), start_serve(config):
        pass
