"""A program that the agent runs: started again, told of a rotated log, ended."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from turn_broker.coturn import process as module
from turn_broker.coturn.process import TurnserverProcess


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(module, "LOOK_INTERVAL_S", 0.02)
    monkeypatch.setattr(module, "STOP_S", 0.3)


@asynccontextmanager
async def running(folder: Path, script: str) -> AsyncIterator[TurnserverProcess]:
    """A script in place of turnserver. Python, for dash loses a signal that comes as it forks."""
    path = folder / "script"
    path.write_text(
        f"#!{sys.executable} -S\nimport os, signal\nos.chdir({str(folder)!r})\n{script}\n"
    )
    path.chmod(0o700)
    child = TurnserverProcess(str(path), folder / "c", folder / "log", max_log_bytes=100)
    task = asyncio.create_task(child.run())
    try:
        yield child
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the program tells by files
            await asyncio.sleep(0.01)


async def test_it_is_started_again_when_it_dies(tmp_path: Path) -> None:
    async with running(tmp_path, "os._exit(1)") as child:
        await until(lambda: child.starts >= 3)


WAITS = """
signal.signal(signal.SIGHUP, lambda *_: open("hups", "a").close())
signal.signal(signal.SIGTERM, lambda *_: (open("ended", "a").close(), os._exit(0)))
open("up", "a").close()
"""
DEAF = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open("up", "a").close()
"""
FOREVER = "while True: signal.pause()"


async def test_it_is_told_to_end_and_has_ended(tmp_path: Path) -> None:
    async with running(tmp_path, WAITS + FOREVER) as child:
        await until((tmp_path / "up").exists)
        assert child.starts == 1
    assert (tmp_path / "ended").exists()


async def test_one_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    async with running(tmp_path, DEAF + FOREVER):
        await until((tmp_path / "up").exists)


async def test_a_log_that_is_full_is_renamed_and_opened_anew(tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with running(tmp_path, WAITS + FOREVER):
        await until((tmp_path / "up").exists)
        log.write_bytes(b"x" * 99)
        await asyncio.sleep(0.1)
        assert log.exists()
        log.write_bytes(b"y" * 100)
        await until((tmp_path / "hups").exists)
        assert (tmp_path / "log.1").read_bytes() == b"y" * 100
        assert not log.exists()


async def test_a_program_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    child = TurnserverProcess("/no/such/program", tmp_path / "c", tmp_path / "log", 100)
    with pytest.raises(FileNotFoundError):
        await child.run()
