"""Which URLs leave the list and return, and which a client is given."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from turn_broker.fleet.messages import SeenUrl
from turn_broker.ice_servers import TurnUri, parse_turn_uri
from turn_broker.nodes.choice import _MAX_ANSWERS, _MAX_PLANS
from turn_broker.nodes.health import LAST_GOOD_SPAN_S, NodeList, TurnNode, Verdict
from turn_broker.nodes.regions import Regions, RegionSettings

KINDS = ("udp", "tcp", "tls", "stun")


def uri(host: str, kind: str, port: int | None = None) -> TurnUri:
    return parse_turn_uri(
        {
            "udp": f"turn:{host}:{port or 3478}?transport=udp",
            "tcp": f"turn:{host}:{port or 3478}?transport=tcp",
            "tls": f"turns:{host}:{port or 5349}?transport=tcp",
            "stun": f"stun:{host}:{port or 3478}",
        }[kind]
    )


def node(
    name: str, region: str = "eu", kinds: tuple[str, ...] = KINDS, weight: int = 1
) -> TurnNode:
    return TurnNode(name, region, tuple(uri(name, kind) for kind in kinds), weight)


def fail(nodes: NodeList, name: str, kind: str, times: int = 3, now: float = 0) -> None:
    for _ in range(times):
        nodes.observe(name, uri(name, kind), "down", now, "timeout")


def good(nodes: NodeList, name: str, kind: str, times: int = 1, now: float = 0) -> None:
    for _ in range(times):
        nodes.observe(name, uri(name, kind), "up", now)


def texts(*urls: TurnUri) -> list[str]:
    return [str(url) for url in urls]


# Answers ----------------------------------------------------------------------------------------


def test_one_node_gives_udp_tcp_tls_and_stun() -> None:
    choice = NodeList([node("a")]).choose()

    assert texts(*choice.urls) == texts(*(uri("a", kind) for kind in KINDS))
    assert choice.turn == tuple(texts(*choice.urls)[:3])
    assert choice.stun == ("stun:a:3478",)
    assert not choice.is_degraded


def test_best_udp_tcp_and_tls_then_the_second_regions_udp() -> None:
    nodes = NodeList([node("a"), node("b", "us")])

    assert nodes.choose("us").urls == (
        uri("b", "udp"),
        uri("b", "tcp"),
        uri("b", "tls"),
        uri("a", "udp"),
    )
    assert nodes.choose().urls[0] == uri("a", "udp")
    assert nodes.choose("unknown") is nodes.choose()


def test_another_region_is_the_spare_before_another_node() -> None:
    nodes = NodeList([node("a"), node("b"), node("c", "us")])

    for chance in (0.0, 0.3, 0.6, 0.99):
        assert nodes.choose(chance=chance).urls[3] == uri("c", "udp")


def test_another_node_is_the_spare_when_there_is_one_region() -> None:
    nodes = NodeList([node("a"), node("b")])

    assert nodes.choose(chance=0.1).urls[::3] == (uri("a", "udp"), uri("b", "udp"))
    assert nodes.choose(chance=0.9).urls[::3] == (uri("b", "udp"), uri("a", "udp"))


def test_a_kind_that_the_best_node_lacks_comes_from_the_next() -> None:
    nodes = NodeList([node("a", kinds=("udp",)), node("b", "us", kinds=("udp", "tls"))])

    assert nodes.choose().urls == (uri("a", "udp"), uri("b", "tls"), uri("b", "udp"))


def test_further_urls_of_the_best_node_come_before_stun() -> None:
    urls = (uri("a", "stun"), uri("a", "udp"), uri("a", "udp", 443))
    choice = NodeList([TurnNode("a", "eu", urls)]).choose()

    assert choice.urls == (uri("a", "udp"), uri("a", "udp", 443), uri("a", "stun"))


def test_tls_on_443_comes_before_other_tls() -> None:
    urls = (uri("a", "tls"), uri("a", "tls", 443))

    assert NodeList([TurnNode("a", "eu", urls)]).choose(max_urls=1).urls == (uri("a", "tls", 443),)


@pytest.mark.parametrize(
    ("transports", "kinds"),
    [
        (("tls",), ["tls"]),
        (("tcp", "udp"), ["udp", "tcp"]),
        (("stun",), ["udp", "tcp", "tls"]),
        ((), ["udp", "tcp", "tls", "stun"]),
    ],
)
def test_transports_are_what_was_asked_for(transports: tuple[str, ...], kinds: list[str]) -> None:
    assert [url.kind for url in NodeList([node("a")]).choose(None, transports).urls] == kinds


def test_a_transport_that_nothing_serves_falls_back_to_what_there_is() -> None:
    assert NodeList([node("a", kinds=("udp",))]).choose(None, ("tls",)).urls == (uri("a", "udp"),)


@pytest.mark.parametrize("wanted", [1, 2, 3, 4, 9, None])
def test_never_more_than_four_urls(wanted: int | None) -> None:
    nodes = NodeList([node("a"), node("b", "us")], max_urls=9)

    assert len(nodes.choose(max_urls=wanted).urls) == min(wanted or 4, 4)


def test_weights_share_the_clients() -> None:
    nodes = NodeList([node("a", weight=1), node("b", weight=3)])

    first = [nodes.choose(chance=i / 400).urls[0].host for i in range(400)]
    assert (first.count("a"), first.count("b")) == (100, 300)


def test_clients_of_well_nodes_stay_where_they_are() -> None:
    nodes = NodeList([node(name) for name in "abcd"])
    before = [nodes.choose(chance=i / 400).urls[0].host for i in range(400)]
    fail(nodes, "b", "udp")
    after = [nodes.choose(chance=i / 400).urls[0].host for i in range(400)]

    moved = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert {old for old, _ in moved} == {"b"}
    shares = [sum(new == name for _, new in moved) for name in "acd"]
    assert sum(shares) == 100
    assert min(shares) >= 33


def test_the_same_answer_is_the_same_object() -> None:
    nodes = NodeList([node("a"), node("b"), node("c", "us")])

    assert nodes.choose(chance=0.1) is nodes.choose(chance=0.2)
    assert nodes.choose("us", ("tls",)) is nodes.choose("us", ("tls",))


def test_memory_of_answers_is_bounded() -> None:
    nodes = NodeList([node("a")])
    for i in range(_MAX_PLANS + 5):
        nodes.choose(None, ("udp",) * (i + 1))

    assert len(nodes._choice._plans) <= _MAX_PLANS

    many = NodeList([node(f"n{i}", kinds=("udp",)) for i in range(80)])
    for i in range(_MAX_ANSWERS + 2000):
        many.choose(chance=(i * 0.618034) % 1)
    (plan,) = many._choice._plans.values()
    assert len(plan.answers) <= _MAX_ANSWERS


def test_the_clients_address_decides_where_nobody_asked() -> None:
    regions = Regions(
        [RegionSettings(id="eu"), RegionSettings(id="us", networks=["203.0.113.0/24"])]
    )
    nodes = NodeList([node("a"), node("b", "us")], regions)

    assert nodes.choose(client_address="203.0.113.9").urls[0].host == "b"
    assert nodes.choose("eu", client_address="203.0.113.9").urls[0].host == "a"


def test_a_region_without_nodes_uses_the_next() -> None:
    regions = Regions([RegionSettings(id="empty"), RegionSettings(id="eu")])

    assert NodeList([node("a")], regions).choose("empty").urls[0].host == "a"


# Health -----------------------------------------------------------------------------------------


def test_a_url_leaves_after_three_misses_and_returns_after_two_successes() -> None:
    nodes = NodeList([node("a")])
    version = nodes.version

    assert [nodes.observe("a", uri("a", "tcp"), "down", 5, "timeout") for _ in range(4)] == [
        False,
        False,
        True,
        False,
    ]
    assert nodes.version == version + 1
    assert uri("a", "tcp") not in nodes.choose().urls
    assert uri("a", "udp") in nodes.choose().urls
    assert [nodes.observe("a", uri("a", "tcp"), "up", 9) for _ in range(3)] == [False, True, False]
    assert uri("a", "tcp") in nodes.choose().urls


def test_misses_count_only_in_a_row() -> None:
    nodes = NodeList([node("a")])
    for _ in range(5):
        fail(nodes, "a", "udp", times=2)
        good(nodes, "a", "udp")

    assert uri("a", "udp") in nodes.choose().urls
    fail(nodes, "a", "udp")
    for _ in range(5):
        good(nodes, "a", "udp")
        fail(nodes, "a", "udp", times=1)
    assert uri("a", "udp") not in nodes.choose().urls


def test_unproven_counts_as_up() -> None:
    nodes = NodeList([node("a")])
    fail(nodes, "a", "udp")
    for _ in range(2):
        nodes.observe("a", uri("a", "udp"), "unproven", 7, "forbidden")

    (health, *_) = nodes.statuses()[0].urls
    assert (health.is_listed, health.verdict, health.reason) == (True, "unproven", "forbidden")
    assert health.good_at == 7


def found(
    name: str, kind: str, verdict: Literal["up", "unproven", "down"], reason: str = ""
) -> SeenUrl:
    """By a broker elsewhere."""
    works = verdict != "down"
    url = str(uri(name, kind))
    return SeenUrl(node=name, url=url, works=works, verdict=verdict, reason=reason)


def test_without_a_prober_of_ours_others_decide() -> None:
    nodes = NodeList([node("a"), node("b")])
    version = nodes.version
    nodes.hear([found("a", "udp", "down", "timeout"), found("stranger", "udp", "down")], 5)

    assert uri("a", "udp") not in nodes.choose(transports=("udp",)).urls
    assert nodes.version == version + 1
    (health, *_) = nodes.statuses()[0].urls
    assert (health.is_listed, health.told) == (False, ("down", "timeout"))
    nodes.hear([found("a", "udp", "down"), found("a", "udp", "up")], 6)
    (health, *_) = nodes.statuses()[0].urls
    assert (health.is_listed, health.told, health.good_at) == (True, ("up", ""), 6)
    nodes.hear([], 7)
    assert nodes.statuses()[0].urls[0].told == ("unknown", "")
    assert nodes.version == version + 2  # nothing known, and somebody's proof: handed out


def test_a_proof_of_anybody_is_a_proof() -> None:
    nodes = NodeList([node("a")])
    fail(nodes, "a", "udp")
    assert nodes.seen() == (
        SeenUrl(node="a", url=str(uri("a", "udp")), works=False, verdict="down", reason="timeout"),
    )
    nodes.hear([found("a", "udp", "up")], 5)
    (health, *_) = nodes.statuses()[0].urls
    assert (health.is_listed, health.told) == (True, ("down", "timeout"))
    good(nodes, "a", "tcp")
    nodes.hear([found("a", "udp", "down"), found("a", "tcp", "down")], 6)
    assert uri("a", "udp") not in nodes.choose().urls
    assert uri("a", "tcp") in nodes.choose().urls
    assert not nodes.observe("a", uri("a", "udp"), "up", 7)
    assert nodes.observe("a", uri("a", "udp"), "up", 8)


def test_a_draining_node_is_not_chosen() -> None:
    nodes = NodeList([node("a"), node("b")])
    nodes.set_draining({"a", "stranger"})
    version = nodes.version

    assert {url.host for url in nodes.choose(chance=0.1).urls} == {"b"}
    assert [status.is_draining for status in nodes.statuses()] == [True, False]
    nodes.set_draining(frozenset({"a"}))
    assert nodes.version == version
    nodes.set_draining(())
    assert nodes.choose(chance=0.1).urls[0].host == "a"


def test_when_everything_is_sick_what_worked_last_is_handed_out() -> None:
    nodes = NodeList([node("a", kinds=("udp", "stun")), node("b", kinds=("udp",))])
    good(nodes, "a", "udp", now=0)
    good(nodes, "b", "udp", now=LAST_GOOD_SPAN_S + 1)
    fail(nodes, "a", "udp")
    assert nodes.choose().is_degraded is False
    fail(nodes, "b", "udp")

    choice = nodes.choose()
    assert choice.urls == (uri("b", "udp"),)
    assert choice.is_degraded
    assert nodes.is_degraded
    assert [status.is_up for status in nodes.statuses()] == [False, False]


def test_when_everything_fails_at_about_the_same_time_it_all_stays() -> None:
    nodes = NodeList([node("a", kinds=("udp",)), node("b", kinds=("udp",))])
    good(nodes, "a", "udp", now=0)
    good(nodes, "b", "udp", now=LAST_GOOD_SPAN_S)
    fail(nodes, "a", "udp")
    fail(nodes, "b", "udp")

    assert {url.host for url in nodes.choose().urls} == {"a", "b"}


def test_when_nothing_ever_worked_everything_is_handed_out() -> None:
    nodes = NodeList([node("a", kinds=("udp",)), node("b", kinds=("udp", "tcp"))])
    for name, kind in (("a", "udp"), ("b", "udp"), ("b", "tcp")):
        fail(nodes, name, kind)

    assert len(nodes.choose().urls) == 3


def test_when_all_nodes_drain_they_are_handed_out_all_the_same() -> None:
    nodes = NodeList([node("a")])
    nodes.set_draining({"a"})

    assert nodes.choose().turn
    assert nodes.is_degraded


def test_observing_a_stranger_is_a_mistake() -> None:
    nodes = NodeList([node("a", kinds=("udp",))])
    for name, kind in (("b", "udp"), ("a", "tcp")):
        with pytest.raises(KeyError):
            nodes.observe(name, uri("a", kind), "up", 0)


@pytest.mark.parametrize("nodes", [[], [node("a"), node("a", "us")]])
def test_a_list_needs_nodes_with_different_ids(nodes: list[TurnNode]) -> None:
    with pytest.raises(ValueError, match="TURN node"):
        NodeList(nodes)


@pytest.mark.parametrize(
    ("urls", "weight", "words"),
    [
        ((uri("a", "stun"),), 1, "no turn:"),
        ((uri("a", "udp"),), 0, "weight"),
        ((TurnUri("turn", "a", 53, "udp"),), 1, "port 53"),
    ],
)
def test_a_node_has_urls_that_browsers_use(
    urls: tuple[TurnUri, ...], weight: int, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        TurnNode("a", "eu", urls, weight)


# Everything -------------------------------------------------------------------------------------

FLEET = [
    node("a", "eu", weight=2),
    node("b", "eu", ("udp", "tls")),
    node("c", "us", ("udp", "tcp", "stun")),
    node("d", "us", ("tls",)),
]
ASKED = st.lists(st.sampled_from(("udp", "tcp", "tls")), unique=True).map(tuple)


class Health(RuleBasedStateMachine):
    """Whatever happens, a client gets one to four usable URLs, healthy ones if there are any."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes = NodeList(FLEET)
        self.now = 0.0
        self.streaks: dict[TurnUri, int] = {}
        self.sick: set[TurnUri] = set()
        self.draining: frozenset[str] = frozenset()

    @rule(
        at=st.sampled_from([(n.id, url) for n in FLEET for url in n.urls]),
        verdict=st.sampled_from(("up", "unproven", "down")),
        times=st.integers(1, 3),
    )
    def observe(self, at: tuple[str, TurnUri], verdict: Verdict, times: int) -> None:
        name, url = at
        for _ in range(times):
            self.now += 1
            self.nodes.observe(name, url, verdict, self.now)
            streak = self.streaks.get(url, 0)
            if verdict == "down":
                self.streaks[url] = min(streak, 0) - 1
                self.sick |= {url} if self.streaks[url] <= -3 else set()
            else:
                self.streaks[url] = max(streak, 0) + 1
                self.sick -= {url} if self.streaks[url] >= 2 else set()

    @rule(ids=st.frozensets(st.sampled_from([n.id for n in FLEET])))
    def drain(self, ids: frozenset[str]) -> None:
        self.nodes.set_draining(ids)
        self.draining = ids

    @rule(
        region=st.sampled_from(("eu", "us", None)),
        transports=ASKED,
        max_urls=st.integers(1, 4),
        chance=st.floats(0, 1, exclude_max=True),
    )
    def choose(
        self, region: str | None, transports: tuple[str, ...], max_urls: int, chance: float
    ) -> None:
        well = {
            url
            for n in FLEET
            if n.id not in self.draining
            for url in n.urls
            if url not in self.sick
        }
        choice = self.nodes.choose(region, transports, max_urls, chance=chance)

        assert 1 <= len(choice.urls) <= max_urls
        assert len(set(choice.urls)) == len(choice.urls)
        assert choice.turn
        has_well = any(url.kind != "stun" for url in well)
        assert choice.is_degraded is not has_well
        if has_well:
            assert set(choice.urls) <= well
        if transports and any(url.kind in transports for url in well) and has_well:
            assert {url.kind for url in choice.urls} <= set(transports)

    @invariant()
    def statuses_tell_the_same(self) -> None:
        listed = {h.url for s in self.nodes.statuses() for h in s.urls if h.is_listed}
        assert listed == {url for n in FLEET for url in n.urls} - self.sick


TestHealth = Health.TestCase
TestHealth.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@given(st.floats(0, 1, exclude_max=True))
def test_a_chance_keeps_its_node_while_others_come_and_go(chance: float) -> None:
    nodes = NodeList([node(name) for name in "abc"])
    mine = nodes.choose(chance=chance).urls[0].host
    others = [name for name in "abc" if name != mine]
    fail(nodes, others[0], "udp")
    assert nodes.choose(chance=chance).urls[0].host == mine
    nodes.set_draining({others[1]})
    assert nodes.choose(chance=chance).urls[0].host == mine
    fail(nodes, mine, "udp")
    good(nodes, mine, "udp", times=2)
    assert nodes.choose(chance=chance).urls[0].host == mine
