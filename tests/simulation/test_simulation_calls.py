"""Devices that call each other and negotiate in virtual time, over links that break.

They invite, ring, accept on several devices, reject, cancel and hang up; in a call both sides offer
(glare), restart ICE and trickle candidates. Judged by what devices are told, not by the server's
tables: one answer for each call, one end for each who knew of it, snapshots without ghosts.
PARLEY_LONG=1 runs 1,000 seeds.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import pytest
from history import Item
from simulated import SimClient, World, assert_goes_on_elsewhere
from switchboard_driver import sdp

from signal_server.wire import call_messages as c
from signal_server.wire import messages as wire
from signal_server.wire.base import Request
from signal_server.wire.candidate import CandidateInit
from signal_server.wire.receipts import Stage
from signal_server.wire.sdp import outline

SEEDS = 1000 if os.environ.get("PARLEY_LONG") == "1" else 25
IDENTITIES = ("ann", "ann", "bob", "bob", "cid", "cid")
MEDIA = c.CallMedia(audio=True)
_ENDS = c.CallReject | c.CallCancel | c.CallHangup


class Device(SimClient):
    """Of its calls it knows only what it was told."""

    expected_refusals = (
        *("not_found", "wrong_state", "stale_negotiation", "stale_generation"),
        *("candidate_after_end", "limit_exceeded", "conflict", "glare", "buffer_full"),
    )

    def __init__(self, world: Calling, name: str) -> None:
        self.calling = world
        self.calls: dict[str, str] = {}
        """`placed`, `rings`, `active`, by call."""
        self.ends: Counter[tuple[str, str]] = Counter()
        """How often this device learned of a call's end, by own session and call."""
        self.partner = ""
        self.ufrag = ""
        self.relayed = False
        """The description with the present ufrag is in the partner's log."""
        self.offers: list[wire.RelayedOffer] = []
        """Not answered yet."""
        self.described: set[tuple[str, str, str | None]] = set()
        """What descriptions have come: own peer, sender and ufrag."""
        self.resumed_calls: set[str] | None = None
        self.calls_asked = 0
        """Requests about calls that have no answer yet."""
        super().__init__(world, name)

    # Of its own accord -----------------------------------------------------------------------

    def act(self) -> None:
        dice = self.world.dice
        if not self.world.is_busy:
            self._wind_up()
            return
        placed, rings, active = (
            [call for call, state in self.calls.items() if state == wanted]
            for wanted in ("placed", "rings", "active")
        )
        what = dice.random()
        if active:
            if what < 0.05:
                self._end(c.CallHangup(call=active[0]))
            elif self.partner in self.roster.peers:
                self._negotiate(what)
        elif rings:
            if what < 0.2:
                self._about(c.CallRinging(call=rings[0]))
            elif what < 0.5:
                self._about(c.CallAccept(call=rings[0], media=MEDIA))
            elif what < 0.55:
                self._end(c.CallReject(call=rings[0]))
        elif placed:
            if what < 0.05:
                self._end(c.CallCancel(call=placed[0]))
        elif what < 0.3 and not self.calls_asked:
            to = dice.choice([name for name in IDENTITIES if name != self.name])
            self._about(c.CallInvite(to=to, media=MEDIA, lifetime_s=dice.uniform(5, 20)))

    def _wind_up(self) -> None:
        for call, state in self.calls.items():
            if not self.calls_asked:
                ends = {"active": c.CallHangup, "placed": c.CallCancel, "rings": c.CallReject}
                self._end(ends[state](call=call))

    def _about(self, request: Request) -> None:
        self.calls_asked += 1
        self.ask(request)

    def _end(self, request: Request) -> None:
        if not self.calls_asked:
            self._about(request)

    def _negotiate(self, what: float) -> None:
        if self.offers and what < 0.6:
            offer = self.offers.pop()
            self._describe("answer", offer.negotiation, restarts=what < 0.3)
        elif what < 0.25:
            self._describe("offer", None, restarts=what < 0.15)
        elif what < 0.8 and self.ufrag:
            mark = f"candidate:{next(self.world.marks)} 1 udp 1 192.0.2.1 9 typ host"
            init = CandidateInit(candidate=mark, sdpMid="0", usernameFragment=self.ufrag)
            lane = f"candidates of {self.ufrag}"
            item = self._item(lane, mark)
            if not self.relayed:
                self.calling.maybe_held.add(item)
            self.ask(wire.Candidate(to=self.partner, candidate=init), item)

    def _describe(self, kind: str, negotiation: int | None, *, restarts: bool) -> None:
        mark = f"m{next(self.world.marks)}"
        if restarts or not self.ufrag:
            self.ufrag, self.relayed = mark, False
        text = f"{sdp(('0', self.ufrag))}a=mark:{mark}\r\n"
        item = self._item("descriptions", mark)
        if kind == "offer":
            self.ask(wire.Offer(to=self.partner, sdp=text), item)
        else:
            self.ask(wire.Answer(to=self.partner, sdp=text, negotiation=negotiation), item)

    def _item(self, lane: str, mark: str) -> Item:
        assert self.session is not None
        history = self.world.history
        return history.asks(self.session.peer, self.partner, lane, mark)

    # Told ------------------------------------------------------------------------------------

    def began(self) -> None:
        self.calls.clear()
        self.offers.clear()
        self.partner, self.ufrag, self.calls_asked = "", "", 0
        self.resumed_calls = None

    def back(self, resumed: wire.Resumed) -> None:
        self.resumed_calls = {call.call for call in resumed.calls}
        self._compare()

    def _compare(self) -> None:
        """Once everything missed has arrived, the snapshot of the calls is what is known."""
        assert self.session is not None
        if self.resumed_calls is not None and self.session.has_caught_up:
            if not self.calls_asked:
                assert self.resumed_calls == set(self.calls), "a ghost, or a call that was lost"
                self.calling.compared += 1
            self.resumed_calls = None

    def heard(self, message: Any) -> None:
        assert self.session is not None
        me, history = self.session.peer, self.world.history
        if isinstance(message, c.CallInvited):
            self.calls[message.call] = "rings"
        elif isinstance(message, c.CallAccepted):
            self.calls[message.call] = "active"
            history.answers(message.call, message.device)
            self.calling.answered.add(message.call)
            self.partner = message.device if message.sender == me else message.sender
            self.ufrag = ""
            self.offers.clear()
        elif isinstance(message, c.CallEnded):
            self._over(message.call)
        elif isinstance(message, wire.RelayedOffer | wire.RelayedAnswer):
            history.arrives(me, message.sender, message.sdp.rpartition("a=mark:")[2].strip())
            self.described.add((me, message.sender, outline(message.sdp).ufrags[0]))
            if isinstance(message, wire.RelayedOffer) and message.sender == self.partner:
                self.offers.append(message)
                self.calling.offers += 1
        elif isinstance(message, wire.RelayedCandidates):
            for candidate in message.candidates:
                history.arrives(me, message.sender, str(candidate.candidate))
                self.calling.candidates += 1
                named = (me, message.sender, candidate.usernameFragment)
                assert named in self.described, "a candidate before its description"
        self._compare()

    def _over(self, call: str) -> None:
        assert self.session is not None
        self.ends[self.session.id, call] += 1
        if self.calls.pop(call, "") == "active":
            self.partner, self.ufrag = "", ""
            self.offers.clear()

    def answered(self, request: Request, reply: wire.Ok | wire.Error) -> None:
        if isinstance(request, wire.Offer | wire.Answer) and isinstance(reply, wire.Ok):
            self.relayed |= outline(request.sdp).ufrags == (self.ufrag,)
        if not isinstance(request, c.CallInvite | c.CallRinging | c.CallAccept | _ENDS):
            return
        self.calls_asked -= 1
        if isinstance(reply, wire.Error):
            return
        if isinstance(request, _ENDS):
            # Who ends a call is told by the answer, everybody else by `call_ended`.
            self._over(request.call)
        elif isinstance(request, c.CallInvite):
            assert reply.call is not None
            assert self.session is not None
            # What is told in the log may overtake an answer that was lost and is given again.
            if not self.ends[self.session.id, reply.call]:
                self.calls.setdefault(reply.call, "placed")
            self.calling.placed.add(reply.call)

    def promised(self, item: Item) -> None:
        """A candidate that is held may die with its generation; one in the log may not."""
        if item not in self.calling.maybe_held:
            item.promised()


class Calling(World):
    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.placed: set[str] = set()
        self.answered: set[str] = set()
        self.maybe_held: set[Item] = set()
        self.compared = self.offers = self.candidates = 0
        self.clients = [Device(self, name) for name in IDENTITIES]


def play(seed: int) -> Calling:
    world = Calling(seed)
    world.run()
    return world


@pytest.mark.parametrize("seed", range(SEEDS))
def test_simulation_calls(seed: int) -> None:
    world = play(seed)
    verdict = world.history.verdict()
    assert verdict.is_good, verdict
    assert world.answered
    assert len(world.board.calls) == 0, "no call is left behind"
    for device in world.clients:
        assert device.calls == {}, device.name
        assert device.calls_asked == 0
        twice = {call for call, times in device.ends.items() if times > 1}
        assert not twice, "the end was told twice"
    world.everybody_vanishes()
    board = world.board
    assert board.sessions.by_id == {}
    assert board.rooms == {}
    assert board.tally.candidates_held == board.tally.held_bytes == 0
    assert (len(board._end_agenda), len(board.sessions.agenda)) == (0, 0)


def test_simulation_calls_meet_what_they_are_there_for() -> None:
    worlds = [play(seed) for seed in range(8)]
    assert sum(len(world.placed) for world in worlds) > 100
    assert sum(len(world.answered) for world in worlds) > 50
    assert sum(world.compared for world in worlds) > 50, "snapshots against what was told"
    assert sum(world.offers for world in worlds) > 100
    assert sum(world.candidates for world in worlds) > 100
    for mode in (0, 1):
        assert sum(world.board.tally.glare for world in worlds[mode::2]) > 5
    told = [stages for world in worlds for each in world.clients for stages in each.told.values()]
    assert {stages[-1] for stages in told} == set(Stage)
    assert sum(device.resumes for world in worlds for device in world.clients) > 100


def test_simulation_of_calls_goes_on_in_another_process() -> None:
    assert_goes_on_elsewhere(play(1))
