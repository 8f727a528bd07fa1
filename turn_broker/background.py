"""Work that goes on while its owner is entered, as an async context manager.

It does not know what the work is.
"""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType
from typing import Self

AGAIN_S = 1.0
"""After a flaw of ours."""

log = logging.getLogger("parley.turn_broker")


class Background:
    """Its heirs say what `_work` is; it goes on until it is cancelled."""

    _task: asyncio.Task[None] | None = None

    async def _work(self) -> None:
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._go_on(), name=type(self).__name__)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _go_on(self) -> None:
        while True:
            try:
                await self._work()
            except Exception:
                log.exception("%s stumbled", type(self).__name__)
                await asyncio.sleep(AGAIN_S)
