"""Many calls at once over a network that keeps breaking; the history says what became of them.

Each group of three devices (one of the caller, two of the callee) plays scene after scene while a
gremlin kills their sockets. PARLEY_LONG=1 plays 1,000 calls.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest
from history import History
from rtc import until
from scenes import Device, Group
from servers import Parley, start_parley

IS_LONG = os.environ.get("PARLEY_LONG") == "1"
CALLS = 1000 if IS_LONG else 60
GROUPS = 4
SEED = int(os.environ.get("PARLEY_SEED", "1"))
WINDOW_S = 5.0
BREAK_EVERY_S = 0.02
LEVELS = ("rooms", "sessions", "calls", "candidates_buffered", "candidate_buffer_bytes")


async def _gremlin(devices: Sequence[Device], dice: random.Random) -> None:
    while True:
        await asyncio.sleep(dice.random() * 2 * BREAK_EVERY_S)
        dice.choice(devices).break_line()


@pytest.fixture(scope="module")
def parley() -> Iterator[Parley]:
    with start_parley("--no-rate-limits", "--resume-window", str(WINDOW_S)) as parley:
        yield parley


@pytest.mark.timeout(1800 if IS_LONG else 180)
async def test_soak_calls(parley: Parley) -> None:
    history = History()
    groups = [Group(parley, history, number, SEED) for number in range(GROUPS)]
    devices = [device for group in groups for device in group.devices]
    for device in devices:
        await device.open()
    gremlin = asyncio.create_task(_gremlin(devices, random.Random(SEED)))
    to_play = iter(range(CALLS))

    async def play(group: Group) -> None:
        for _ in to_play:
            await group.play()

    try:
        async with asyncio.TaskGroup() as tasks:
            for group in groups:
                tasks.create_task(play(group))
    finally:
        gremlin.cancel()
        await asyncio.wait([gremlin])
        for device in devices:
            await device.close()

    verdict = history.verdict()
    played = sum((group.played for group in groups), Counter[str]())
    resumes = sum(device.resumes for device in devices)
    print(f"\n{dict(played)}, {verdict.arrived} messages, {resumes} resumes")  # noqa: T201
    assert verdict.is_good, verdict
    assert sum(played.values()) == CALLS
    assert resumes > CALLS
    assert verdict.arrived > 5 * CALLS
    assert sum(device.sessions_lost for device in devices) == 0
    await until(lambda: not any(parley.metric(f"signaling_{level}") for level in LEVELS))
