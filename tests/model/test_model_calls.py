"""Calls against a naive oracle, and against what each device believes from its messages alone.

The oracle keeps every call in one list and finds out everything by looking through it. A device
believes a call to be its own from the invite until it is told, or says itself, that it is over;
after every step that must be exactly what its snapshot shows. PARLEY_LONG=1 runs 100k steps.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from signal_server.core import call_outcomes as out
from signal_server.core.call import CallLimits, Party
from signal_server.core.calls import Calls, Verdict
from signal_server.wire import call_messages as m
from signal_server.wire.call_messages import CallMedia, HangupReason, RejectReason
from signal_server.wire.codec import Refusal
from signal_server.wire.codes import ErrorCode

IS_LONG = os.environ.get("PARLEY_LONG") == "1"
LIMITS = CallLimits(
    lifetime_s=8.0,
    lifetime_max_s=20.0,
    identities_per_call=2,
    devices_per_identity=2,
    placed_per_identity=3,
    incoming_per_identity=3,
    calls_per_node=6,
    early_items=3,
    early_bytes=20,
    early_bytes_per_node=30,
    events_per_call=5,
    ended_calls=4,
)
DEVICES = [
    Party(account, identity, f"{account}{identity}{number}")
    for account, identities in (("x", "abc"), ("y", "ab"))
    for identity in identities
    for number in (1, 2, 3)
]
MEDIA = [CallMedia(audio, video) for audio in (True, False) for video in (True, False)]

devices = st.sampled_from(DEVICES)
picks = st.integers(0, 10**6)
media = st.sampled_from(MEDIA)
wild = st.sampled_from([False] * 7 + [True])


@dataclass(eq=False)
class Record:
    """What the oracle remembers of a call, for ever."""

    id: str
    caller: Party
    invited: list[str]
    media: CallMedia
    deadline: float
    rung: dict[Party, str] = field(default_factory=dict)
    """What each device that has the invite did with it."""
    said: list[tuple[str, str]] = field(default_factory=list)
    """Identities that are out of it, and why."""
    reached: set[str] = field(default_factory=set)
    pushed: set[str] = field(default_factory=set)
    busy: set[str] = field(default_factory=set)
    early: list[tuple[int, int]] = field(default_factory=list)
    has_rung: bool = False
    callee: Party | None = None
    reason: str | None = None

    @property
    def is_pending(self) -> bool:
        return self.reason is None and self.callee is None

    @property
    def is_active(self) -> bool:
        return self.reason is None and self.callee is not None

    def still_asked(self) -> list[str]:
        return [who for who in self.invited if who not in [other for other, _ in self.said]]

    def ringing(self) -> list[Party]:
        if not self.is_pending:
            return []
        return [d for d, did in self.rung.items() if did in ("invited", "ringing")]

    def concerns(self, device: Party) -> bool:
        if self.is_active:
            return device in (self.caller, self.callee)
        return self.is_pending and (device == self.caller or device in self.ringing())


Said = ErrorCode | list[str]


class Oracle:
    """The rules once more, without any table."""

    def __init__(self) -> None:
        self.online: list[Party] = []
        self.calls: list[Record] = []
        self.over: list[Record] = []

    # What holds

    def live(self) -> list[Record]:
        return [call for call in self.calls if call.reason is None]

    def early_size(self) -> int:
        return sum(size for c in self.calls if c.is_pending for _, size in c.early)

    def asks(self, call: Record, account: str, identity: str) -> bool:
        here = call.is_pending and call.caller.account == account
        return here and identity in call.still_asked()

    def find(self, device: Party, call_id: str) -> Record | ErrorCode:
        for call in reversed(self.calls):
            if call.id == call_id and call.caller.account == device.account:
                if call.reason is None:
                    return call
                known = call in self.over[-LIMITS.ended_calls :]
                return ErrorCode.WRONG_STATE if known else ErrorCode.NOT_FOUND
        return ErrorCode.NOT_FOUND

    # What is done

    def invite(
        self, caller: Party, call_id: str, to: list[str], wants: CallMedia, deadline: float
    ) -> Said:
        to = sorted(set(to), key=to.index)
        known = [c.id for c in [*self.live(), *self.over[-LIMITS.ended_calls :]]]
        placed = [c for c in self.live() if c.caller[:2] == caller[:2]]
        if len(to) > LIMITS.identities_per_call:
            return ErrorCode.LIMIT_EXCEEDED
        if caller not in self.online:
            return ErrorCode.WRONG_STATE
        if call_id in known:
            return ErrorCode.CONFLICT
        if len(self.live()) >= LIMITS.calls_per_node or len(placed) >= LIMITS.placed_per_identity:
            return ErrorCode.LIMIT_EXCEEDED
        for who in to:
            waiting = [c for c in self.calls if self.asks(c, caller.account, who)]
            if len(waiting) >= LIMITS.incoming_per_identity:
                return ErrorCode.LIMIT_EXCEEDED
        call = Record(call_id, caller, to, wants, deadline)
        rings: list[Party] = []
        for who in to:
            live = [d for d in self.online if d[:2] == (caller.account, who) and d != caller]
            rings += live[-LIMITS.devices_per_identity :]
        rivals = [c for c in self.calls if caller in c.ringing() and c.caller in rings]
        self.calls.append(call)
        if rivals:
            rival = min(rivals, key=lambda c: c.id)
            kept, lost = sorted((call, rival), key=lambda c: c.id)
            told = [f"+{call_id}", *self._end(lost, "answered_elsewhere", None, see=kept.id)]
            return told + self._answer(kept, lost.caller, lost.media)
        told = [f"+{call_id}"]
        for device in rings:
            told.append(self._ring(call, device))
        for who in to:
            told += self._push(call, who)
        return told

    def ring(self, device: Party, call_id: str) -> Said:
        call = self._invited(device, call_id)
        if isinstance(call, ErrorCode):
            return call
        call.has_rung = True
        if call.rung[device] == "ringing":
            return []
        call.rung[device] = "ringing"
        return [f"{call.caller.peer} ringing {call.id} {device.peer}"]

    def accept(self, device: Party, call_id: str, takes: CallMedia | None) -> Said:
        found = self.find(device, call_id)
        if isinstance(found, Record) and found.callee == device:
            return []
        call = self._invited(device, call_id)
        return call if isinstance(call, ErrorCode) else self._answer(call, device, takes)

    def reject(self, device: Party, call_id: str, reason: str) -> Said:
        call = self._invited(device, call_id)
        if isinstance(call, ErrorCode):
            return call
        call.rung[device] = reason
        same = [d for d in call.ringing() if d.identity == device.identity]
        if reason == "busy":
            call.busy.add(device.identity)
            if same:
                return []
        return self._out(call, device, reason, same)

    def cancel(self, device: Party, call_id: str) -> Said:
        call = self.find(device, call_id)
        if isinstance(call, ErrorCode):
            return call
        if device != call.caller:
            return ErrorCode.FORBIDDEN
        return self._end(call, "canceled", device)

    def hangup(self, device: Party, call_id: str, reason: str) -> Said:
        call = self.find(device, call_id)
        if isinstance(call, ErrorCode):
            return call
        if device not in (call.caller, call.callee):
            return ErrorCode.FORBIDDEN
        return self._end(call, reason, device) if call.is_active else ErrorCode.WRONG_STATE

    def early(self, device: Party, call_id: str, item: int, size: int) -> Said:
        call = self.find(device, call_id)
        if isinstance(call, ErrorCode):
            return call
        if device != call.caller:
            return ErrorCode.FORBIDDEN
        if not call.is_pending:
            return ErrorCode.WRONG_STATE
        sizes = [each for _, each in call.early] + [size]
        if len(sizes) > LIMITS.early_items or sum(sizes) > LIMITS.early_bytes:
            return ErrorCode.BUFFER_FULL
        if self.early_size() + size > LIMITS.early_bytes_per_node:
            return ErrorCode.BUFFER_FULL
        call.early.append((item, size))
        return []

    def come(self, device: Party) -> list[str]:
        if device in self.online:
            return []
        self.online.append(device)
        told = []
        for call in self.calls:
            if self.asks(call, device.account, device.identity):
                same = [d for d in call.ringing() if d.identity == device.identity]
                if len(same) < LIMITS.devices_per_identity:
                    told.append(self._ring(call, device))
        return told

    def go(self, device: Party, kicked: bool) -> list[str]:
        if device not in self.online:
            return []
        told: list[str] = []
        for call in [c for c in self.calls if c.concerns(device)]:
            if call.is_active:
                told += self._end(call, "kicked" if kicked else "unreachable", device)
            elif call.caller == device:
                told += self._end(call, "kicked" if kicked else "canceled", device)
            else:
                call.rung[device] = "gone"
                same = [d for d in call.ringing() if d.identity == device.identity]
                if same:
                    continue
                if device.identity in call.busy:
                    told += self._out(call, device, "busy", [])
                else:
                    told += self._push(call, device.identity)
        self.online.remove(device)
        return told

    def time(self, now: float) -> list[str]:
        told: list[str] = []
        due = [c for c in self.calls if c.is_pending and c.deadline <= now]
        for call in sorted(due, key=lambda c: c.deadline):
            reasons = [reason for _, reason in call.said]
            if set(call.still_asked()) & call.reached:
                reason = "no_answer"
            elif "declined" in reasons:
                reason = "declined"
            else:
                reason = reasons[0] if reasons else "unreachable"
            told += self._end(call, reason, None)
        return told

    # What follows from it

    def _invited(self, device: Party, call_id: str) -> Record | ErrorCode:
        call = self.find(device, call_id)
        if isinstance(call, ErrorCode):
            return call
        if device.identity not in call.invited and device != call.callee:
            return ErrorCode.FORBIDDEN
        if device == call.caller:
            return ErrorCode.FORBIDDEN
        return call if device in call.ringing() else ErrorCode.WRONG_STATE

    def _ring(self, call: Record, device: Party) -> str:
        call.rung[device] = "invited"
        call.reached.add(device.identity)
        parties = [p[:2] for c in self.calls if c.is_active for p in (c.caller, c.callee) if p]
        waiting = " waiting" * (device[:2] in parties)
        return f"{device.peer} invite {call.id} {call.caller.peer}{waiting}"

    def _push(self, call: Record, who: str) -> list[str]:
        if who in call.pushed or [d for d in call.ringing() if d.identity == who]:
            return []
        call.pushed.add(who)
        return [f"push {call.id} {who}"]

    def _out(self, call: Record, by: Party, reason: str, same: list[Party]) -> list[str]:
        told = [f"{d.peer} ended {call.id} {reason} {by.peer}" for d in same]
        for device in same:
            call.rung[device] = "told"
        call.said.append((by.identity, reason))
        if call.still_asked():
            return told
        reasons = [each for _, each in call.said]
        return told + self._end(call, "declined" if "declined" in reasons else "busy", by)

    def _answer(self, call: Record, callee: Party, takes: CallMedia | None) -> list[str]:
        told = []
        for device in call.ringing():
            if device != callee:
                by = callee.peer if device.identity == callee.identity else ""
                told.append(f"{device.peer} ended {call.id} answered_elsewhere {by}".rstrip())
        call.callee = callee
        if takes is not None:
            call.media = CallMedia(
                audio=takes.audio and call.media.audio, video=takes.video and call.media.video
            )
        early = [item for item, _ in call.early]
        return [
            *told,
            *(f"{d.peer} accepted {call.id} {callee.peer}" for d in (call.caller, callee)),
            f"{call.id}: {call.caller.peer}={callee.peer} {call.media} {early}",
        ]

    def _end(self, call: Record, reason: str, by: Party | None, see: str = "") -> list[str]:
        concerned = [call.caller, *([call.callee] if call.callee else []), *call.ringing()]
        tail = f"{reason} {by.peer if by else ''} {see}".rstrip()
        call.reason = reason
        self.over.append(call)
        told = [f"{d.peer} ended {call.id} {tail}" for d in concerned if d != by]
        return [*told, f"-{call.id} {reason}"]


def word(outcome: out.Outcome) -> str:
    match outcome:
        case out.Notify(peer, m.CallInvited() as it):
            return f"{peer} invite {it.call} {it.sender}{' waiting' * it.waiting}"
        case out.Notify(peer, m.CallRings() as it):
            return f"{peer} ringing {it.call} {it.device}"
        case out.Notify(peer, m.CallAccepted() as it):
            return f"{peer} accepted {it.call} {it.device}"
        case out.Notify(peer, m.CallEnded() as it):
            tail = f"{it.reason} {it.device or ''} {it.replaced_by or ''}".rstrip()
            return f"{peer} ended {it.call} {tail}"
        case out.Invited():
            return f"+{outcome.call}"
        case out.PushRequested():
            return f"push {outcome.call} {outcome.identity}"
        case out.Paired():
            pair = f"{outcome.caller.peer}={outcome.callee.peer}"
            return f"{outcome.call}: {pair} {outcome.media} {list(outcome.early)}"
        case out.Over():
            return f"-{outcome.call} {outcome.reason}"
    raise AssertionError(outcome)


class Beliefs:
    """What each live device makes of its messages; checks that they can be made sense of."""

    def __init__(self) -> None:
        self.of: dict[str, dict[str, str]] = {}
        self.begun: list[str] = []
        self.ended: list[str] = []

    def take(self, outcomes: Iterable[out.Outcome]) -> None:
        for outcome in outcomes:
            match outcome:
                case out.Notify(peer, message):
                    self._told(self.of[peer], message)
                case out.Invited():
                    self.begun.append(outcome.call)
                    self.of[outcome.caller.peer][outcome.call] = "calling"
                case out.Paired():
                    for party in (outcome.caller, outcome.callee):
                        assert self.of[party.peer][outcome.call] == "active"
                case out.Over():
                    self.ended.append(outcome.call)
                    for calls in self.of.values():
                        assert outcome.call not in calls

    def _told(self, calls: dict[str, str], message: m.CallServerMessage) -> None:
        match message:
            case m.CallInvited():
                assert message.call not in calls
                calls[message.call] = "invited"
            case m.CallRings():
                assert calls[message.call] in ("calling", "alerting")
                calls[message.call] = "alerting"
            case m.CallAccepted():
                # Absent: this device called and is told that it has answered the other's call.
                assert calls.get(message.call) != "active"
                calls[message.call] = "active"
            case m.CallEnded():
                del calls[message.call]


@pytest.fixture(scope="module", autouse=True)
def say_how_many() -> Iterator[None]:
    yield
    print(f"\ncalls: {CallsMachine.steps} steps, {dict(CallsMachine.met)}")  # noqa: T201
    if IS_LONG:
        assert CallsMachine.steps >= 100_000


class CallsMachine(RuleBasedStateMachine):
    """Any device may try anything at any time; most of the time something that may succeed."""

    steps = 0
    met: ClassVar[Counter[str]] = Counter()
    """What the runs have come across: refusals by code, ends by reason, answers, pushes."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = Calls(LIMITS)
        self.oracle = Oracle()
        self.beliefs = Beliefs()
        self.now = 0.0

    @property
    def unix_ms(self) -> int:
        return round(self.now * 1000)

    def check(self, verdict: Verdict, expected: Said) -> bool:
        """Whether the step was taken."""
        CallsMachine.steps += 1
        if isinstance(verdict, Refusal):
            assert verdict.code == expected, verdict.message
            self.met[verdict.code] += 1
            return False
        assert isinstance(expected, list), expected
        assert sorted(map(word, verdict)) == sorted(expected)
        for outcome in verdict:
            if isinstance(outcome, out.Over):
                self.met[f"{outcome.reason}{' active' * (outcome.callee is not None)}"] += 1
            elif not isinstance(outcome, out.Notify):
                self.met[type(outcome).__name__] += 1
            elif isinstance(outcome.message, m.CallEnded) and outcome.message.replaced_by:
                self.met["replaced"] += 1
        return True

    def choose(self, legal: list[tuple[Party, str]], pick: int, is_wild: bool) -> tuple[Party, str]:
        if legal and not is_wild:
            return legal[pick % len(legal)]
        known = [call.id for call in self.oracle.calls[-8:]] or ["none"]
        return DEVICES[pick % len(DEVICES)], known[(pick // 100) % len(known)]

    def ringing(self) -> list[tuple[Party, str]]:
        return [(d, call.id) for call in self.oracle.calls for d in call.ringing()]

    # Sessions and time

    @initialize(present=st.sets(devices, min_size=6))
    def begin(self, present: set[Party]) -> None:
        for device in sorted(present):
            self.come(DEVICES.index(device), True)

    @rule(pick=picks, is_wild=wild)
    def come(self, pick: int, is_wild: bool) -> None:
        absent = [d for d in DEVICES if d not in self.oracle.online]
        some = absent if absent and not is_wild else DEVICES
        device = some[pick % len(some)]
        expected = self.oracle.come(device)
        self.beliefs.of.setdefault(device.peer, {})
        outcomes = self.calls.device_online(device, self.now, self.unix_ms)
        self.check(outcomes, expected)
        self.beliefs.take(outcomes)

    @precondition(lambda self: self.oracle.online)
    @rule(pick=picks, kicked=st.booleans(), is_wild=wild)
    def go(self, pick: int, kicked: bool, is_wild: bool) -> None:
        some = DEVICES if is_wild else self.oracle.online
        device = some[pick % len(some)]
        expected = self.oracle.go(device, kicked)
        outcomes = self.calls.party_gone(device, self.unix_ms, kicked=kicked)
        self.check(outcomes, expected)
        self.beliefs.of.pop(device.peer, None)
        self.beliefs.take(outcomes)

    @rule(passes=st.sampled_from([0.1, 0.5, 2.0, 7.0]))
    def time(self, passes: float) -> None:
        self.now += passes
        expected = self.oracle.time(self.now)
        outcomes = self.calls.expire(self.now, self.unix_ms)
        self.check(outcomes, expected)
        self.beliefs.take(outcomes)

    # Steps

    @rule(
        pick=picks,
        to=st.lists(st.sampled_from("abc"), min_size=1, max_size=3),
        number=st.integers(0, 999),
        wants=media,
        lifetime=st.sampled_from([None, 5.0, 20.0]),
        is_wild=wild,
    )
    def invite(
        self,
        pick: int,
        to: list[str],
        number: int,
        wants: CallMedia,
        lifetime: float | None,
        is_wild: bool,
    ) -> None:
        callers = DEVICES if is_wild or not self.oracle.online else self.oracle.online
        caller = callers[pick % len(callers)]
        call_id = self.choose([], pick, True)[1] if is_wild else f"{number:03}"
        deadline = self.now + (lifetime or LIMITS.lifetime_s)
        expected = self.oracle.invite(caller, call_id, to, wants, deadline)
        message = m.CallInvite(to=list(to), media=wants, lifetime_s=lifetime)
        verdict = self.calls.invite(caller, call_id, message, self.now, self.unix_ms)
        if self.check(verdict, expected):
            assert not isinstance(verdict, Refusal)
            self.beliefs.take(verdict)

    @precondition(lambda self: any(call.is_pending for call in self.oracle.calls))
    @rule(pick=picks)
    def call_back(self, pick: int) -> None:
        """Simultaneous invites."""
        device, call_id = self.choose(self.ringing(), pick, False)
        call = self.oracle.find(device, call_id)
        if isinstance(call, Record):
            others = [d for d in self.oracle.online if d[:2] == device[:2]]
            number = (pick // 7) % 1000
            self.invite(
                DEVICES.index(others[pick % len(others)]) if others else 0,
                [call.caller.identity],
                number,
                call.media,
                None,
                False,
            )

    @precondition(lambda self: self.oracle.calls)
    @rule(pick=picks, is_wild=wild)
    def ring(self, pick: int, is_wild: bool) -> None:
        device, call = self.choose(self.ringing(), pick, is_wild)
        expected = self.oracle.ring(device, call)
        verdict = self.calls.ringing(device, call, self.unix_ms)
        if self.check(verdict, expected):
            assert not isinstance(verdict, Refusal)
            self.beliefs.take(verdict)

    @precondition(lambda self: self.oracle.calls)
    @rule(pick=picks, takes=st.none() | media, is_wild=wild)
    def accept(self, pick: int, takes: CallMedia | None, is_wild: bool) -> None:
        device, call = self.choose(self.ringing(), pick, is_wild)
        expected = self.oracle.accept(device, call, takes)
        verdict = self.calls.accept(device, call, takes, self.unix_ms)
        if self.check(verdict, expected):
            assert not isinstance(verdict, Refusal)
            self.beliefs.take(verdict)

    @precondition(lambda self: self.oracle.calls)
    @rule(pick=picks, reason=st.sampled_from(RejectReason), is_wild=wild)
    def reject(self, pick: int, reason: RejectReason, is_wild: bool) -> None:
        device, call = self.choose(self.ringing(), pick, is_wild)
        expected = self.oracle.reject(device, call, reason)
        self._leave(device, call, self.calls.reject(device, call, reason, self.unix_ms), expected)

    @precondition(lambda self: self.oracle.calls)
    @rule(pick=picks, is_wild=wild)
    def cancel(self, pick: int, is_wild: bool) -> None:
        legal = [(call.caller, call.id) for call in self.oracle.live()]
        device, call = self.choose(legal, pick, is_wild)
        expected = self.oracle.cancel(device, call)
        self._leave(device, call, self.calls.cancel(device, call, self.unix_ms), expected)

    @precondition(lambda self: self.oracle.calls)
    @rule(pick=picks, reason=st.sampled_from(HangupReason), is_wild=wild)
    def hangup(self, pick: int, reason: HangupReason, is_wild: bool) -> None:
        active = [call for call in self.oracle.calls if call.is_active]
        legal = [(p, call.id) for call in active for p in (call.caller, call.callee) if p]
        device, call = self.choose(legal, pick, is_wild)
        expected = self.oracle.hangup(device, call, reason)
        self._leave(device, call, self.calls.hangup(device, call, reason, self.unix_ms), expected)

    @precondition(lambda self: self.oracle.calls)
    @rule(pick=picks, size=st.integers(0, 12), is_wild=wild)
    def early(self, pick: int, size: int, is_wild: bool) -> None:
        legal = [(call.caller, call.id) for call in self.oracle.calls if call.is_pending]
        device, call = self.choose(legal, pick, is_wild)
        expected = self.oracle.early(device, call, pick, size)
        self.check(self.calls.early(device, call, pick, size), expected)

    def _leave(self, device: Party, call: str, verdict: Verdict, expected: Said) -> None:
        """Whoever ends its part is not told that it did."""
        if self.check(verdict, expected):
            assert not isinstance(verdict, Refusal)
            del self.beliefs.of[device.peer][call]
            self.beliefs.take(verdict)

    # What always holds

    @invariant()
    def every_device_believes_what_its_snapshot_shows(self) -> None:
        for peer, calls in self.beliefs.of.items():
            shown = {}
            for entry in self.calls.snapshot(peer, self.now):
                is_callee = entry.role == "callee"
                shown[entry.call] = {
                    "invited": "invited" if is_callee else "calling",
                    "ringing": "invited" if is_callee else "alerting",
                    "active": "active",
                }[entry.state]
            assert shown == calls

    @invariant()
    def deadlines_and_levels_agree(self) -> None:
        deadlines = [call.deadline for call in self.oracle.calls if call.is_pending]
        assert self.calls.next_deadline() == min(deadlines, default=None)
        assert len(self.calls) == len(self.oracle.live())
        assert self.calls.early_bytes == self.oracle.early_size()

    @invariant()
    def the_last_timelines_are_kept(self) -> None:
        for call in self.oracle.over[-LIMITS.ended_calls :]:
            timeline = self.calls.timeline(call.caller.account, call.id)
            assert timeline is not None
            assert timeline.reason == call.reason
            assert timeline.events[-1].event == "ended"
            assert len(timeline.events) <= LIMITS.events_per_call + 2

    def teardown(self) -> None:
        for device in list(self.oracle.online):
            self.go(DEVICES.index(device), False, True)
        assert self.beliefs.of == {}
        assert sorted(self.beliefs.begun) == sorted(self.beliefs.ended)
        table = self.calls._table
        assert table._devices == {}
        for level in (table.by_id, table.taking_part, table.awaiting, table.placed, table.active):
            assert len(level) == 0
        assert (len(table.agenda), table.agenda.next(), table.early_bytes) == (0, None, 0)


TestCalls = CallsMachine.TestCase
TestCalls.settings = settings(
    max_examples=1600 if IS_LONG else 40,
    stateful_step_count=80 if IS_LONG else 50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
