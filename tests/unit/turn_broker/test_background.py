"""Work that goes on while its owner is entered."""

from __future__ import annotations

import asyncio

import pytest

from turn_broker import background
from turn_broker.background import Background


class Worker(Background):
    def __init__(self, flaws: int = 0) -> None:
        self.flaws = flaws
        self.rounds = 0
        self.has_worked = asyncio.Event()

    async def _work(self) -> None:
        while True:
            self.rounds += 1
            if self.rounds <= self.flaws:
                raise ZeroDivisionError
            self.has_worked.set()
            await asyncio.sleep(0)


async def test_it_works_until_it_is_left() -> None:
    async with Worker() as worker:
        await worker.has_worked.wait()
    rounds = worker.rounds
    await asyncio.sleep(0)
    assert worker.rounds == rounds
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "Worker"]


async def test_a_flaw_of_ours_is_logged_and_the_work_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(background, "AGAIN_S", 0)
    async with Worker(flaws=2) as worker, asyncio.timeout(20):
        await worker.has_worked.wait()
    assert [record.message for record in caplog.records] == ["Worker stumbled"] * 2


async def test_without_work_of_its_own_it_says_so() -> None:
    with pytest.raises(NotImplementedError):
        await Background()._work()
