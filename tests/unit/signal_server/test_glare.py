"""`[negotiation] glare = "arbitrate"`: the relay decides, and both ends decide alike."""

from __future__ import annotations

import itertools

import pytest
from switchboard_driver import Client, Driver, candidate, sdp

from signal_server.core.candidate_buffer import CandidateBuffer
from signal_server.core.negotiation import Arrival, Glare, Negotiation
from signal_server.core.tally import Tally
from signal_server.wire.codes import ErrorCode
from signal_server.wire.limits import Limits
from signal_server.wire.sdp import outline


def pair() -> tuple[Client, Client, Driver]:
    """The impolite one first: who joins later is polite."""
    driver = Driver(glare="arbitrate")
    impolite, polite = driver.connect(), driver.connect()
    driver.connect().take()
    for client in (impolite, polite):
        client.take()
    return impolite, polite, driver


def test_the_polite_ones_later_offer_is_refused() -> None:
    impolite, polite, driver = pair()
    impolite.send("offer", to=polite.peer, sdp=sdp(("0", "i")))
    polite.send("candidate", to=impolite.peer, candidate=candidate(1, "p"))
    error = polite.send("offer", to=impolite.peer, sdp=sdp(("0", "p")), id=1)[0]
    assert (error["code"], error["id"], error["winner_negotiation"]) == ("glare", 1, 1)
    assert "negotiation" not in error
    assert error["retryable"] is False
    assert impolite.flow() == []
    assert driver.board.tally.glare == 1
    assert driver.board.tally.candidates_held == 0, "those of the losing ufrag are dropped"
    late = polite.code("candidate", to=impolite.peer, candidate=candidate(2, "p"))
    assert late == "stale_generation"


def test_the_polite_one_then_answers() -> None:
    impolite, polite, _ = pair()
    impolite.send("offer", to=polite.peer, sdp=sdp(("0", "i")))
    polite.send("offer", to=impolite.peer, sdp=sdp(("0", "p")))
    assert polite.flow() == ["offer"]
    assert polite.code("answer", to=impolite.peer, sdp=sdp(("0", "q")), negotiation=1) is None
    polite.send("candidate", to=impolite.peer, candidate=candidate(1, "q"))
    assert polite.code("offer", to=impolite.peer, sdp=sdp(("0", "q"))) is None
    assert impolite.flow() == ["answer", "1", "offer"]


def test_the_impolite_ones_later_offer_voids_the_other() -> None:
    impolite, polite, driver = pair()
    asked = polite.send("offer", to=impolite.peer, sdp=sdp(("0", "p")), id="o")
    assert asked == [{"type": "ok", "id": "o", "negotiation": 1}]
    polite.send("candidate", to=impolite.peer, candidate=candidate(1, "p"))
    assert impolite.flow() == ["offer", "1"]
    polite.take()
    impolite.send("offer", to=polite.peer, sdp=sdp(("0", "i")))
    error, offer = polite.take()
    assert (error["code"], error["id"]) == ("glare", "o")
    assert (error["negotiation"], error["winner_negotiation"]) == (1, 2)
    assert (offer["type"], offer["negotiation"]) == ("offer", 2)
    late = polite.code("candidate", to=impolite.peer, candidate=candidate(2, "p"))
    assert late == "stale_generation"
    repeated = polite.send("offer", to=impolite.peer, sdp=sdp(("0", "p")), id="o")
    assert repeated[0]["code"] == "glare", "the answer that counts is the last one"
    refused = impolite.code("answer", to=polite.peer, sdp=sdp(("0", "x")), negotiation=1)
    assert refused == "stale_negotiation"
    assert polite.code("answer", to=impolite.peer, sdp=sdp(("0", "q")), negotiation=2) is None
    assert driver.board.tally.glare == 1


def test_an_offer_without_id_is_named_by_its_number() -> None:
    impolite, polite, _ = pair()
    polite.send("offer", to=impolite.peer, sdp=sdp(("0", "p")))
    impolite.send("offer", to=polite.peer, sdp=sdp(("0", "i")))
    error = polite.take("error")[0]
    assert (error["code"], error["negotiation"], error.get("id")) == ("glare", 1, None)


def test_ufrags_in_use_survive_a_lost_offer() -> None:
    impolite, polite, _ = pair()
    impolite.send("offer", to=polite.peer, sdp=sdp(("0", "i")))
    polite.send("answer", to=impolite.peer, sdp=sdp(("0", "p")))
    impolite.send("offer", to=polite.peer, sdp=sdp(("0", "i")))
    assert polite.code("offer", to=impolite.peer, sdp=sdp(("0", "p"), ("1", "p"))) == "glare"
    impolite.take()
    polite.send("candidate", to=impolite.peer, candidate=candidate(1, "p"))
    assert impolite.flow() == ["1"]


def test_peer_connections_collide_each_for_itself() -> None:
    impolite, polite, _ = pair()
    impolite.send("offer", to=polite.peer, sdp=sdp(("0", "i")), pc="x")
    assert polite.code("offer", to=impolite.peer, sdp=sdp(("0", "p"))) is None


def test_an_offer_made_again_is_no_glare() -> None:
    impolite, polite, driver = pair()
    for client, other in ((impolite, polite), (polite, impolite)):
        client.send("offer", to=other.peer, sdp=sdp(("0", "a")), pc=client.peer)
        assert client.code("offer", to=other.peer, sdp=sdp(("0", "a")), pc=client.peer) is None
    assert driver.board.tally.glare == 0


ORDERS = [
    order
    for order in itertools.permutations(["polite", "to impolite", "impolite", "to polite"])
    if order.index("polite") < order.index("to impolite")
    and order.index("impolite") < order.index("to polite")
]


@pytest.mark.parametrize("order", ORDERS)
def test_two_homes_decide_alike_without_asking(order: tuple[str, ...]) -> None:
    """Each end on a node of its own, offers crossing in every order."""
    tally = Tally()
    polite, impolite = (
        Negotiation(CandidateBuffer(Limits(), tally, gated=False), role)
        for role in (Glare.YIELDS, Glare.WINS)
    )
    sent: dict[str, int | ErrorCode] = {}
    arrivals: dict[str, Arrival] = {}
    for step in order:
        match step:
            case "polite":
                sent["polite"] = polite.send_offer(None, outline(sdp(("0", "p"))), 0.0)
            case "impolite":
                # Another number, as node-local numbers may collide.
                sent["impolite"] = impolite.send_offer(7, outline(sdp(("0", "i"))), 0.0)
            case "to impolite":
                number = sent["polite"]
                if not isinstance(number, ErrorCode):
                    arrivals["impolite"] = impolite.receive_offer(number)
            case "to polite":
                number = sent["impolite"]
                assert not isinstance(number, ErrorCode)
                arrivals["polite"] = polite.receive_offer(number)
    assert (polite.outgoing, polite.incoming) == (None, 7)
    assert (impolite.outgoing, impolite.incoming) == (7, None)
    polite_was_first = "impolite" in arrivals
    assert (arrivals["polite"] is Arrival.WON) is polite_was_first
    assert (sent["polite"] is ErrorCode.GLARE) is not polite_was_first
