"""A node's end of a link: what it takes for the next parcel, and what it answers a new home."""

from __future__ import annotations

from msgspec.structs import replace

from signal_server.backplane.entries import Batch, Item, Kind, Parcel, Seen
from signal_server.backplane.link import Fate, Link
from signal_server.core.inputs import Admission, Closed, Opened, Permit, Resumed
from signal_server.wire.messages import Hello, Resume

ITEM: Item = (Kind.SEND, 1, 1, b"{}")


def link_that_heard(*parcels: Parcel) -> Link:
    link = Link(7, "a", "n")
    for each in parcels:
        assert link.hear(each) == each.items
    return link


def parcel(number: int, after: int, epoch: int = 1) -> Parcel:
    return Parcel("a", 7, epoch, number, after, 0, [ITEM])


def told(link: Link) -> Seen | None:
    """As the courier takes it."""
    seen, link.seen = link.seen, None
    return seen


def test_a_parcel_takes_effect_once() -> None:
    link = link_that_heard(parcel(10, 0), parcel(20, 10))
    assert link.hear(parcel(20, 10)) == []
    assert link.hear(parcel(10, 0)) == []
    assert link.hear(parcel(30, 20)) == [ITEM]


def test_a_missing_parcel_cuts() -> None:
    link = link_that_heard(parcel(10, 0))
    assert link.hear(parcel(30, 20)) is Fate.CUT


def test_the_home_may_cut() -> None:
    link = link_that_heard(parcel(10, 0))
    assert link.hear(parcel(0, 0)) is Fate.CUT


def test_a_former_home_is_not_heard() -> None:
    link = link_that_heard(parcel(10, 0), parcel(20, 10, epoch=2))
    assert link.hear(parcel(30, 20)) == []
    assert link.hear(parcel(0, 0)) == []


def test_a_new_home_that_goes_on_is_told_so_once() -> None:
    link = link_that_heard(parcel(10, 0))
    assert told(link) is None, "there was no home before"
    assert link.hear(parcel(20, 10, epoch=2)) == [ITEM]
    assert link.has_news
    assert told(link) == Seen(7, "n", 2)
    assert link.hear(parcel(30, 20, epoch=2)) == [ITEM]
    assert told(link) is None


def test_a_new_home_that_knows_other_parcels_is_not_believed() -> None:
    """Also when it has said as many, or fewer."""
    for number, after in ((21, 11), (20, 9), (10, 9), (9, 0)):
        link = link_that_heard(parcel(10, 0))
        assert link.hear(parcel(number, after, epoch=2)) is Fate.CUT
        assert link.seen is None


def test_to_ask_is_to_say_nothing() -> None:
    link = Link(7, "a", "n")
    assert link.take("f") is None
    link.ask()
    assert link.has_news
    assert [link.take("f"), link.take("f")] == [Batch(7, "n", 1, "f", []), None]
    assert [each.number for each in link.pending] == [1]
    assert link.hear(replace(parcel(10, 0), done=1)) == [ITEM]
    assert link.pending == []


def test_hellos_that_may_take_effect_elsewhere_are_taken_back() -> None:
    permit = Permit(account="a", identity="i")
    admission = Admission(permit=permit, token_life_s=1, resume_secret="x")
    hello, resume = Hello(token="t"), Resume("s", "x", 0)
    link = Link(7, "a", "n")
    link.submit(Opened(connection=1, admission=admission, session="s", peer="p", hello=hello))
    link.say(1, "{}")
    assert link.take("f")
    link.submit(Resumed(connection=2, admission=admission, resume=resume))
    link.submit(Closed(3, "left"))
    assert link.take("f")
    link.submit(Resumed(connection=4, admission=admission, resume=resume))
    assert link.take_back_hellos() == [1, 2]
    assert [[type(each) for each in batch.events] for batch in link.pending] == [[tuple], [bytes]]
    last = link.take("f")
    assert last is not None
    assert len(last.events) == 1, "this one was not written"
