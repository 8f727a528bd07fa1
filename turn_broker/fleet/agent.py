"""The agent of one TURN node: carries out the fleet's orders, meters and cuts.

Joins the fleet, the TURN server's control and the guard, and decides nothing itself. It survives
the loss of either side: without the fleet it goes on with what it knows, without the TURN server
it tries again, and puts secrets and drain in force anew when the server is back.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field

from turn_broker.fleet.contract import REPORT_INTERVAL_S, Fleet, FleetUnavailable
from turn_broker.fleet.guard import Guard, GuardLimits, Reason, SessionCut
from turn_broker.fleet.messages import (
    MAX_LISTED_SESSIONS,
    Drain,
    NodeReport,
    Order,
    RealmSecrets,
    Revoke,
    UseSecrets,
)
from turn_broker.fleet.turn_control import ControlLost, SessionOpened, TurnControl

TICK_S = 0.5
CHARGE_INTERVAL_S = 1.0
LOOKUP_INTERVAL_S = 0.5
FIRST_RETRY_S = 0.2
LAST_RETRY_S = 5.0

_log = logging.getLogger("parley.turn_broker")


@dataclass(slots=True)
class AgentCounters:
    """Since the start."""

    cut: Counter[Reason] = field(default_factory=Counter)
    """Allocations by the reason for which they were ended."""
    control_lost: int = 0
    """Times that the TURN server could not be reached."""
    fleet_lost: int = 0
    """Calls that the fleet did not answer."""
    mistakes: int = 0
    """Exceptions that are flaws of ours."""


class NodeAgent:
    """Create it and `run` it; ends by being cancelled."""

    def __init__(
        self,
        node: str,
        fleet: Fleet,
        control: TurnControl,
        *,
        clock: Callable[[], float],
        limits: GuardLimits | None = None,
    ) -> None:
        """`clock` tells Unix seconds."""
        self.node = node
        self.guard = Guard(limits)
        self.counters = AgentCounters()
        self._fleet = fleet
        self._control = control
        self._clock = clock
        self._secrets: RealmSecrets | None = None
        self._in_force: tuple[str, ...] = ()
        self._version_in_force = 0
        self._is_to_drain: bool | None = None
        self._is_draining = False
        self._putting = asyncio.Lock()
        self._batch = ""
        self._changed = asyncio.Event()
        self._changed.set()
        self._opened = asyncio.Event()

    async def run(self) -> None:
        """Works until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._again(self._follow_sessions))
            tasks.create_task(self._again(self._follow_orders))
            tasks.create_task(self._every(TICK_S, self._tick))
            tasks.create_task(self._every(CHARGE_INTERVAL_S, self._settle))
            tasks.create_task(self._when(self._opened, LOOKUP_INTERVAL_S, self._look_up))
            tasks.create_task(self._when(self._changed, REPORT_INTERVAL_S, self._report))

    # The TURN server

    async def _follow_sessions(self) -> None:
        try:
            await self._put_in_force(anew=True)
            async with aclosing(self._control.events()) as events:
                async for event in events:
                    await self._cut(self.guard.handle(event, self._clock()))
                    if isinstance(event, SessionOpened):
                        self._opened.set()
        finally:
            self.guard.forget_sessions()

    async def _cut(self, cuts: Iterable[SessionCut]) -> int:
        """Ends them; how many there still were. One that fails is named again by the guard."""
        ended = 0
        for each in cuts:
            try:
                if await self._control.cut(each.session):
                    ended += 1
                    self.counters.cut[each.reason] += 1
            except ControlLost:
                self.counters.control_lost += 1
                break
        return ended

    async def _put_in_force(self, *, anew: bool = False) -> None:
        """Secrets and drain as they should be now; raises ControlLost."""
        async with self._putting:
            if anew:
                self._in_force, self._is_draining = (), False
                self._version_in_force = 0
            wanted = self._secrets
            if wanted is not None:
                accepted = wanted.accepted(self._clock())
                if accepted != self._in_force:
                    await self._control.set_secrets(accepted)
                self._in_force, self._version_in_force = accepted, wanted.version
            draining = self._is_to_drain
            if draining is not None and (anew or draining != self._is_draining):
                await self._control.drain(draining)
                self._is_draining = draining
        self._changed.set()

    # The fleet

    async def _follow_orders(self) -> None:
        async for order in self._fleet.orders(self.node):
            await self._obey(order)

    async def _obey(self, order: Order) -> None:
        if isinstance(order, Revoke):
            ended = await self._cut(self.guard.revoke(order.revocation, self._clock()))
            await self._fleet.answer(order.ticket, self.node, ended)
            return
        if isinstance(order, UseSecrets):
            self._secrets = order.secrets
        elif isinstance(order, Drain) and order.node == self.node:
            self._is_to_drain = order.on
        try:
            await self._put_in_force()
        except ControlLost:
            self.counters.control_lost += 1  # done when the sessions are followed again

    async def _tick(self) -> None:
        await self._cut(self.guard.tick(self._clock()))
        wanted = self._secrets
        if wanted is None or not self._in_force:
            return
        if wanted.accepted(self._clock()) != self._in_force:
            await self._put_in_force()

    async def _settle(self) -> None:
        """Charges what was used; the guard decides on the totals."""
        charges = self.guard.charges()
        if charges:
            self._batch = self._batch or secrets.token_hex(8)
            totals = await self._fleet.charge(charges, self._batch)
            self._batch = ""
            await self._cut(self.guard.charged(totals, self._clock()))
        scopes = tuple(self.guard.scopes())
        if scopes:
            used = await self._fleet.totals(scopes)
            await self._cut(self.guard.spent(used, self._clock()))

    async def _look_up(self) -> None:
        """Asks for the records of tokens that allocated; they may hold stricter terms."""
        for name in self.guard.lookups(self._clock()):
            record = await self._fleet.token(name)
            if record is not None:
                await self._cut(self.guard.learn(record, self._clock()))

    async def _report(self) -> None:
        await self._fleet.report(self.report())

    def report(self) -> NodeReport:
        """The node as it is now."""
        guard = self.guard
        return NodeReport(
            node=self.node,
            at=int(self._clock()),
            software=self._control.software,
            secrets_version=self._version_in_force,
            is_draining=self._is_draining,
            sessions=guard.live(MAX_LISTED_SESSIONS),
            live=len(guard),
            cut=self.counters.cut.total(),
            cuts={str(reason): count for reason, count in self.counters.cut.items()},
            doubted=self._control.doubted_records,
            sent_bytes=guard.sent_bytes,
            received_bytes=guard.received_bytes,
        )

    # Loops

    async def _again(self, follow: Callable[[], Awaitable[None]]) -> None:
        """Follows again when what it follows is lost, sooner after a long time of peace."""
        loop = asyncio.get_running_loop()
        wait_s = FIRST_RETRY_S
        while True:
            began = loop.time()
            await self._forgive(follow)
            if loop.time() - began > LAST_RETRY_S:
                wait_s = FIRST_RETRY_S
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, LAST_RETRY_S)

    async def _every(self, seconds: float, act: Callable[[], Awaitable[None]]) -> None:
        while True:
            await self._forgive(act)
            await asyncio.sleep(seconds)

    async def _when(
        self, happened: asyncio.Event, seconds: float, act: Callable[[], Awaitable[None]]
    ) -> None:
        """Acts when something happened, and every so often."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await happened.wait()
            happened.clear()
            await self._forgive(act)

    async def _forgive(self, act: Callable[[], Awaitable[None]]) -> None:
        try:
            await act()
        except ControlLost as flaw:
            self.counters.control_lost += 1
            _log.warning("TURN server lost", extra={"node": self.node, "reason": str(flaw)})
        except FleetUnavailable:
            self.counters.fleet_lost += 1
            _log.warning("fleet lost", extra={"node": self.node})
        except Exception:  # noqa: BLE001 - one flaw of ours must not end the control of a node
            self.counters.mistakes += 1
            _log.exception("agent stumbled", extra={"node": self.node})


@asynccontextmanager
async def start_agent(
    node: str,
    fleet: Fleet,
    control: TurnControl,
    *,
    clock: Callable[[], float],
    limits: GuardLimits | None = None,
) -> AsyncIterator[NodeAgent]:
    """An agent that runs as long as the block; closes `control` afterwards, not the fleet."""
    agent = NodeAgent(node, fleet, control, clock=clock, limits=limits)
    running = asyncio.create_task(agent.run())
    try:
        yield agent
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await control.close()
