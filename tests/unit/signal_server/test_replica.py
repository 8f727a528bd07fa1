"""What a replica tells links and sessions when the journal has lost its end and the home with it.

`lost` is the home that has told more than the journal keeps, `found` the one that goes on without.
"""

from __future__ import annotations

import json

import pytest
from simulated import board_for

from signal_server.backplane.entries import (
    Batch,
    Claimed,
    Kind,
    Lost,
    Parcel,
    Seen,
    Tick,
    farewell,
)
from signal_server.backplane.facts import Facts
from signal_server.backplane.link import Fate, Link
from signal_server.backplane.replica import Outcome, Replica
from signal_server.core import inputs
from signal_server.wire.messages import Hello, Resume

DOUBTFUL = Claimed("n2", 2, is_doubtful=True)


class Site:
    """A link and what was said on it."""

    def __init__(self, number: int, node: str) -> None:
        self.link = Link(number, "a", node)
        self.frames: list[dict[str, object]] = []
        self.closed: list[tuple[object, ...]] = []

    def hello(self, connection: int, session: str) -> Batch:
        opened = inputs.Opened(
            connection=connection,
            admission=admission(session, f"secret-{session}"),
            session=session,
            peer=f"p-{session}",
            hello=Hello(token="t", room="r"),
        )
        return self.batch(opened)

    def resume(
        self, connection: int, session: str, *, secret: str | None = None, last_seq: int = 1
    ) -> Batch:
        resume = Resume(session, secret or f"secret-{session}", last_seq)
        allowed = admission(session, "next")
        return self.batch(inputs.Resumed(connection=connection, admission=allowed, resume=resume))

    def says(self, connection: int, **message: object) -> Batch:
        self.link.say(connection, json.dumps(message))
        return self._take()

    def batch(self, event: inputs.Input) -> Batch:
        self.link.submit(event)
        return self._take()

    def _take(self) -> Batch:
        batch = self.link.take("f")
        assert batch is not None
        return batch

    def hear(self, outcome: Outcome) -> Fate:
        """All that is for this link."""
        for _, parcel in outcome.parcels:
            if parcel.link == self.link.number and self._hear(parcel) is Fate.CUT:
                return Fate.CUT
        return Fate.GOES_ON

    def _hear(self, parcel: Parcel) -> Fate:
        heard = self.link.hear(parcel)
        if isinstance(heard, Fate):
            return heard
        self.closed += [item[1:] for item in heard if item[0] == Kind.CLOSE]
        self.frames += [json.loads(item[3]) for item in heard if item[0] == Kind.SEND]
        return Fate.GOES_ON

    @property
    def said(self) -> list[object]:
        """Types of what its clients were told, or the codes of refusals."""
        return [frame.get("code", frame["type"]) for frame in self.frames]


def admission(identity: str, secret: str) -> inputs.Admission:
    permit = inputs.Permit(account="a", identity=identity, may_turn=False)
    return inputs.Admission(permit=permit, token_life_s=1e6, resume_secret=secret)


def new_replica() -> Replica:
    return Replica("a", board_for(1), Facts(10), 64)


class Journal:
    """Two clients, each at a node of its own, and two homes that know them."""

    def __init__(self) -> None:
        self.now_ms = 1_000
        self.lost, self.found = new_replica(), new_replica()
        self.ann, self.bob = Site(1, "n1"), Site(2, "n3")
        self.common(Claimed("n1", 1))
        self.common(self.ann.hello(5, "ann"))
        self.common(self.bob.hello(5, "bob"))
        for site in (self.ann, self.bob):
            site.frames.clear()

    def common(self, entry: Batch | Claimed) -> None:
        """An entry that is kept."""
        outcome = self.applied(self.lost, entry)
        self.found.apply(entry, self.now_ms)
        for site in (self.ann, self.bob):
            assert site.hear(outcome) is Fate.GOES_ON

    def applied(self, home: Replica, entry: Batch | Claimed | Seen | Tick | Lost) -> Outcome:
        self.now_ms += 10
        outcome = home.apply(entry, self.now_ms)
        assert outcome.failures == []
        return outcome


@pytest.fixture
def journal() -> Journal:
    return Journal()


def test_a_link_that_heard_nothing_else_goes_on(journal: Journal) -> None:
    ann, found = journal.ann, journal.found
    assert ann.hear(journal.applied(found, DOUBTFUL)) is Fate.GOES_ON
    assert ann.link.seen == Seen(1, "n1", 2)
    journal.applied(found, ann.link.seen)
    ann.hear(journal.applied(found, ann.resume(6, "ann", last_seq=0)))
    assert "resumed" in ann.said


def test_who_was_told_what_is_lost_is_cut(journal: Journal) -> None:
    """Though nothing has a number: one `ok`."""
    journal.ann.hear(journal.applied(journal.lost, journal.ann.says(5, type="ack", seq=1)))
    claim = journal.applied(journal.found, DOUBTFUL)
    assert journal.ann.hear(claim) is Fate.CUT
    assert journal.ann.link.seen is None
    assert journal.bob.hear(claim) is Fate.GOES_ON


def test_as_many_parcels_are_no_proof(journal: Journal) -> None:
    """What took the place of what was lost has told the link as much."""
    ann, bob = journal.ann, journal.bob
    ann.hear(journal.applied(journal.lost, bob.says(5, type="update", data=1)))
    journal.applied(journal.found, ann.says(5, type="ack", seq=1))
    assert ann.hear(journal.applied(journal.found, DOUBTFUL)) is Fate.CUT


@pytest.mark.parametrize("last_seq", [0, 1])
def test_a_session_nobody_vouches_for_resumes_with_a_gap(journal: Journal, last_seq: int) -> None:
    """Whatever its number: it may have been told something without one."""
    other = Site(3, "n4")
    journal.applied(journal.found, DOUBTFUL)
    other.hear(journal.applied(journal.found, other.resume(1, "ann", last_seq=last_seq)))
    assert other.said == ["resume_gap"]
    assert "ann" not in journal.found.board.sessions.by_id


def test_a_wrong_secret_does_not_end_the_doubt(journal: Journal) -> None:
    other = Site(3, "n4")
    journal.applied(journal.found, DOUBTFUL)
    for secret in ("guessed", None):
        entry = other.resume(1, "ann", secret=secret, last_seq=0)
        other.hear(journal.applied(journal.found, entry))
    assert other.said == ["resume_expired", "resume_gap"]


def test_the_doubt_is_part_of_the_state(journal: Journal) -> None:
    other = Site(3, "n4")
    journal.applied(journal.found, DOUBTFUL)
    heir = new_replica()
    heir.restore(journal.found.capture())
    journal.applied(heir, Claimed("n5", 3))
    other.hear(journal.applied(heir, other.resume(1, "ann", last_seq=0)))
    assert other.said == ["resume_gap"]


def test_an_answer_to_an_earlier_home_ends_no_doubt(journal: Journal) -> None:
    """The link may have heard more of that home since."""
    other = Site(3, "n4")
    journal.applied(journal.found, DOUBTFUL)
    journal.applied(journal.found, Seen(1, "n1", 1))
    other.hear(journal.applied(journal.found, other.resume(1, "ann", last_seq=0)))
    assert other.said == ["resume_gap"]


def test_an_answer_to_a_later_home_does(journal: Journal) -> None:
    journal.applied(journal.found, DOUBTFUL)
    journal.applied(journal.found, Claimed("n5", 3))
    journal.applied(journal.found, Seen(1, "n1", 3))
    other = Site(3, "n4")
    other.hear(journal.applied(journal.found, other.resume(1, "ann", last_seq=0)))
    assert "resumed" in other.said


def test_an_ordinary_claim_doubts_nobody(journal: Journal) -> None:
    outcome = journal.applied(journal.found, Claimed("n2", 2))
    assert outcome.parcels == []
    other = Site(3, "n4")
    other.hear(journal.applied(journal.found, other.resume(1, "ann", last_seq=0)))
    assert "resumed" in other.said


def test_a_forgotten_link_that_asks_is_cut(journal: Journal) -> None:
    forgotten = Site(3, "n4")
    forgotten.hear(journal.applied(journal.lost, forgotten.hello(1, "cid")))
    assert journal.applied(journal.found, DOUBTFUL).parcels
    forgotten.link.ask()
    batch = forgotten.link.take("f")
    assert batch is not None
    assert forgotten.hear(journal.applied(journal.found, batch)) is Fate.CUT


def test_a_farewell_ends_a_link(journal: Journal) -> None:
    journal.applied(journal.found, farewell(1, "n1"))
    assert list(journal.found.links) == [2]
    assert journal.found.board.sessions.by_id["ann"].connection is None
    journal.applied(journal.found, farewell(1, "n1"))
    assert list(journal.found.links) == [2]


def test_what_followed_on_another_past_is_no_proof(journal: Journal) -> None:
    """The same entry, but what was lost before it did not concern the link."""
    ann, bob = journal.ann, journal.bob
    bob.hear(journal.applied(journal.lost, bob.says(5, type="ack", seq=1)))
    kept = ann.says(5, type="ack", seq=1)
    ann.hear(journal.lost.apply(kept, 2_000))
    journal.found.apply(kept, 2_000)
    assert ann.hear(journal.found.apply(DOUBTFUL, 3_000)) is Fate.CUT


def test_numbers_of_parcels_rise_within_a_millisecond(journal: Journal) -> None:
    last = 0
    for _ in range(50):
        outcome = journal.found.apply(journal.ann.says(5, type="ack", seq=0), 5_000)
        ((_, parcel),) = outcome.parcels
        assert parcel.number > parcel.after >= last
        last = parcel.number


def test_whoever_goes_on_without_a_journal_gets_another_secret_first(journal: Journal) -> None:
    """So that it cannot go on elsewhere as if what it is told were known."""
    ann, alone, elsewhere = journal.ann, journal.found, journal.lost
    assert ann.hear(alone.go_alone("n1", 1, 2_000, lambda: "island")) is Fate.GOES_ON
    assert ann.hear(alone.apply(ann.says(5, type="update", data=1, id=1), 2_010)) is Fate.GOES_ON
    assert ann.said == ["new_secret", "ok"]
    back, again = Site(3, "n1"), Site(4, "n4")
    back.hear(alone.apply(back.resume(1, "ann", secret="island", last_seq=0), 2_020))
    assert "resumed" in back.said
    again.hear(elsewhere.apply(again.resume(1, "ann", secret="island", last_seq=0), 2_020))
    assert again.said == ["resume_expired"]


def test_the_former_secret_is_good_until_the_new_one_has_come(journal: Journal) -> None:
    alone = journal.found
    alone.go_alone("n1", 1, 2_000, lambda: "island")
    back = Site(3, "n1")
    back.hear(alone.apply(back.resume(1, "ann", last_seq=0), 2_010))
    assert "resumed" in back.said


def test_while_alone_who_is_connected_elsewhere_finds_a_gap(journal: Journal) -> None:
    """Another home may have told it more."""
    alone = journal.found
    alone.go_alone("n1", 1, 2_000, lambda: "island")
    astray = Site(3, "n1")
    astray.hear(alone.apply(astray.resume(1, "bob", last_seq=0), 2_010))
    assert astray.said == ["resume_gap"]


def test_who_comes_back_when_all_can_be_reached_again_finds_none(journal: Journal) -> None:
    home, bob = journal.found, Site(3, "n3")
    home.go_alone("n1", 1, 2_000, lambda: "island")
    home.stay_alone(None)
    assert journal.bob.hear(home.cut_others("n1", 2_010)) is Fate.CUT
    bob.hear(home.apply(bob.resume(1, "bob", last_seq=0), 2_020))
    assert "resumed" in bob.said


def test_former_links_of_a_node_that_goes_alone_are_over(journal: Journal) -> None:
    assert journal.ann.hear(journal.found.go_alone("n1", 99, 2_000, lambda: "island")) is Fate.CUT
    assert journal.found.board.sessions.by_id["ann"].connection is None


def test_over_http_a_new_secret_could_be_lost(journal: Journal) -> None:
    journal.common(journal.ann.hello(-7, "cid"))
    journal.ann.frames.clear()
    assert journal.ann.hear(journal.found.go_alone("n1", 1, 2_000, lambda: "i")) is Fate.GOES_ON
    assert journal.ann.closed == [(-7, 4000, "resume")]
    assert journal.ann.said == ["new_secret", "peer_updated"], "of ann, and about cid"
