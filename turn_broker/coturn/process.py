"""A turnserver that the agent runs itself: started, started again when it dies, and ended.

Also keeps its log from growing without end: renames it and has coturn open it anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from pathlib import Path

FIRST_WAIT_S = 0.5
LAST_WAIT_S = 10.0
"""Before it is started again; back to the first after it has run so long."""
STOP_S = 5.0
LOOK_INTERVAL_S = 1.0

_log = logging.getLogger("parley.turn_broker")


class TurnserverProcess:
    """`run` it; ends, and turnserver with it, by being cancelled."""

    def __init__(self, program: str, config: Path, log: Path, max_log_bytes: int) -> None:
        self._command = (program, "-c", str(config))
        self._log_file = log
        self._max_log_bytes = max_log_bytes
        self.starts = 0

    async def run(self) -> None:
        """OSError when the program cannot be started at all."""
        loop = asyncio.get_running_loop()
        wait_s = FIRST_WAIT_S
        while True:
            began = loop.time()
            code = await self._run_once()
            if loop.time() - began > LAST_WAIT_S:
                wait_s = FIRST_WAIT_S
            _log.warning("turnserver ended", extra={"code": code, "again_in_s": wait_s})
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, LAST_WAIT_S)

    async def _run_once(self) -> int:
        self.starts += 1
        child = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the agent, which then ends it in order
        )
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    return await asyncio.wait_for(child.wait(), LOOK_INTERVAL_S)
                self._rotate(child)
        finally:
            await _end(child)

    def _rotate(self, child: asyncio.subprocess.Process) -> None:
        try:
            if self._log_file.stat().st_size < self._max_log_bytes:
                return
            self._log_file.replace(self._log_file.with_name(self._log_file.name + ".1"))
        except OSError:
            return
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(signal.SIGHUP)


async def _end(child: asyncio.subprocess.Process) -> None:
    if child.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        child.terminate()
    try:
        await asyncio.wait_for(child.wait(), STOP_S)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()
