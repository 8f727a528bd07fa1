"""The rotation of a realm, with its fleet and agents in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from turn_client import eventually

from turn_broker.fleet.contract import FleetUnavailable
from turn_broker.fleet.memory import MemoryFleet
from turn_broker.fleet.messages import DEFAULT_RING, SKEW_S, NodeReport, RealmSecrets
from turn_broker.fleet.rotation import RingStatus, Rotation, RotationRefusal
from turn_broker.secret_ring import SecretRing

NOW = 1_800_000_000
AC1, AC2 = "AC" + "1" * 32, "AC" + "2" * 32
MAX_TTL_S = 3600


class Realm:
    """A fleet with a clock, and brokers that join it."""

    def __init__(self, state_file: Path | None = None) -> None:
        self.now = float(NOW)
        self.made = 0
        self.fleet = MemoryFleet(lambda: self.now, state_file)

    def broker(
        self,
        *nodes: str,
        configured: str = "first",
        own_rings: Callable[[], tuple[str, ...]] = tuple,
        poll_s: float = 60,
    ) -> Rotation:
        return Rotation(
            self.fleet,
            SecretRing(configured),
            nodes,
            lambda: self.now,
            max_ttl_s=MAX_TTL_S,
            new_secret=self._new_secret,
            own_rings=own_rings,
            poll_s=poll_s,
        )

    async def report(self, node: str, version: int | None = None) -> None:
        """By default the stored version is in force."""
        stored = await self.fleet.secrets()
        assert stored is not None
        known = stored.version if version is None else version
        await self.fleet.report(
            NodeReport(node=node, at=int(self.now), software="test", secrets_version=known)
        )

    def _new_secret(self) -> str:
        self.made += 1
        return f"made-{self.made}"


@pytest.fixture
def realm() -> Realm:
    return Realm()


async def test_the_configured_secret_mints_before_and_after_the_fleet_is_asked(
    realm: Realm,
) -> None:
    rotation = realm.broker()
    assert (rotation.ring(AC1).active, rotation.is_known) == ("first", False)

    await rotation.step()

    assert (rotation.ring(AC1).active, rotation.is_known) == ("first", True)
    assert await realm.fleet.secrets() == RealmSecrets(
        version=1, rings={DEFAULT_RING: SecretRing("first")}
    )
    assert rotation.ages_s() == {}


async def test_a_rotation_waits_for_its_nodes_and_ends(realm: Realm) -> None:
    rotation = realm.broker("a")
    await rotation.step()
    await realm.report("a")

    begun = await rotation.rotate()

    assert isinstance(begun, RingStatus)
    assert (begun.state, begun.waiting_for, begun.version) == ("next", ("a",), 2)
    await rotation.step()
    assert rotation.ring(AC1).active == "first"
    await realm.report("a")
    await rotation.step()
    assert rotation.ring(AC1).active == "made-1"
    (status,) = await rotation.status()
    assert (status.state, status.active_since) == ("active", NOW)
    assert status.retiring_until == (NOW + MAX_TTL_S + SKEW_S,)
    realm.now += 5
    assert rotation.ages_s() == {DEFAULT_RING: 5}
    realm.now += MAX_TTL_S + SKEW_S
    await rotation.step()
    assert rotation.ring(AC1).accepted(realm.now) == ("made-1",)


async def test_nodes_without_an_agent_are_named_and_force_goes_on(realm: Realm) -> None:
    rotation = realm.broker("a", "deaf")
    await rotation.step()
    await realm.report("a")

    refused = await rotation.rotate()

    assert refused == RotationRefusal("conflict", "nodes without a live agent: deaf")
    assert isinstance(await rotation.rotate(force=True), RingStatus)
    again = await rotation.rotate(force=True)
    assert again == RotationRefusal("conflict", "a rotation is under way already")
    await realm.report("a")
    await rotation.step()
    assert rotation.ring(AC1).active == "made-1"


async def test_force_releases_a_rotation_whose_node_has_died(realm: Realm) -> None:
    rotation = realm.broker("a", "b")
    await rotation.step()
    await realm.report("a")
    await realm.report("b")
    await rotation.rotate()
    realm.now += 60
    await realm.report("a")
    await rotation.step()
    assert rotation.ring(AC1).active == "first"

    status = await rotation.rotate(force=True)

    assert isinstance(status, RingStatus)
    assert status.waiting_for == ("a",)
    await realm.report("a")
    await rotation.step()
    assert rotation.ring(AC1).active == "made-1"


async def test_another_broker_and_a_restart_carry_on(tmp_path: Path) -> None:
    before = Realm(tmp_path / "fleet.json")
    first = before.broker("a")
    await first.step()
    await before.report("a")
    await first.rotate()

    after = Realm(tmp_path / "fleet.json")
    second = after.broker("a")
    await second.step()
    await after.report("a")
    await second.step()

    assert second.ring(AC1).active == "made-1"
    late = after.broker("a", configured="first")
    await late.step()
    assert late.ring(AC1).active == "made-1"
    assert (tmp_path / "fleet.json").stat().st_mode & 0o777 == 0o600


async def test_accounts_with_a_ring_of_their_own(realm: Realm) -> None:
    rotation = realm.broker("a", own_rings=lambda: (AC1,))
    for _ in range(3):
        await rotation.step()
        await realm.report("a")

    assert rotation.ring(AC1).active == "made-1"
    assert rotation.ring(AC2).active == "first"
    assert isinstance(await rotation.rotate(AC2), RingStatus)
    assert [one.ring for one in await rotation.status()] == [DEFAULT_RING, AC1, AC2]


async def test_an_edited_configuration_counts_at_a_start(realm: Realm) -> None:
    await realm.broker().step()
    edited = realm.broker(configured="second")

    await edited.step()

    assert edited.ring(AC1).accepted(realm.now) == ("second", "first")


async def test_a_fleet_that_forgot_everything_is_told_again(realm: Realm) -> None:
    rotation = realm.broker()
    await rotation.step()
    await rotation.rotate()
    await rotation.step()
    assert rotation.ring(AC1).active == "made-1"
    realm.fleet._secrets = None

    await rotation.step()

    stored = await realm.fleet.secrets()
    assert stored is not None
    assert (stored.version, stored.ring(AC1).active) == (1, "made-1")


async def test_the_service_goes_on_by_itself_and_bears_outages(
    realm: Realm, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotation = realm.broker("a", poll_s=0.001)
    failures = 0
    secrets = realm.fleet.secrets

    async def failing() -> RealmSecrets | None:
        nonlocal failures
        failures += 1
        if failures < 4:
            raise FleetUnavailable
        if failures == 4:
            raise RuntimeError("a bug")
        return await secrets()

    monkeypatch.setattr(realm.fleet, "secrets", failing)
    await rotation.start()
    assert not rotation.is_known
    await eventually(lambda: rotation.is_known)
    await realm.report("a")
    await rotation.rotate()
    await realm.report("a")
    await eventually(lambda: rotation.ring(AC1).active == "made-1")
    await rotation.stop()


async def test_brokers_that_rotate_at_once_do_not_overwrite_each_other(realm: Realm) -> None:
    brokers = [realm.broker() for _ in range(5)]
    await asyncio.gather(*(one.step() for one in brokers))

    outcomes = await asyncio.gather(*(one.rotate() for one in brokers))

    assert sum(isinstance(one, RingStatus) for one in outcomes) == 1
    assert sum(one.code == "conflict" for one in outcomes if isinstance(one, RotationRefusal)) == 4
