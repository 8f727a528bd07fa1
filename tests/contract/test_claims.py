"""When a claim is doubtful: Redis, its restart included, decides it by its run id and the epoch."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from redis_server import RedisServer, has_redis, start_redis

from signal_server.backplane.entries import Claimed
from signal_server.backplane.redis_journal import Claim, RedisJournal
from turn_broker.fleet.contract import FleetUnavailable
from turn_broker.fleet.redis_url import connect

ACCOUNT = "AC1"
pytestmark = [
    pytest.mark.redis,
    pytest.mark.skipif(not has_redis(), reason="no redis-server"),
]


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with start_redis() as server:
        yield server


class Claims:
    """Of one account, each given up at once."""

    def __init__(self, journal: RedisJournal, redis: RedisServer) -> None:
        self.journal = journal
        self._redis = redis

    async def claim(self, node: str, known: int = 0, *, anew: bool = False) -> Claim:
        claim = await self.journal.claim(ACCOUNT, node, known, await self._soon(), anew=anew)
        assert claim is not None
        return claim

    async def reclaim(self, node: str, epoch: int) -> Claim:
        claim = await self.journal.reclaim(ACCOUNT, node, epoch, await self._soon())
        assert claim is not None
        return claim

    async def release(self, node: str, claim: Claim) -> None:
        await self.journal.release(ACCOUNT, f"{node} {claim.epoch}")

    async def is_doubtful(self, node: str, known: int = 0) -> bool:
        """Of a claim that does not wait for the former home."""
        claim = await self.claim(node, known, anew=True)
        await self.release(node, claim)
        written = await self.journal.read(ACCOUNT, "0-0", None)
        (entry,) = (each.entry for each in written if each.entry_id == claim.entry_id)
        assert isinstance(entry, Claimed)
        return entry.is_doubtful

    async def restart(self) -> None:
        """With all that was written."""
        self._redis.kill()
        self._redis.start()
        for _ in range(3):
            try:
                await self.journal.live("n0")
                return
            except FleetUnavailable:
                continue

    async def _soon(self) -> int:
        return int(await self.journal.live("n0")) + 60_000


@pytest.fixture
async def claims(redis: RedisServer) -> AsyncIterator[Claims]:
    journal = RedisJournal(connect(redis.url), "a secret that is long enough")
    yield Claims(journal, redis)
    await journal.close()


async def test_a_claim_of_the_same_redis_is_not_doubtful(claims: Claims) -> None:
    await claims.release("n1", await claims.claim("n1"))
    assert not await claims.is_doubtful("n2", 1)


async def test_after_a_restart_the_former_home_is_waited_for_and_then_doubted(
    claims: Claims,
) -> None:
    await claims.release("n1", await claims.claim("n1"))
    await claims.restart()
    assert (await claims.claim("n2")).epoch == 0
    assert await claims.is_doubtful("n2")


async def test_an_older_data_set_is_doubtful(claims: Claims) -> None:
    await claims.release("n1", await claims.claim("n1"))
    assert (await claims.claim("n2", 5)).epoch == 0
    assert await claims.is_doubtful("n2", 5)


async def test_only_a_saved_state_ends_the_doubt(claims: Claims) -> None:
    """A home that came back could be gone before it has saved."""
    await claims.release("n1", await claims.claim("n1"))
    await claims.restart()
    back = await claims.reclaim("n1", 1)
    lease = await claims.journal.renew(ACCOUNT, f"n1 {back.epoch}")
    assert lease is not None
    assert lease.is_other_run
    await claims.release("n1", back)
    assert await claims.is_doubtful("n2")


async def test_a_saved_state_ends_the_doubt(claims: Claims) -> None:
    await claims.release("n1", await claims.claim("n1"))
    await claims.restart()
    back = await claims.reclaim("n1", 1)
    holder = f"n1 {back.epoch}"
    assert await claims.journal.save(ACCOUNT, holder, back.entry_id, b"state", anew=True)
    lease = await claims.journal.renew(ACCOUNT, holder)
    assert lease is not None
    assert not lease.is_other_run
    await claims.release("n1", back)
    assert not await claims.is_doubtful("n2")
