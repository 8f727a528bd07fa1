"""The numbers and names of what backends are told."""

from __future__ import annotations

from signal_server.backplane.facts import Fact, Facts
from signal_server.core.effects import Announce


def announced(kind: str = "peer.joined", room: str = "r", account: str = "a") -> Announce:
    return Announce(kind=kind, account=account, room=room, data={})


def test_facts_are_numbered_by_room_until_it_closes() -> None:
    facts = Facts(100)
    kinds = ["room.created", "peer.joined", "room.closed", "room.created"]
    assert [facts.place(announced(kind), 1).sequence for kind in kinds] == [1, 2, 3, 1]
    assert facts.place(announced(room="s"), 1).sequence == 1
    assert facts.place(announced(account="b"), 1).sequence == 1


def test_the_room_that_was_quiet_longest_is_forgotten_first() -> None:
    facts = Facts(2)
    for room in "xyxz":
        facts.place(announced(room=room), 1)
    assert facts.place(announced(room="x"), 1).sequence == 3
    assert facts.place(announced(room="y"), 1).sequence == 1


def test_a_fact_has_the_same_name_wherever_it_is_announced() -> None:
    def place(facts: Facts) -> list[Fact]:
        return [facts.place(announced(), moment) for moment in (1, 2)]

    one, other = place(Facts(9)), place(Facts(9))
    assert [fact.name for fact in one] == [fact.name for fact in other]
    assert one[0].name != one[1].name
    assert one[0].name.startswith("msg_")
