"""Which address a client tries: nearest first, then the rest, and where the server sends it."""

from __future__ import annotations

import asyncio

import pytest

from signal_server import client_addresses
from signal_server.client_addresses import Addresses, nearest_first, ping_url

A, B, C = (f"ws://{host}/v1/signal" for host in "abc")


class Rounds:
    """Answers in no time for those in `near`; `asked` in order."""

    def __init__(self, *near: str) -> None:
        self.near = near
        self.asked: list[str] = []

    async def __call__(self, url: str) -> float:
        self.asked.append(url)
        if url not in self.near:
            raise OSError("nobody")
        return 0.01


async def test_one_address_is_never_measured() -> None:
    rounds = Rounds(A)
    for urls in (A, [A]):
        addresses = Addresses(urls, rounds)
        assert await addresses.nearest() == A
        assert addresses.failed() is False
        addresses.sent_away(None)
        assert await addresses.nearest() == A
    assert rounds.asked == []
    with pytest.raises(ValueError, match="address"):
        Addresses([])


async def test_every_address_is_tried_once_then_they_are_measured_again() -> None:
    rounds = Rounds(B)
    addresses = Addresses([A, B, C], rounds)
    tried = [await addresses.nearest()]
    while addresses.failed():
        tried.append(await addresses.nearest())
    assert tried == [B, A, C]
    assert len(rounds.asked) == 3
    rounds.near = (C,)
    assert await addresses.nearest() == C
    assert len(rounds.asked) == 6


async def test_after_a_loss_the_nearest_is_tried_first() -> None:
    addresses = Addresses([A, B], Rounds(A))
    await addresses.nearest()
    assert addresses.failed()
    assert await addresses.nearest() == B
    addresses.lost()
    assert await addresses.nearest() == A


async def test_whoever_is_sent_away_goes_to_the_next_or_where_it_is_sent() -> None:
    addresses = Addresses([A, B], Rounds(A))
    await addresses.nearest()
    addresses.sent_away(None)
    addresses.lost()
    assert await addresses.nearest() == B
    addresses.sent_away("wss://d/v1/signal")
    addresses.lost()
    assert await addresses.nearest() == "wss://d/v1/signal"
    assert addresses.failed()
    assert await addresses.nearest() == A
    addresses.lost()
    assert await addresses.nearest() == A


@pytest.mark.parametrize(
    ("here", "there", "is_taken"),
    [
        ("wss://a/v1/signal", "ws://d/v1/signal", False),
        ("wss://a/v1/signal", "wss://d/v1/signal", True),
        ("ws://a/v1/signal", "ws://d/v1/signal", True),
        ("ws://a/v1/signal", "http://d/v1/signal", False),
    ],
)
async def test_where_a_client_lets_itself_be_sent(here: str, there: str, is_taken: bool) -> None:
    addresses = Addresses(here)
    addresses.sent_away(there)
    assert await addresses.nearest() == (there if is_taken else here)


async def test_who_is_slow_or_silent_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_addresses, "LEAST_S", 0.01)
    monkeypatch.setattr(client_addresses, "LIMIT_S", 600)
    never = asyncio.Event()

    async def measure(url: str) -> float:
        if url == A:
            await never.wait()
        await asyncio.sleep(0)
        return {B: 0.2, C: 0.1}[url]

    async with asyncio.timeout(20):
        assert await nearest_first([A, B, C], measure) == [C, B, A]
    monkeypatch.setattr(client_addresses, "LIMIT_S", 0.01)
    assert await nearest_first([A], measure) == [A]


def test_where_pings_are_answered() -> None:
    assert ping_url("ws://a:1/v1/signal") == "http://a:1/v1/probes/ping"
    assert ping_url("wss://a/base/v1/signal") == "https://a/base/v1/probes/ping"
