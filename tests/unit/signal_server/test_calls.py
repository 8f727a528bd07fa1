"""Calls, rule by rule; the interplay is in tests/model/test_model_calls.py.

A device `b2` is the second one of identity `b`; `x/b2` is one in another account.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec import Raw

from signal_server.core import call_outcomes as out
from signal_server.core.call import MAY, TRANSITIONS, CallLimits, CallState, Party, Step
from signal_server.core.calls import Calls
from signal_server.wire import call_messages as m
from signal_server.wire.call_messages import CallMedia, EndReason, HangupReason, RejectReason
from signal_server.wire.codec import Refusal, encode
from signal_server.wire.codes import ErrorCode

AUDIO = CallMedia(audio=True)
DATA = CallMedia()
BOTH = CallMedia(audio=True, video=True)


def party(name: str) -> Party:
    account, _, peer = name.rpartition("/")
    return Party(account, peer[0], name)


def word(outcome: out.Outcome) -> str:
    match outcome:
        case out.Notify(peer, m.CallInvited() as it):
            return f"{peer} invite {it.call} {it.sender}{' waiting' * it.waiting}"
        case out.Notify(peer, m.CallRings() as it):
            return f"{peer} ringing {it.call} {it.device}"
        case out.Notify(peer, m.CallAccepted() as it):
            return f"{peer} accepted {it.call} {it.device}"
        case out.Notify(peer, m.CallEnded() as it):
            by = f" by {it.device}" if it.device else ""
            return f"{peer} ended {it.call} {it.reason}{by}" + (
                f" see {it.replaced_by}" if it.replaced_by else ""
            )
        case out.Invited():
            return f"+{outcome.call}"
        case out.PushRequested():
            return f"push {outcome.call} {outcome.identity}"
        case out.Paired():
            return f"{outcome.call}: {outcome.caller.peer}={outcome.callee.peer}"
        case out.Over():
            return f"-{outcome.call} {outcome.reason}"
    raise AssertionError(outcome)


class Bench:
    """Calls with devices that are online; steps return what comes of them as words."""

    def __init__(self, *online: str, **limits: Any) -> None:
        self.calls = Calls(CallLimits(**limits))
        self.now = 0.0
        self.outcomes: list[out.Outcome] = []
        self.online(*online)

    @property
    def unix_ms(self) -> int:
        return 1_000_000 + round(self.now * 1000)

    def _said(self, verdict: Refusal | list[out.Outcome]) -> list[str] | ErrorCode:
        if isinstance(verdict, Refusal):
            self.refused = verdict.message
            return verdict.code
        self.outcomes = verdict
        return [word(outcome) for outcome in verdict]

    def online(self, *names: str) -> list[str]:
        words: list[str] = []
        for name in names:
            words += self._said(self.calls.device_online(party(name), self.now, self.unix_ms))
        return words

    def gone(self, name: str, *, kicked: bool = False) -> Any:
        return self._said(self.calls.party_gone(party(name), self.unix_ms, kicked=kicked))

    def invite(self, caller: str, call: str, to: str, **fields: Any) -> Any:
        message = m.CallInvite(to=list(to), **fields)
        return self._said(self.calls.invite(party(caller), call, message, self.now, self.unix_ms))

    def ring(self, name: str, call: str = "c") -> Any:
        return self._said(self.calls.ringing(party(name), call, self.unix_ms))

    def accept(self, name: str, call: str = "c", media: CallMedia | None = None) -> Any:
        return self._said(self.calls.accept(party(name), call, media, self.unix_ms))

    def reject(self, name: str, call: str = "c", reason: str = "declined") -> Any:
        return self._said(self.calls.reject(party(name), call, RejectReason(reason), self.unix_ms))

    def busy(self, name: str, call: str = "c") -> Any:
        return self.reject(name, call, "busy")

    def cancel(self, name: str, call: str = "c") -> Any:
        return self._said(self.calls.cancel(party(name), call, self.unix_ms))

    def hangup(self, name: str, call: str = "c", reason: str = "user_hangup") -> Any:
        return self._said(self.calls.hangup(party(name), call, HangupReason(reason), self.unix_ms))

    def early(self, name: str, item: object, size: int = 1, call: str = "c") -> Any:
        return self._said(self.calls.early(party(name), call, item, size))

    def at(self, now: float) -> Any:
        self.now = now
        return self._said(self.calls.expire(now, self.unix_ms))

    def snapshot(self, name: str) -> list[dict[str, Any]]:
        return [msgspec.to_builtins(entry) for entry in self.calls.snapshot(name, self.now)]

    def events(self, call: str = "c", account: str = "") -> list[tuple[Any, ...]]:
        timeline = self.calls.timeline(account, call)
        assert timeline is not None
        return [(entry.event, entry.device) for entry in timeline.events]

    def assert_nothing_is_left(self) -> None:
        table = self.calls._table
        for level in (table.by_id, table.taking_part, table.awaiting, table.placed, table.active):
            assert len(level) == 0
        assert len(table.agenda) == 0
        assert self.calls.next_deadline() is None
        assert (len(self.calls), self.calls.early_bytes) == (0, 0)


# One device each --------------------------------------------------------------------------------


def test_a_call_from_invite_to_hangup() -> None:
    bench = Bench("a1", "b1")

    assert bench.invite("a1", "c", "b") == ["+c", "b1 invite c a1"]
    assert bench.ring("b1") == ["a1 ringing c b1"]
    assert bench.accept("b1") == ["a1 accepted c b1", "b1 accepted c b1", "c: a1=b1"]
    bench.now = 2.5
    assert bench.hangup("a1") == ["b1 ended c user_hangup by a1", "-c user_hangup"]
    assert isinstance(bench.outcomes[-1], out.Over)
    assert bench.outcomes[-1].active_ms == 2500
    bench.assert_nothing_is_left()


@pytest.mark.parametrize("reason", ["user_hangup", "ice_failed", "media_failed"])
def test_the_callee_hangs_up_with_its_reason(reason: str) -> None:
    bench = Bench("a1", "b1")
    bench.invite("a1", "c", "b")
    bench.accept("b1")

    assert bench.hangup("b1", reason=reason) == [f"a1 ended c {reason} by b1", f"-c {reason}"]
    bench.assert_nothing_is_left()


def test_ringing_is_told_once_per_device() -> None:
    bench = Bench("a1", "b1", "b2")
    bench.invite("a1", "c", "b")

    assert bench.ring("b1") == ["a1 ringing c b1"]
    assert bench.ring("b1") == []
    assert bench.ring("b2") == ["a1 ringing c b2"]


def test_the_messages_as_they_are_sent() -> None:
    bench = Bench("a1", "b1")
    bench.invite("a1", "c", "b", media=BOTH, data=Raw(b'{"n":1}'), room="lobby", lifetime_s=30)
    (invite,) = (o.message for o in bench.outcomes if isinstance(o, out.Notify))
    bench.accept("b1", media=AUDIO)
    accepted = [o.message for o in bench.outcomes if isinstance(o, out.Notify)]

    assert msgspec.json.decode(encode(invite)) == {
        "type": "call_invite", "call": "c", "from": "a1", "identity": "a", "room": "lobby",
        "media": {"audio": True, "video": True}, "lifetime_s": 30.0, "data": {"n": 1},
    }  # fmt: skip
    common = {
        "type": "call_accepted", "call": "c", "from": "a1", "device": "b1", "room": "lobby",
        "media": {"audio": True, "video": False},
    }  # fmt: skip
    assert [msgspec.json.decode(encode(message)) for message in accepted] == [
        common | {"identity": "b"},
        common | {"identity": "a"},
    ]
    bench.hangup("a1")
    (ended,) = (o.message for o in bench.outcomes if isinstance(o, out.Notify))
    assert msgspec.json.decode(encode(ended)) == {
        "type": "call_ended", "call": "c", "reason": "user_hangup", "device": "a1"
    }  # fmt: skip


def test_facts_carry_what_webhooks_need() -> None:
    bench = Bench("a1", "b1")
    a1, b1 = party("a1"), party("b1")
    facts: list[out.Outcome] = []
    bench.invite("a1", "c", "b")
    facts += bench.outcomes
    bench.accept("b1")
    facts += bench.outcomes
    bench.hangup("a1")
    facts += bench.outcomes

    assert [fact for fact in facts if not isinstance(fact, out.Notify)] == [
        out.Invited(
            account="", call="c", room="c", caller=a1, identities=("b",), media=AUDIO
        ),
        out.Paired(
            account="", call="c", room="c", caller=a1, callee=b1, media=AUDIO, early=()
        ),
        out.Over(
            account="", call="c", room="c", caller=a1, callee=b1,
            reason=EndReason.USER_HANGUP, active_ms=0,
        ),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "accepted", "agreed"),
    [(BOTH, None, BOTH), (BOTH, AUDIO, AUDIO), (AUDIO, BOTH, AUDIO), (AUDIO, DATA, DATA)],
)
def test_an_answer_may_take_less_than_offered(
    wanted: CallMedia, accepted: CallMedia | None, agreed: CallMedia
) -> None:
    bench = Bench("a1", "b1")
    bench.invite("a1", "c", "b", media=wanted)
    bench.accept("b1", media=accepted)

    assert isinstance(bench.outcomes[-1], out.Paired)
    assert bench.outcomes[-1].media == agreed


# Several devices and identities -----------------------------------------------------------------


def test_the_first_accept_wins_and_repeating_it_changes_nothing() -> None:
    bench = Bench("a1", "b1", "b2", "c1")
    assert bench.invite("a1", "c", "bc") == [
        "+c", "b1 invite c a1", "b2 invite c a1", "c1 invite c a1"
    ]  # fmt: skip
    bench.ring("b1")

    assert bench.accept("b2") == [
        "b1 ended c answered_elsewhere by b2",
        "c1 ended c answered_elsewhere",  # of another identity: not told by whom
        "a1 accepted c b2",
        "b2 accepted c b2",
        "c: a1=b2",
    ]
    assert bench.accept("b2") == []
    assert bench.accept("b1") is ErrorCode.WRONG_STATE
    assert bench.reject("b1") is ErrorCode.WRONG_STATE
    assert bench.ring("c1") is ErrorCode.WRONG_STATE
    assert bench.hangup("b1") is ErrorCode.FORBIDDEN
    bench.hangup("b2")
    bench.assert_nothing_is_left()


def test_declining_speaks_for_all_devices_of_the_identity() -> None:
    bench = Bench("a1", "b1", "b2", "c1")
    bench.invite("a1", "c", "bc")

    assert bench.reject("b1") == ["b2 ended c declined by b1"]
    assert bench.accept("b2") is ErrorCode.WRONG_STATE
    assert bench.online("b3") == []
    assert bench.reject("c1") == ["a1 ended c declined by c1", "-c declined"]
    bench.assert_nothing_is_left()


def test_busy_speaks_for_one_device() -> None:
    bench = Bench("a1", "b1", "b2")
    bench.invite("a1", "c", "b")

    assert bench.busy("b1") == []
    assert bench.ring("b1") is ErrorCode.WRONG_STATE
    assert bench.busy("b2") == ["a1 ended c busy by b2", "-c busy"]
    bench.assert_nothing_is_left()


@pytest.mark.parametrize("order", ["declined busy", "busy declined"])
def test_the_caller_learns_of_a_decline_rather_than_of_busy(order: str) -> None:
    bench = Bench("a1", "b1", "c1")
    bench.invite("a1", "c", "bc")
    first, second = order.split()
    bench.reject("b1", reason=first)

    assert bench.reject("c1", reason=second) == ["a1 ended c declined by c1", "-c declined"]


def test_a_device_that_leaves_does_not_keep_a_busy_identity_waiting() -> None:
    bench = Bench("a1", "b1", "b2", "b3")
    bench.invite("a1", "c", "b")
    bench.busy("b1")

    assert bench.gone("b2") == []
    assert bench.gone("b3") == ["a1 ended c busy by b3", "-c busy"]
    bench.assert_nothing_is_left()


def test_calling_the_own_other_devices() -> None:
    bench = Bench("a1", "a2")

    assert bench.invite("a1", "c", "a") == ["+c", "a2 invite c a1"]
    assert bench.accept("a1") is ErrorCode.FORBIDDEN
    assert bench.accept("a2")[-1] == "c: a1=a2"
    assert bench.gone("a1") == ["a2 ended c unreachable by a1", "-c unreachable"]
    bench.assert_nothing_is_left()


def test_a_call_waits_at_an_identity_that_is_in_another() -> None:
    bench = Bench("a1", "b1", "b2", "c1")
    bench.invite("a1", "c", "b")
    assert bench.invite("c1", "d", "b")[1:] == ["b1 invite d c1", "b2 invite d c1"]
    bench.accept("b1", "c")

    assert bench.invite("c1", "e", "ba") == [
        "+e", "b1 invite e c1 waiting", "b2 invite e c1 waiting", "a1 invite e c1 waiting"
    ]  # fmt: skip
    bench.hangup("b1", "c")
    assert bench.online("b3") == ["b3 invite d c1", "b3 invite e c1"]


# Ends that nobody asks for ----------------------------------------------------------------------


def test_nobody_answers() -> None:
    bench = Bench("a1", "b1")
    bench.invite("a1", "c", "b", lifetime_s=20)
    bench.ring("b1")

    assert bench.calls.next_deadline() == 20.0
    assert bench.at(19.9) == []
    assert bench.at(20.0) == ["a1 ended c no_answer", "b1 ended c no_answer", "-c no_answer"]
    bench.assert_nothing_is_left()


def test_an_answered_call_has_no_deadline() -> None:
    bench = Bench("a1", "b1")
    bench.invite("a1", "c", "b")
    bench.accept("b1")

    assert bench.calls.next_deadline() is None
    assert bench.at(1000.0) == []
    assert len(bench.calls) == 1


def test_nobody_ever_appears() -> None:
    bench = Bench("a1")

    assert bench.invite("a1", "c", "b") == ["+c", "push c b"]
    assert bench.at(45.0) == ["a1 ended c unreachable", "-c unreachable"]
    bench.assert_nothing_is_left()


@pytest.mark.parametrize("reason", ["declined", "busy"])
def test_waiting_in_vain_for_one_after_the_other_said_no(reason: str) -> None:
    bench = Bench("a1", "b1")
    assert bench.invite("a1", "c", "bd") == ["+c", "b1 invite c a1", "push c d"]
    assert bench.reject("b1", reason=reason) == []

    assert bench.at(45.0) == [f"a1 ended c {reason}", f"-c {reason}"]


def test_the_caller_cancels() -> None:
    bench = Bench("a1", "b1", "b2")
    bench.invite("a1", "c", "b")
    bench.ring("b1")

    assert bench.cancel("b1") is ErrorCode.FORBIDDEN
    assert bench.hangup("a1") is ErrorCode.WRONG_STATE
    assert bench.cancel("a1") == [
        "b1 ended c canceled by a1", "b2 ended c canceled by a1", "-c canceled"
    ]  # fmt: skip
    bench.assert_nothing_is_left()


def test_a_cancel_that_crosses_the_answer_ends_the_call() -> None:
    bench = Bench("a1", "b1")
    bench.invite("a1", "c", "b")
    bench.accept("b1")

    assert bench.cancel("b1") is ErrorCode.FORBIDDEN
    assert bench.cancel("a1") == ["b1 ended c canceled by a1", "-c canceled"]
    bench.assert_nothing_is_left()


@pytest.mark.parametrize(("kicked", "reason"), [(False, "canceled"), (True, "kicked")])
def test_the_caller_is_gone_before_the_answer(kicked: bool, reason: str) -> None:
    bench = Bench("a1", "b1")
    bench.invite("a1", "c", "b")

    assert bench.gone("a1", kicked=kicked) == [f"b1 ended c {reason} by a1", f"-c {reason}"]
    assert bench.gone("a1") == []
    bench.assert_nothing_is_left()


@pytest.mark.parametrize(("kicked", "reason"), [(False, "unreachable"), (True, "kicked")])
def test_a_party_is_gone_during_the_call(kicked: bool, reason: str) -> None:
    bench = Bench("a1", "b1", "b2")
    bench.invite("a1", "c", "b")
    bench.accept("b1")

    assert bench.gone("b2") == []
    assert bench.gone("b1", kicked=kicked) == [f"a1 ended c {reason} by b1", f"-c {reason}"]
    bench.assert_nothing_is_left()


def test_who_is_gone_leaves_the_oldest_call_first_whichever_was_answered_last() -> None:
    bench = Bench("a1", "b1", "c1", ended_calls=1)
    bench.invite("a1", "old", "b")
    bench.invite("b1", "new", "c")
    bench.accept("b1", "old")

    assert [entry["call"] for entry in bench.snapshot("b1")] == ["old", "new"]
    ends = [word for word in bench.gone("b1") if word.startswith("-")]
    assert ends == ["-old unreachable", "-new canceled"]
    assert bench.calls.timeline("", "old") is None
    assert bench.calls.timeline("", "new") is not None
    bench.assert_nothing_is_left()


@pytest.mark.parametrize("reason", [EndReason.SERVER, EndReason.KICKED])
def test_the_server_ends_a_call(reason: Any) -> None:
    bench = Bench("a1", "b1")
    bench.invite("a1", "c", "b")

    assert isinstance(bench.calls.end("x", "c", reason, 0), Refusal)
    assert bench._said(bench.calls.end("", "c", reason, 0)) == [
        f"a1 ended c {reason}", f"b1 ended c {reason}", f"-c {reason}"
    ]  # fmt: skip
    bench.assert_nothing_is_left()


# Offline identities -----------------------------------------------------------------------------


def test_an_invite_waits_for_a_device_to_appear() -> None:
    bench = Bench("a1")
    bench.invite("a1", "c", "b", lifetime_s=30, media=AUDIO)
    assert bench.outcomes[-1] == out.PushRequested(
        account="", identity="b", call="c", room="c", caller=party("a1"), media=AUDIO,
        expires_unix_ms=1_030_000,
    )  # fmt: skip
    bench.now = 12.0

    assert bench.online("b1") == ["b1 invite c a1"]
    assert isinstance(bench.outcomes[0], out.Notify)
    assert isinstance(bench.outcomes[0].message, m.CallInvited)
    assert bench.outcomes[0].message.lifetime_s == 18.0
    assert bench.online("b1") == []
    assert bench.gone("b1") == []  # one push per call
    assert bench.online("b2") == ["b2 invite c a1"]
    assert bench.accept("b2")[-1] == "c: a1=b2"


def test_an_identity_that_goes_offline_while_it_rings_is_pushed_once() -> None:
    bench = Bench("a1", "b1", "b2")
    bench.invite("a1", "c", "b")

    assert bench.gone("b1") == []
    assert bench.gone("b2") == ["push c b"]
    assert bench.at(45.0) == ["a1 ended c no_answer", "-c no_answer"]


# Simultaneous invites ---------------------------------------------------------------------------


def test_the_existing_call_is_kept_when_its_id_is_lesser() -> None:
    bench = Bench("a1", "a2", "b1", "b2", "d1")
    bench.invite("a1", "c1", "b", media=BOTH)
    bench.early("a1", "offer", call="c1")

    assert bench.invite("b1", "c2", "ad", media=AUDIO) == [
        "+c2",
        "b1 ended c2 answered_elsewhere see c1",
        "-c2 answered_elsewhere",
        "b2 ended c1 answered_elsewhere by b1",
        "a1 accepted c1 b1",
        "b1 accepted c1 b1",
        "c1: a1=b1",
    ]
    paired = bench.outcomes[-1]
    assert isinstance(paired, out.Paired)
    assert (paired.early, paired.media) == (("offer",), AUDIO)
    bench.hangup("a1", "c1")
    bench.assert_nothing_is_left()


def test_the_new_call_is_kept_when_its_id_is_lesser() -> None:
    bench = Bench("a1", "a2", "b1", "b2", "d1")
    bench.invite("a1", "c2", "bd")
    bench.early("a1", "offer", call="c2")

    assert bench.invite("b1", "c1", "a") == [
        "+c1",
        "a1 ended c2 answered_elsewhere see c1",
        "b1 ended c2 answered_elsewhere see c1",
        "b2 ended c2 answered_elsewhere see c1",
        "d1 ended c2 answered_elsewhere see c1",
        "-c2 answered_elsewhere",
        "b1 accepted c1 a1",
        "a1 accepted c1 a1",
        "c1: b1=a1",
    ]
    assert isinstance(bench.outcomes[-1], out.Paired)
    assert bench.outcomes[-1].early == ()
    bench.hangup("a1", "c1")
    bench.assert_nothing_is_left()


def test_of_several_calls_from_the_called_the_least_is_answered() -> None:
    bench = Bench("a1", "a2", "b1")
    bench.invite("a1", "c2", "b")
    bench.invite("a2", "c1", "b")

    assert bench.invite("b1", "c3", "a")[1:] == [
        "b1 ended c3 answered_elsewhere see c1", "-c3 answered_elsewhere",
        "a2 accepted c1 b1", "b1 accepted c1 b1", "c1: a2=b1",
    ]  # fmt: skip
    assert [entry["call"] for entry in bench.snapshot("b1")] == ["c2", "c1"]


def test_calling_back_who_was_declined_here_is_a_call_of_its_own() -> None:
    bench = Bench("a1", "b1", "b2")
    bench.invite("a1", "c1", "b")
    bench.busy("b1", "c1")

    assert bench.invite("b1", "c2", "a") == ["+c2", "a1 invite c2 b1"]
    assert bench.accept("a1", "c2")[-1] == "c2: b1=a1"
    assert bench.accept("b2", "c1")[-1] == "c1: a1=b2"


def test_calling_a_third_party_while_it_rings_is_a_call_of_its_own() -> None:
    bench = Bench("a1", "b1", "d1")
    bench.invite("a1", "c1", "b")

    assert bench.invite("b1", "c2", "d") == ["+c2", "d1 invite c2 b1"]
    assert bench.accept("b1", "c1")[-1] == "c1: a1=b1"


def test_calling_whom_one_is_already_talking_to_is_a_call_of_its_own() -> None:
    bench = Bench("a1", "b1")
    bench.invite("a1", "c1", "b")
    bench.accept("b1", "c1")

    assert bench.invite("b1", "c2", "a") == ["+c2", "a1 invite c2 b1 waiting"]


# What is sent ahead -----------------------------------------------------------------------------


def test_the_early_log_goes_to_whoever_answers_and_to_nobody_else() -> None:
    bench = Bench("a1", "b1")
    bench.invite("a1", "c", "b")
    bench.invite("a1", "d", "b")
    for item in ("offer", "candidate", "end"):
        assert bench.early("a1", item, 10) == []
    bench.early("a1", "other", 5, "d")
    assert bench.early("b1", "answer") is ErrorCode.FORBIDDEN
    assert bench.calls.early_bytes == 35

    bench.accept("b1")
    assert isinstance(bench.outcomes[-1], out.Paired)
    assert bench.outcomes[-1].early == ("offer", "candidate", "end")
    assert bench.calls.early_bytes == 5
    assert bench.early("a1", "late") is ErrorCode.WRONG_STATE
    bench.cancel("a1", "d")
    assert bench.calls.early_bytes == 0


@pytest.mark.parametrize("limits", [{"early_items": 2}, {"early_bytes": 21}])
def test_the_early_log_of_a_call_is_bounded(limits: dict[str, int]) -> None:
    bench = Bench("a1", "b1", **limits)
    bench.invite("a1", "c", "b")
    bench.early("a1", 1, 10)
    bench.early("a1", 2, 11)

    assert bench.early("a1", 3, 1) is ErrorCode.BUFFER_FULL
    bench.accept("b1")
    assert isinstance(bench.outcomes[-1], out.Paired)
    assert bench.outcomes[-1].early == (1, 2)


def test_the_early_logs_of_a_node_are_bounded() -> None:
    bench = Bench("a1", "b1", early_bytes_per_node=20)
    bench.invite("a1", "c", "b")
    bench.invite("a1", "d", "b")
    bench.early("a1", 1, 15, "c")

    assert bench.early("a1", 2, 6, "d") is ErrorCode.BUFFER_FULL
    bench.cancel("a1", "c")
    assert bench.early("a1", 2, 6, "d") == []


# Who may ----------------------------------------------------------------------------------------


def test_nothing_crosses_accounts() -> None:
    bench = Bench("a1", "b1", "x/b1", "x/a1")
    assert bench.invite("a1", "c", "b") == ["+c", "b1 invite c a1"]

    for step in (bench.ring, bench.accept, bench.reject, bench.cancel, bench.hangup):
        assert step("x/b1") is ErrorCode.NOT_FOUND
    assert bench.early("x/a1", "offer") is ErrorCode.NOT_FOUND
    assert bench.online("x/b2") == []
    assert bench.calls.timeline("x", "c") is None
    bench.cancel("a1")
    assert bench.calls.timeline("x", "c") is None
    assert bench.accept("x/b1") is ErrorCode.NOT_FOUND


def test_strangers_and_the_caller_may_not_answer() -> None:
    bench = Bench("a1", "a2", "b1", "d1")
    bench.invite("a1", "c", "b")

    for name in ("a1", "a2", "d1"):
        assert bench.ring(name) is ErrorCode.FORBIDDEN
        assert bench.accept(name) is ErrorCode.FORBIDDEN
        assert bench.reject(name) is ErrorCode.FORBIDDEN
    for name in ("a2", "b1", "d1"):
        assert bench.cancel(name) is ErrorCode.FORBIDDEN
        assert bench.hangup(name) is ErrorCode.FORBIDDEN


def test_a_step_after_the_end_is_told_why_it_ended() -> None:
    bench = Bench("a1", "b1", ended_calls=1)
    bench.invite("a1", "c", "b")
    bench.at(45.0)

    assert bench.accept("b1") is ErrorCode.WRONG_STATE
    assert bench.refused == "the call has ended: no_answer"
    bench.invite("a1", "d", "b")
    bench.cancel("a1", "d")
    assert bench.accept("b1") is ErrorCode.NOT_FOUND
    assert bench.accept("b1", "nonsense") is ErrorCode.NOT_FOUND


def test_every_step_is_either_in_the_table_or_refused() -> None:
    assert set(MAY) == set(Step)
    assert {state for state, _ in TRANSITIONS} == set(CallState) - {CallState.ENDED}


# Bounds -----------------------------------------------------------------------------------------


def test_invites_that_make_no_sense() -> None:
    bench = Bench("a1", "b1", identities_per_call=2)

    assert bench.invite("a1", "c", "") is ErrorCode.BAD_REQUEST
    assert bench.invite("a1", "c", "b", lifetime_s=4.9) is ErrorCode.BAD_REQUEST
    assert bench.invite("a1", "c", "b", lifetime_s=300.1) is ErrorCode.BAD_REQUEST
    assert bench.refused == "lifetime_s must be 5 to 300"
    assert bench.invite("a1", "c", "bcd") is ErrorCode.LIMIT_EXCEEDED
    assert bench.invite("a2", "c", "b") is ErrorCode.WRONG_STATE
    bench.assert_nothing_is_left()
    assert bench.invite("a1", "c", "bbb", lifetime_s=5) == ["+c", "b1 invite c a1"]
    assert bench.invite("a1", "c", "b") is ErrorCode.CONFLICT
    bench.cancel("a1")
    assert bench.invite("a1", "c", "b") is ErrorCode.CONFLICT


@pytest.mark.parametrize(
    ("limits", "caller"),
    [
        ({"calls_per_node": 2}, "d1"),
        ({"placed_per_identity": 2}, "a2"),
        ({"incoming_per_identity": 2}, "d1"),
    ],
)
def test_calls_are_counted(limits: dict[str, int], caller: str) -> None:
    bench = Bench("a1", "a2", "b1", "d1", **limits)
    bench.invite("a1", "c1", "b")
    bench.invite("a1", "c2", "b")

    assert bench.invite(caller, "c3", "eb") is ErrorCode.LIMIT_EXCEEDED
    bench.cancel("a1", "c1")
    assert isinstance(bench.invite(caller, "c3", "eb"), list)


def test_the_devices_that_came_last_ring() -> None:
    bench = Bench("a1", "b1", "b2", "b3", devices_per_identity=2)

    assert bench.invite("a1", "c", "b") == ["+c", "b2 invite c a1", "b3 invite c a1"]
    assert bench.accept("b1") is ErrorCode.WRONG_STATE
    assert bench.online("b4") == []
    bench.gone("b2")
    assert bench.online("b5") == ["b5 invite c a1"]


# What can be asked ------------------------------------------------------------------------------


def test_snapshots_show_each_device_its_part() -> None:
    bench = Bench("a1", "b1", "b2", "d1")
    bench.invite("a1", "c", "bd", media=BOTH, lifetime_s=30, data=Raw(b"7"))
    bench.ring("b2")
    bench.busy("d1")
    bench.now = 10.0

    media = {"audio": True, "video": True}
    common = {"call": "c", "room": "c", "media": media, "lifetime_s": 20.0}
    caller = {"peer": "a1", "identity": "a", "state": "ringing"}
    assert bench.snapshot("a1") == [
        common | {
            "state": "ringing", "role": "caller",
            "peers": [
                {"peer": "b1", "identity": "b", "state": "invited"},
                {"peer": "b2", "identity": "b", "state": "ringing"},
            ],
        }
    ]  # fmt: skip
    callee = common | {"role": "callee", "peers": [caller]}
    for device, state in (("b1", "invited"), ("b2", "ringing")):
        (entry,) = bench.calls.snapshot(device, bench.now)
        assert msgspec.json.decode(encode(entry)) == callee | {"state": state, "data": 7}
    assert bench.snapshot("d1") == []

    bench.accept("b1", media=AUDIO)
    agreed = {"call": "c", "room": "c", "media": {"audio": True, "video": False}, "state": "active"}
    both = [{"peer": name, "identity": name[0], "state": "active"} for name in ("a1", "b1")]
    assert bench.snapshot("a1") == [agreed | {"role": "caller", "peers": both[1:]}]
    assert bench.snapshot("b1") == [agreed | {"role": "callee", "peers": both[:1]}]
    assert bench.snapshot("b2") == []
    bench.hangup("a1")
    assert bench.snapshot("a1") == bench.snapshot("b1") == []


def test_the_timeline_of_a_call() -> None:
    bench = Bench("a1", "b1", "b2")
    bench.invite("a1", "c", "bd")
    bench.now = 1.0
    bench.ring("b1")
    bench.busy("b2")
    live = bench.calls.timeline("", "c")
    assert live is not None
    assert (live.state, live.reason, live.device) == ("ringing", None, None)
    bench.accept("b1")
    bench.now = 3.0
    bench.hangup("b1")

    assert bench.events() == [
        ("invited", "a1"), ("delivered", "b1"), ("delivered", "b2"), ("push_requested", None),
        ("ringing", "b1"), ("busy", "b2"), ("accepted", "b1"), ("ended", "b1"),
    ]  # fmt: skip
    timeline = bench.calls.timeline("", "c")
    assert timeline is not None
    assert [entry.unix_ms for entry in timeline.events[-3:]] == [1_001_000, 1_001_000, 1_003_000]
    assert (timeline.state, timeline.reason, timeline.device) == ("ended", "user_hangup", "b1")
    assert (timeline.caller, timeline.invited, timeline.omitted) == ("a", ["b", "d"], 0)


def test_a_long_timeline_keeps_its_beginning_and_its_end() -> None:
    bench = Bench("a1", "b1", events_per_call=2)
    bench.invite("a1", "c", "b")
    bench.ring("b1")
    bench.accept("b1")
    bench.hangup("a1")

    assert [event for event, _ in bench.events()] == ["invited", "delivered", "accepted", "ended"]
    timeline = bench.calls.timeline("", "c")
    assert timeline is not None
    assert timeline.omitted == 1


def test_only_the_last_timelines_are_kept() -> None:
    bench = Bench("a1", ended_calls=2)
    for call in ("c1", "c2", "c3"):
        bench.invite("a1", call, "b")
        bench.cancel("a1", call)

    known = [call for call in ("c1", "c2", "c3") if bench.calls.timeline("", call)]
    assert known == ["c2", "c3"]


# The messages -----------------------------------------------------------------------------------

_decode = msgspec.json.Decoder(m.CallClientMessage).decode


def test_client_messages_decode() -> None:
    assert _decode(b'{"type":"call_invite","to":"b"}') == m.CallInvite(to="b", media=AUDIO)
    full = _decode(
        b'{"type":"call_invite","id":1,"to":["b","c","b"],"media":{"video":true},"lifetime_s":9}'
    )
    assert full == m.CallInvite(id=1, to=["b", "c", "b"], media=CallMedia(video=True), lifetime_s=9)
    assert isinstance(full, m.CallInvite)
    assert full.identities() == ("b", "c")
    assert m.CallInvite(to="bc").identities() == ("bc",)
    assert _decode(b'{"type":"call_reject","call":"c"}') == m.CallReject(call="c")
    assert _decode(b'{"type":"call_hangup","call":"c","reason":"ice_failed"}') == m.CallHangup(
        call="c", reason=HangupReason.ICE_FAILED
    )


@pytest.mark.parametrize(
    "text",
    [
        '{"type":"call_invite","to":[]}',
        '{"type":"call_invite","to":""}',
        '{"type":"call_invite","to":"b","lifetime_s":0}',
        '{"type":"call_invite","to":"b","room":"a b"}',
        '{"type":"call_accept"}',
        '{"type":"call_accept","call":""}',
        '{"type":"call_reject","call":"c","reason":"canceled"}',
        '{"type":"call_hangup","call":"c","reason":"kicked"}',
    ],
)
def test_client_messages_that_do_not_decode(text: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        _decode(text)


def test_reasons_a_client_gives_are_reasons_a_call_ends_with() -> None:
    assert {*RejectReason, *HangupReason} <= set(EndReason)
