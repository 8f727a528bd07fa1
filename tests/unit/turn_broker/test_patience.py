"""One timer limits many waits."""

from __future__ import annotations

import asyncio

import pytest

from turn_broker.fleet.patience import WATCH_S, Patience


async def test_what_comes_in_time_is_the_answer() -> None:
    patience = Patience(5)

    async def answer() -> int:
        await asyncio.sleep(0)
        return 7

    assert await patience.wait(answer()) == 7
    assert await asyncio.gather(*(patience.wait(answer()) for _ in range(3))) == [7, 7, 7]


async def test_errors_pass() -> None:
    async def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await Patience(5).wait(fail())


async def test_each_wait_ends_at_its_own_limit() -> None:
    limit_s = 2 * WATCH_S
    patience, loop = Patience(limit_s), asyncio.get_running_loop()

    async def waited_s() -> float:
        began = loop.time()
        with pytest.raises(TimeoutError):
            await patience.wait(asyncio.Event().wait())
        return loop.time() - began

    first = asyncio.create_task(waited_s())
    await asyncio.sleep(1.5 * WATCH_S)
    second = asyncio.create_task(waited_s())
    assert min(await asyncio.gather(first, second)) >= limit_s


async def test_it_watches_again_after_a_pause() -> None:
    patience = Patience(0.01)
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await patience.wait(asyncio.Event().wait())
        await asyncio.sleep(2 * WATCH_S)


async def test_who_is_slow_to_stop_is_told_once() -> None:
    told = 0

    async def stubborn() -> None:
        nonlocal told
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            told += 1
            await asyncio.sleep(3 * WATCH_S)
            raise

    with pytest.raises(TimeoutError):
        await Patience(0.01).wait(stubborn())
    assert told == 1


async def test_a_cancellation_is_no_timeout() -> None:
    patience = Patience(5)
    waiting = asyncio.create_task(patience.wait(asyncio.Event().wait()))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
