"""Which allocations of a node must end, decided without a node or a fleet."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from turn_broker.fleet import guard as module
from turn_broker.fleet.guard import RETRY_CUT_S, Guard, GuardLimits, Reason, SessionCut
from turn_broker.fleet.messages import (
    Charge,
    LiveSession,
    Revocation,
    Terms,
    TokenRecord,
    Usage,
)
from turn_broker.fleet.turn_control import SessionClosed, SessionOpened, SessionUsed

NOW = 1_000.0
EXPIRY = 2_000


def opened(
    session: str = "s1",
    who: str = "alice.one",
    *,
    client: str = "198.51.100.7",
    age_s: int | None = None,
) -> SessionOpened:
    return SessionOpened(
        session=session,
        username=f"{EXPIRY}:{who}",
        client=client,
        transport="udp",
        age_s=age_s,
    )


def used(session: str = "s1", sent: int = 0, received: int = 0) -> SessionUsed:
    return SessionUsed(session=session, sent_bytes=sent, received_bytes=received)


def record(who: str = "alice.one", account: str = "AC1", **terms: object) -> TokenRecord:
    return TokenRecord(
        id=who,
        account=account,
        issued_at=0,
        expires_at=EXPIRY,
        dialect="native",
        terms=Terms(**terms),  # type: ignore[arg-type]
    )


def revocation(name: str = "alice.one", until: int = 5_000) -> Revocation:
    return Revocation(scope="token" if "." in name else "identity", name=name, until=until)


def cut(reason: Reason, session: str = "s1") -> tuple[SessionCut, ...]:
    return (SessionCut(session, reason),)


# Revocation


@pytest.mark.parametrize("name", ["alice.one", "alice"])
def test_a_revocation_cuts_what_is_open_and_what_opens(name: str) -> None:
    guard = Guard()
    assert guard.handle(opened(), NOW) == ()
    assert guard.handle(opened("s2", "bob.one"), NOW) == ()
    assert guard.revoke(revocation(name), NOW) == cut(Reason.REVOKED)
    assert guard.handle(opened("s3"), NOW) == cut(Reason.REVOKED, "s3")
    assert guard.tick(NOW) == ()


def test_a_revocation_of_nobody_who_is_here() -> None:
    guard = Guard()
    assert guard.revoke(revocation("alice.one"), NOW) == ()
    assert guard.revoke(revocation("alice"), NOW) == ()


def test_a_revocation_of_a_token_leaves_the_identity_s_others_alone() -> None:
    guard = Guard()
    guard.handle(opened(), NOW)
    guard.handle(opened("s2", "alice.two"), NOW)
    assert guard.revoke(revocation("alice.two"), NOW) == cut(Reason.REVOKED, "s2")


def test_a_revocation_ends_and_an_ended_one_does_nothing() -> None:
    guard = Guard()
    guard.revoke(revocation(until=1_100), NOW)
    assert guard.handle(opened(), 1_101.0) == ()
    guard.tick(1_101.0)
    assert guard.revoke(revocation(until=1_100), 1_101.0) == ()
    guard.revoke(revocation(until=1_300), 1_102.0)
    guard.revoke(revocation(until=1_200), 1_102.0)
    assert guard.handle(opened("s2"), 1_250.0) == cut(Reason.REVOKED, "s2")


def test_revocations_are_bounded_and_the_first_to_end_is_forgotten() -> None:
    guard = Guard(GuardLimits(max_revocations=2))
    for name, until in (("a", 1_500), ("b", 1_200), ("c", 1_400)):
        guard.revoke(revocation(name, until), NOW)
    cuts = [guard.handle(opened(f"s{who}", f"{who}.x"), NOW) for who in "abc"]
    assert cuts == [cut(Reason.REVOKED, "sa"), (), cut(Reason.REVOKED, "sc")]


def test_a_cut_that_did_not_help_is_repeated() -> None:
    guard = Guard()
    guard.handle(opened(), NOW)
    guard.revoke(revocation(), NOW)
    assert guard.tick(NOW + RETRY_CUT_S - 0.1) == ()
    assert guard.tick(NOW + RETRY_CUT_S) == cut(Reason.REVOKED)
    guard.handle(SessionClosed(session="s1"), NOW)
    assert guard.tick(NOW + 100) == ()


# Expiry and terms


def test_expiry_is_hard_only_where_the_terms_or_the_node_say_so() -> None:
    guard, strict = Guard(), Guard(GuardLimits(hard_expiry=True))
    for each in (guard, strict):
        each.handle(opened(), NOW)
        each.handle(opened("s2", "bob.one"), NOW)
        each.learn(record(hard_expiry=True), NOW)
        assert each.tick(EXPIRY + 2.0) == ()
    assert guard.tick(EXPIRY + 2.1) == cut(Reason.EXPIRED)
    assert [each.session for each in strict.tick(EXPIRY + 2.1)] == ["s1", "s2"]


def test_a_record_that_comes_late_is_enforced() -> None:
    guard = Guard()
    guard.handle(opened(), NOW)
    assert guard.learn(record(address="198.51.100.7"), NOW) == ()
    assert guard.learn(record(address="198.51.100.8"), NOW) == cut(Reason.ADDRESS)
    assert guard.learn(record("nobody.here"), NOW) == ()


@pytest.mark.parametrize(
    ("client", "bound", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("2001:db8:1:2::7", "2001:db8:1:2:ffff::1", True),
        ("2001:db8:1:3::7", "2001:db8:1:2::7", False),
        ("192.0.2.1", "2001:db8::1", False),
        ("", "192.0.2.1", False),
    ],
)
def test_a_token_bound_to_an_address(client: str, bound: str, same: bool) -> None:
    guard = Guard()
    guard.handle(opened(client=client), NOW)
    assert guard.learn(record(address=bound), NOW) == (() if same else cut(Reason.ADDRESS))


def test_bytes_of_a_token_count_here_and_elsewhere() -> None:
    guard = Guard()
    guard.handle(opened(), NOW)
    guard.handle(opened("s2"), NOW)
    guard.learn(record(max_bytes=100), NOW)
    assert guard.handle(used("s1", 30, 20), NOW) == ()
    assert guard.charges() == (Charge(id="alice.one", sent_bytes=30, received_bytes=20, opened=2),)
    assert guard.charged({"alice.one": Usage(sent_bytes=70, received_bytes=20)}, NOW) == ()
    assert guard.handle(used("s2", 0, 10), NOW) == ()
    cuts = guard.handle(used("s2", 1, 0), NOW)
    assert {each.session for each in cuts} == {"s1", "s2"}
    assert {each.reason for each in cuts} == {Reason.TOKEN_BYTES}


def test_a_total_from_elsewhere_cuts_too() -> None:
    guard = Guard()
    guard.handle(opened(), NOW)
    guard.learn(record(max_bytes=100), NOW)
    guard.charges()
    assert guard.charged({"alice.one": Usage(sent_bytes=101)}, NOW) == cut(Reason.TOKEN_BYTES)


def test_bytes_of_identity_and_account_come_from_the_fleet() -> None:
    guard = Guard()
    for session, who in (("s1", "alice.one"), ("s2", "bob.one"), ("s3", "carol.one")):
        guard.handle(opened(session, who), NOW)
    guard.learn(record(identity_bytes=10), NOW)
    guard.learn(record("bob.one", "AC2", account_bytes=10), NOW)
    guard.learn(record("carol.one", "AC2"), NOW)
    assert tuple(guard.scopes()) == (("identity", "alice"), ("account", "AC2"))
    assert guard.spent({("identity", "alice"): Usage(sent_bytes=10)}, NOW) == ()
    over = {
        ("identity", "alice"): Usage(sent_bytes=11),
        ("account", "AC2"): Usage(received_bytes=11),
    }
    assert guard.spent(over, NOW) == (
        SessionCut("s1", Reason.IDENTITY_BYTES),
        SessionCut("s2", Reason.ACCOUNT_BYTES),
    )


def test_allocations_of_an_identity_the_newest_is_cut() -> None:
    guard = Guard(GuardLimits(allocations_per_identity=2))
    for number, who in enumerate(("alice.one", "alice.two", "bob.one"), 1):
        assert guard.handle(opened(f"s{number}", who), NOW) == ()
    assert guard.handle(opened("s4", "alice.three"), NOW) == cut(Reason.ALLOCATIONS, "s4")
    assert guard.handle(opened("s5", "alice.one"), NOW) == cut(Reason.ALLOCATIONS, "s5")
    guard.handle(SessionClosed(session="s1"), NOW)
    guard.handle(SessionClosed(session="s4"), NOW)
    assert guard.tick(NOW + 100) == ()


def test_a_token_may_allow_fewer_allocations_but_not_more() -> None:
    guard = Guard(GuardLimits(allocations_per_identity=2))
    guard.handle(opened("s1"), NOW)
    guard.handle(opened("s2"), NOW)
    assert guard.learn(record(max_allocations=1), NOW) == cut(Reason.ALLOCATIONS, "s2")
    assert guard.learn(record(max_allocations=9), NOW) == ()


# Sessions


@pytest.mark.parametrize("username", ["nobody", "2000:nodot", "2000:.x", "x:alice.one", "%s%n"])
def test_what_is_not_ours_is_counted_and_left_alone(username: str) -> None:
    guard = Guard(GuardLimits(allocations_per_identity=0, hard_expiry=True))
    event = SessionOpened(session="f", username=username, client="")
    assert guard.handle(event, NOW) == ()
    assert guard.handle(used("f", 5, 6), NOW) == ()
    assert (guard.foreign, len(guard), guard.live(9)) == (1, 1, ())
    assert (guard.sent_bytes, guard.received_bytes) == (5, 6)
    assert not guard.tick(1e9)
    assert not guard.charges()
    guard.handle(SessionClosed(session="f"), NOW)
    assert (guard.foreign, len(guard)) == (0, 0)


def test_unknown_sessions_are_nobody_s() -> None:
    guard = Guard()
    assert guard.handle(used("x", 5), NOW) == guard.handle(SessionClosed(session="x"), NOW) == ()
    assert guard.sent_bytes == 0


def test_a_number_that_comes_again_is_a_new_session() -> None:
    guard = Guard()
    guard.handle(opened(), NOW)
    guard.handle(opened(who="bob.one"), NOW)
    assert [each.id for each in guard.live(9)] == ["bob.one"]


def test_what_is_open_is_listed_with_its_age() -> None:
    guard = Guard()
    guard.handle(opened(age_s=40), NOW)
    guard.handle(opened("s2", "bob.one"), NOW)
    assert guard.live(1) == (LiveSession(session="s1", id="alice.one", since=960, transport="udp"),)
    assert len(guard.live(9)) == 2


def test_a_lost_server_s_sessions_are_forgotten_their_bytes_are_not() -> None:
    guard = Guard()
    guard.handle(opened(), NOW)
    guard.handle(used("s1", 7), NOW)
    guard.forget_sessions()
    assert len(guard) == 0
    assert guard.handle(opened(age_s=3), NOW) == ()
    (charge,) = guard.charges()
    assert (charge.sent_bytes, charge.opened) == (7, 1)


def test_sessions_are_bounded() -> None:
    guard = Guard(GuardLimits(max_sessions=1))
    guard.handle(opened(), NOW)
    assert guard.handle(opened("s2"), NOW) == ()
    assert (len(guard), guard.unfollowed) == (1, 1)


def test_what_cannot_be_charged_is_bounded_and_counted() -> None:
    guard = Guard(GuardLimits(max_sessions=2, max_tokens=1))
    guard.handle(opened("keep", "kept.one"), NOW)
    for number in range(4):
        guard.handle(opened(f"s{number}", f"p{number}.one"), NOW)
        guard.handle(used(f"s{number}", 10), NOW)
        guard.handle(SessionClosed(session=f"s{number}"), NOW)
    assert guard.uncharged_bytes == 20
    assert {charge.id for charge in guard.charges()} == {"kept.one", "p2.one", "p3.one"}


# Charges and look-ups


def test_a_batch_stays_the_same_until_it_was_taken() -> None:
    guard = Guard()
    guard.handle(opened(), NOW)
    first = guard.charges()
    guard.handle(used("s1", 5), NOW)
    guard.handle(opened("s2", "bob.one"), NOW)
    assert guard.charges() == first
    guard.charged({}, NOW)
    assert guard.charges() == (
        Charge(id="alice.one", sent_bytes=5),
        Charge(id="bob.one", opened=1),
    )


def test_a_batch_for_a_token_that_was_forgotten() -> None:
    guard = Guard(GuardLimits(max_sessions=1, max_tokens=0))
    guard.handle(opened(), NOW)
    guard.handle(SessionClosed(session="s1"), NOW)
    guard.charges()
    guard.handle(opened("s2", "bob.one"), NOW)
    assert guard.charged({"alice.one": Usage()}, NOW) == ()
    assert [charge.id for charge in guard.charges()] == ["bob.one"]


def test_nobody_is_dropped_where_everybody_is_here() -> None:
    guard = Guard(GuardLimits(max_sessions=2, max_tokens=-1))
    guard.handle(opened(), NOW)
    guard.handle(opened("s2", "bob.one"), NOW)
    assert len(guard.live(9)) == 2


def test_batches_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BATCH", 2)
    guard = Guard()
    for number in range(3):
        guard.handle(opened(f"s{number}", f"p{number}.one"), NOW)
    assert len(guard.charges()) == len(guard.lookups(NOW)) == 2
    guard.charged({}, NOW)
    assert len(guard.charges()) == len(guard.lookups(NOW)) == 1


def test_records_are_looked_up_ever_more_seldom() -> None:
    guard = Guard()
    guard.handle(opened(), NOW)
    asked = []
    now = NOW
    while now < NOW + 200:
        if guard.lookups(now):
            asked.append(now - NOW)
        now += 0.5
    assert asked == [0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5, 63.5, 123.5, 183.5]


def test_records_are_not_looked_up_in_vain() -> None:
    guard = Guard()
    guard.handle(opened("s1"), NOW)
    guard.handle(opened("s2", "bob.one"), NOW)
    guard.handle(opened("s3", "carol.one"), NOW)
    guard.handle(SessionClosed(session="s2"), NOW)
    guard.learn(record(), NOW)
    assert guard.lookups(NOW) == ("carol.one",)
    assert guard.lookups(EXPIRY + 1.0) == ()


# Against a naive oracle


@dataclass
class _Open:
    id: str
    client: str
    is_cut: bool = False


@dataclass
class _Oracle:
    """Keeps everything and asks every question anew."""

    open: dict[str, _Open] = field(default_factory=dict)
    revoked: dict[str, int] = field(default_factory=dict)
    records: dict[str, Terms] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)

    def must_end(self, name: str, now: float) -> bool:
        session = self.open[name]
        identity = session.id.split(".")[0]
        if any(self.revoked.get(each, 0) >= now for each in (session.id, identity)):
            return True
        terms = self.records.get(session.id)
        if terms is None:
            return False
        if terms.hard_expiry and now > EXPIRY + 2:
            return True
        if terms.address is not None and terms.address != session.client:
            return True
        return terms.max_bytes is not None and self.bytes.get(session.id, 0) > terms.max_bytes


SESSIONS = st.sampled_from(["s1", "s2", "s3"])
IDS = st.sampled_from(["alice.one", "alice.two", "bob.one"])
CLIENTS = st.sampled_from(["192.0.2.1", "192.0.2.2"])
TERMS = st.builds(
    Terms,
    hard_expiry=st.booleans(),
    address=st.none() | CLIENTS,
    max_bytes=st.none() | st.integers(0, 50),
)


class GuardHistory(RuleBasedStateMachine):
    """Whatever happens, what must end has been told to end, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.guard = Guard()
        self.oracle = _Oracle()
        self.now = NOW
        self.owed: dict[str, int] = {}

    def _take(self, cuts: tuple[SessionCut, ...]) -> None:
        for each in cuts:
            assert self.oracle.must_end(each.session, self.now), each
            self.oracle.open[each.session].is_cut = True

    @rule(session=SESSIONS, who=IDS, client=CLIENTS)
    def open(self, session: str, who: str, client: str) -> None:
        self.close(session)
        self.oracle.open[session] = _Open(who, client)
        self._take(self.guard.handle(opened(session, who, client=client), self.now))
        self._retain()

    @rule(session=SESSIONS, sent=st.integers(0, 30), received=st.integers(0, 30))
    def use(self, session: str, sent: int, received: int) -> None:
        if known := self.oracle.open.get(session):
            total = self.oracle.bytes.get(known.id, 0) + sent + received
            self.oracle.bytes[known.id] = total
            self.owed[known.id] = self.owed.get(known.id, 0) + sent + received
        self._take(self.guard.handle(used(session, sent, received), self.now))

    @rule(session=SESSIONS)
    def close(self, session: str) -> None:
        self.oracle.open.pop(session, None)
        assert self.guard.handle(SessionClosed(session=session), self.now) == ()
        self._retain()

    @rule(name=st.sampled_from(["alice", "alice.one", "alice.two", "bob"]), life=st.integers(0, 99))
    def revoke(self, name: str, life: int) -> None:
        until = int(self.now) + life
        if until >= self.now:
            self.oracle.revoked[name] = max(until, self.oracle.revoked.get(name, 0))
        self._take(self.guard.revoke(revocation(name, until), self.now))

    @rule(who=IDS, terms=TERMS)
    def learn(self, who: str, terms: Terms) -> None:
        if who in self.guard._tokens:
            self.oracle.records[who] = terms
        found = TokenRecord(
            id=who, account="AC1", issued_at=0, expires_at=EXPIRY, dialect="native", terms=terms
        )
        self._take(self.guard.learn(found, self.now))

    @rule(seconds=st.sampled_from([0.5, 3.0, 60.0, 1_000.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self._take(self.guard.tick(self.now))

    @rule(taken=st.booleans())
    def charge(self, taken: bool) -> None:
        charges = self.guard.charges()
        if not taken:
            assert self.guard.charges() == charges
            return
        for each in charges:
            self.owed[each.id] = self.owed.get(each.id, 0) - each.sent_bytes - each.received_bytes
        totals = {
            each.id: Usage(sent_bytes=self.oracle.bytes.get(each.id, 0) - self.owed[each.id])
            for each in charges
        }
        self._take(self.guard.charged(totals, self.now))
        self._retain()

    def _retain(self) -> None:
        """The guard may forget a token, with its record and total, once nothing is owed."""
        for who in list(self.oracle.records.keys() | self.oracle.bytes.keys()):
            if who not in self.guard._tokens:
                self.oracle.records.pop(who, None)
                self.oracle.bytes.pop(who, None)
                assert not self.owed.get(who)

    @invariant()
    def what_must_end_was_told(self) -> None:
        for name, session in self.oracle.open.items():
            if self.oracle.must_end(name, self.now):
                assert session.is_cut, name
        assert len(self.guard) == len(self.oracle.open)
        assert {each.session for each in self.guard.live(9)} == set(self.oracle.open)


GuardHistory.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestGuardHistory = GuardHistory.TestCase
