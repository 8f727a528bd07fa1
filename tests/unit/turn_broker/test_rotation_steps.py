"""A secret mints when every node knows it, and dies when no credential of it can live."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turn_broker.fleet.messages import DEFAULT_RING, SKEW_S, NodeReport, RealmSecrets
from turn_broker.fleet.rotation_steps import adopted, advanced, begun, forced, waiting_for
from turn_broker.secret_ring import RetiringSecret, SecretRing

NOW = 1_800_000_000
AC1, AC2 = "AC" + "1" * 32, "AC" + "2" * 32
OVERLAP_S = 3660
START = RealmSecrets(version=1, rings={DEFAULT_RING: SecretRing("first")})


def report(node: str, version: int) -> NodeReport:
    return NodeReport(node=node, at=NOW, software="test", secrets_version=version)


def test_from_next_to_active_to_retiring_to_removed() -> None:
    coming = begun(START, DEFAULT_RING, "second", NOW)
    assert (coming.version, coming.accepted(NOW)) == (2, ("first", "second"))
    assert coming.ring(AC1).active == "first"
    assert advanced(coming, [report("a", 1)], ["a"], NOW, OVERLAP_S) is None

    active = advanced(coming, [report("a", 2)], ["a"], NOW + 5, OVERLAP_S)
    assert active is not None
    assert (active.version, active.ring(AC1).active, active.ring(AC1).since) == (
        3,
        "second",
        NOW + 5,
    )
    assert active.accepted(NOW + 5 + OVERLAP_S) == ("second", "first")
    assert advanced(active, [], [], NOW + 5 + OVERLAP_S, OVERLAP_S) is None

    removed = advanced(active, [], [], NOW + 6 + OVERLAP_S, OVERLAP_S)
    assert removed is not None
    assert removed.ring(AC1) == SecretRing("second", since=NOW + 5)


def test_every_node_is_waited_for_and_named() -> None:
    coming = begun(START, DEFAULT_RING, "second", NOW)
    ring = coming.rings[DEFAULT_RING]
    reports = [report("told", 2), report("late", 1), report("restored", 9), report("stranger", 0)]

    waiting = waiting_for(coming, ring, reports, ["told", "late", "silent"])

    assert waiting == ("late", "restored", "silent", "stranger")


def test_force_does_not_wait_for_nodes_without_an_agent() -> None:
    coming = begun(START, DEFAULT_RING, "second", NOW)
    assert advanced(coming, [report("a", 2)], ["a", "silent"], NOW, OVERLAP_S) is None

    released = forced(coming, DEFAULT_RING)

    assert released is not None
    assert forced(released, DEFAULT_RING) is None
    assert forced(START, DEFAULT_RING) is None
    assert forced(START, AC1) is None
    assert advanced(released, [report("a", 2)], ["a", "silent"], NOW, OVERLAP_S) is None
    done = advanced(released, [report("a", 3)], ["a", "silent"], NOW, OVERLAP_S)
    assert done is not None
    assert done.ring(AC1).active == "second"
    assert not done.ring(AC1).is_forced


def test_an_account_gets_a_ring_of_its_own() -> None:
    coming = begun(START, AC1, "own", NOW)
    assert coming.ring(AC1).active == "first"

    done = advanced(coming, [report("a", 2)], ["a"], NOW, OVERLAP_S)

    assert done is not None
    assert (done.ring(AC1).active, done.ring(AC2).active) == ("own", "first")
    with pytest.raises(ValueError, match="under way"):
        begun(coming, AC1, "other", NOW)


def test_a_configured_secret_counts_until_the_first_rotation() -> None:
    configured = SecretRing("edited")

    taken = adopted(START, configured, NOW, OVERLAP_S)

    assert taken is not None
    assert taken.rings[DEFAULT_RING] == SecretRing(
        "edited", (RetiringSecret("first", NOW + OVERLAP_S),)
    )
    assert adopted(taken, configured, NOW, OVERLAP_S) is None
    back = adopted(taken, SecretRing("first"), NOW, OVERLAP_S)
    assert back is not None
    assert back.accepted(NOW) == ("first", "edited")
    coming = begun(START, DEFAULT_RING, "second", NOW)
    assert adopted(coming, configured, NOW, OVERLAP_S) is None
    rotated = advanced(coming, [], [], NOW, OVERLAP_S)
    assert rotated is not None
    assert adopted(rotated, configured, NOW, OVERLAP_S) is None


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_no_credential_is_refused_while_it_is_good(data: st.DataObject) -> None:
    """Brokers that hear late mint, nodes that hear late verify, in any order of events."""
    max_ttl_s, now, made = 600, NOW, 0
    stored = START
    nodes, brokers = {"a": START, "b": START}, {0: START, 1: START}
    heard_at = dict.fromkeys(brokers, now)
    minted: list[tuple[str, int]] = []
    for _ in range(data.draw(st.integers(1, 40))):
        match data.draw(st.sampled_from(["wait", "begin", "node", "broker", "step", "mint"])):
            case "wait":
                now += data.draw(st.integers(1, 400))
                for broker, at in heard_at.items():
                    if now - at > SKEW_S:
                        brokers[broker], heard_at[broker] = stored, now
            case "begin":
                if stored.ring(AC1).next is None:
                    made += 1
                    stored = begun(stored, DEFAULT_RING, f"secret-{made}", now)
            case "node":
                nodes[data.draw(st.sampled_from(sorted(nodes)))] = stored
            case "broker":
                broker = data.draw(st.sampled_from(sorted(brokers)))
                brokers[broker], heard_at[broker] = stored, now
            case "step":
                reports = [report(name, known.version) for name, known in nodes.items()]
                after = advanced(stored, reports, list(nodes), now, max_ttl_s + SKEW_S)
                stored = after or stored
            case _:
                known = brokers[data.draw(st.sampled_from(sorted(brokers)))]
                ttl = data.draw(st.integers(1, max_ttl_s))
                minted.append((known.ring(AC1).active, now + ttl))
        for secret, expires_at in minted:
            for known in nodes.values():
                assert expires_at < now or secret in known.accepted(now)
