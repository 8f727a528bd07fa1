"""Journals, inboxes, homes and nodes in Redis: every command the backplane needs.

All keys of an account share one hash slot, so that the scripts also run in a Cluster. Entries and
states are sealed: they hold what peers tell each other. It does not know what entries mean.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from signal_server.backplane.entries import (
    Claimed,
    Entry,
    Parcel,
    decode_entry,
    decode_parcels,
    encode,
)
from signal_server.core.state import FORMAT
from turn_broker.fleet.redis_busy import Addition, busy_streams
from turn_broker.fleet.redis_stream import call
from turn_broker.fleet.redis_url import RedisClient

LEASE_MS = 1500
"""Without a renewal for that long, another node becomes the home."""
NODE_MS = 4000
"""Without a sign of life for that long, a node's connections are lost."""
KEPT_S = 86_400
"""Of what nobody touches any more."""
MAX_INBOX = 50_000
READ_COUNT = 256
_NONCE_BYTES = 12
_PURPOSE = b"parley backplane"

_CLAIM = """
-- KEYS home, epoch, journal. ARGV node, lease, known epoch, whether it may begin anew, deadline
local time = redis.call('TIME')
if time[1] * 1000 + time[2] / 1000 > tonumber(ARGV[5]) then return false end
if redis.call('EXISTS', KEYS[1]) == 1 then return false end
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
local known = redis.call('GET', KEYS[2]) or '0 -'
local last = tonumber(string.match(known, '^%d+'))
local forgotten = last < tonumber(ARGV[3])
local doubtful = last > 0 and (forgotten or string.match(known, '%S+$') ~= run)
if (forgotten or doubtful) and ARGV[4] == '0' then return {0, ''} end
local epoch = math.max(last, tonumber(ARGV[3])) + 1
redis.call('SET', KEYS[2], epoch .. ' ' .. run)
redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. epoch, 'PX', ARGV[2])
local claimed = ARGV[1] .. ' ' .. epoch
local id = redis.call('XADD', KEYS[3], '*', 'c', claimed, 'd', doubtful and '1' or '')
return {epoch, id}
"""
_RECLAIM = """
-- KEYS home, epoch, journal. ARGV node, lease, epoch so far, deadline
local time = redis.call('TIME')
if time[1] * 1000 + time[2] / 1000 > tonumber(ARGV[4]) then return false end
local known = redis.call('GET', KEYS[2]) or '0 -'
local now = tonumber(string.match(known, '^%d+'))
-- Only what is saved says that another process of Redis has everything.
local run = string.match(known, '%S+$')
local holder = redis.call('GET', KEYS[1])
local mine = ARGV[1] .. ' ' .. ARGV[3]
if holder and holder ~= mine then return false end
if now ~= 0 and now ~= tonumber(ARGV[3]) then return false end
local epoch = tonumber(ARGV[3]) + 1
redis.call('SET', KEYS[2], epoch .. ' ' .. run)
redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. epoch, 'PX', ARGV[2])
local id = redis.call('XADD', KEYS[3], '*', 'c', ARGV[1] .. ' ' .. epoch)
return {epoch, id}
"""
_RENEW = """
-- KEYS home, epoch, journal, snapshot. ARGV holder, lease, life
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return false end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
for i = 2, 4 do redis.call('EXPIRE', KEYS[i], ARGV[3]) end
local last = redis.call('XREVRANGE', KEYS[3], '+', '-', 'COUNT', 1)
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
local known = string.match(redis.call('GET', KEYS[2]) or '', '%x+$')
return {redis.call('TIME'), last[1] and last[1][1] or '0-0', known == run and 0 or 1}
"""
_SAVE = """
-- KEYS home, journal, snapshot, epoch. ARGV holder, position, state, life, anew
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
redis.call('SET', KEYS[4], string.match(ARGV[1], '%d+$') .. ' ' .. run)
local former = redis.call('HGET', KEYS[3], 'position')
redis.call('HSET', KEYS[3], 'position', ARGV[2], 'state', ARGV[3])
local saves = redis.call('HINCRBY', KEYS[3], 'saves', 1)
redis.call('EXPIRE', KEYS[3], ARGV[4])
if former then redis.call('XTRIM', KEYS[2], 'MINID', former) end
if ARGV[5] == '1' then
    -- With that id where the journal has lost its end: what comes must have a higher one.
    local added = redis.pcall('XADD', KEYS[2], ARGV[2], 'n', saves)
    if type(added) == 'table' then redis.call('XADD', KEYS[2], '*', 'n', saves) end
end
return 1
"""
_LIVE = """
-- KEYS node, inbox. ARGV life
redis.call('SET', KEYS[1], 1, 'PX', ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[1] * 10)
return redis.call('TIME')
"""
_RELEASE = """
-- KEYS home. ARGV holder
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
"""


class Claim(NamedTuple):
    epoch: int
    entry_id: str
    """Of the `Claimed` in the journal."""


class Lease(NamedTuple):
    now_ms: float
    """Redis' clock."""
    last_id: str
    """The journal's last entry."""
    is_other_run: bool
    """Redis is another process than the one that gave the home its epoch: it may have forgotten."""


class Written(NamedTuple):
    """An entry as it was read."""

    entry_id: str
    entry: Entry | None
    """None: not sealed with our key."""

    @property
    def unix_ms(self) -> int:
        return int(self.entry_id.partition("-")[0])


class Kept(NamedTuple):
    """A saved state."""

    position: str
    state: bytes | None
    saves: int
    """How often one was saved."""


class Sealed(NamedTuple):
    """An entry as it is kept."""

    entry_id: str
    fields: Mapping[bytes, bytes]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(map(len, self.fields.values()))

    @property
    def saves(self) -> int:
        """Of the saved state that what follows goes on from; 0: of the same as before."""
        return int(self.fields.get(b"n", 0))


def order(entry_id: str) -> tuple[int, int]:
    """Entry ids compare as pairs of numbers."""
    first, _, second = entry_id.partition("-")
    return int(first), int(second)


class RedisJournal:
    """Every method raises `turn_broker.fleet.contract.FleetUnavailable` when Redis does not
    answer."""

    def __init__(self, client: RedisClient, secret: str) -> None:
        self._client = client
        self._streams = busy_streams(client)
        derived = HKDF(SHA256(), 32, None, _PURPOSE).derive(secret.encode())
        self._cipher = AESGCM(derived)

    async def close(self) -> None:
        await self._client.aclose()

    # Journals -------------------------------------------------------------------------------

    async def append(self, account: str, entries: Iterable[Entry]) -> None:
        """In this order; after a failure some may be there."""
        key = _keys(account).journal
        sealed = [self._seal(encode(entry)) for entry in entries]
        await self._streams.add([Addition(key, "e", each) for each in sealed])

    async def read(self, account: str, after: str, block_ms: int | None) -> list[Written]:
        """The next entries; waits for them when `block_ms` is given."""
        found = await self._streams.read(_keys(account).journal, after, READ_COUNT, block_ms)
        return [Written(entry_id.decode(), self._entry(fields)) for entry_id, fields in found]

    async def saved(self, account: str) -> tuple[bytes | None, str]:
        """The last state, and the entry after which it was taken."""
        answer = await call(self._client.hmget(_keys(account).snapshot, ["position", "state"]))
        position, state = answer
        opened = None if state is None else self._open(state)
        if opened is None or position is None:
            return None, "0-0"
        return opened, position.decode()

    async def save(
        self, account: str, holder: str, position: str, state: bytes, *, anew: bool = False
    ) -> bool:
        """Keep the state and trim the journal behind the former one, so that a standby may read on;
        False when somebody else is the home. `anew`: the state does not follow from the journal."""
        keys = _keys(account)
        names = [keys.home, keys.journal, keys.snapshot, keys.epoch]
        sealed = self._seal(state)
        return bool(await self._eval(_SAVE, names, holder, position, sealed, KEPT_S, int(anew)))

    # Standbys -------------------------------------------------------------------------------

    async def latest(self, account: str) -> Kept:
        """What is saved, as it is kept."""
        fields = ["position", "state", "saves"]
        position, state, saves = await call(self._client.hmget(_keys(account).snapshot, fields))
        if position is None or state is None:
            return Kept("0-0", None, 0)
        return Kept(position.decode(), state, int(saves))

    async def read_sealed(self, account: str, after: str, block_ms: int) -> list[Sealed]:
        """The next entries as they are kept; waits for them."""
        found = await self._streams.read(_keys(account).journal, after, READ_COUNT, block_ms)
        return [Sealed(entry_id.decode(), fields) for entry_id, fields in found]

    def opened(self, kept: Kept) -> bytes | None:
        """The state; None when there is none."""
        return None if kept.state is None else self._open(kept.state)

    def written(self, sealed: Sealed) -> Written:
        return Written(sealed.entry_id, self._entry(sealed.fields))

    # Homes ----------------------------------------------------------------------------------

    async def claim(
        self, account: str, node: str, known: int, deadline_ms: int, *, anew: bool
    ) -> Claim | None:
        """Become the account's home; None while it has one, or when Redis only gets to it after
        the deadline: a Redis that hung would grant what nobody waits for any more.

        When Redis has forgotten even the epoch `known` here, or is another process than the one
        that gave it, only `anew` makes a home: the former one may still have everything. Otherwise
        the claim's epoch is 0.
        """
        keys = _keys(account)
        names = [keys.home, keys.epoch, keys.journal]
        return _claim_of(
            await self._eval(_CLAIM, names, node, LEASE_MS, known, int(anew), deadline_ms)
        )

    async def reclaim(self, account: str, node: str, epoch: int, deadline_ms: int) -> Claim | None:
        """Be the home again that `epoch` was; None when there was another in between."""
        keys = _keys(account)
        names = [keys.home, keys.epoch, keys.journal]
        return _claim_of(await self._eval(_RECLAIM, names, node, LEASE_MS, epoch, deadline_ms))

    async def renew(self, account: str, holder: str) -> Lease | None:
        """None when somebody else is the home, or nobody."""
        keys = _keys(account)
        names = [keys.home, keys.epoch, keys.journal, keys.snapshot]
        answer = await self._eval(_RENEW, names, holder, LEASE_MS, KEPT_S)
        if not answer:
            return None
        (seconds, micros), last, is_other_run = answer
        now_ms = int(seconds) * 1000 + int(micros) / 1000
        return Lease(now_ms, last.decode(), bool(is_other_run))

    async def release(self, account: str, holder: str) -> None:
        await self._eval(_RELEASE, [_keys(account).home], holder)

    # Nodes ----------------------------------------------------------------------------------

    async def live(self, node: str) -> float:
        """A sign of life; Redis' clock in milliseconds."""
        seconds, micros = await self._eval(_LIVE, [_node(node), _inbox(node)], NODE_MS)
        return int(seconds) * 1000 + int(micros) / 1000

    async def leave(self, node: str) -> None:
        """No more signs of life will come."""
        await call(self._client.delete(_node(node)))

    async def missing(self, nodes: Iterable[str]) -> set[str]:
        """Those that give no sign of life."""
        names = list(nodes)
        pipeline = self._client.pipeline(transaction=False)
        for name in names:
            pipeline.exists(_node(name))
        found = await call(pipeline.execute()) if names else []
        return {name for name, is_there in zip(names, found, strict=True) if not is_there}

    async def post(self, parcels: Mapping[str, list[Parcel]]) -> None:
        """Into the nodes' inboxes."""
        await self._streams.add(
            [
                Addition(_inbox(node), "p", self._seal(encode(each)), MAX_INBOX)
                for node, each in parcels.items()
            ]
        )

    async def collect(self, node: str, after: str, block_ms: int) -> tuple[list[Parcel], str]:
        """The inbox's next parcels, and where to go on."""
        parcels: list[Parcel] = []
        for entry_id, fields in await self._streams.read(_inbox(node), after, READ_COUNT, block_ms):
            after = entry_id.decode()
            opened = self._open(fields.get(b"p", b""))
            if opened is not None:
                parcels += decode_parcels(opened)
        return parcels, after

    # Inside ---------------------------------------------------------------------------------

    async def _eval(self, script: str, keys: list[str], *arguments: Any) -> Any:
        return await call(self._client.eval(script, len(keys), *keys, *arguments))

    def _seal(self, octets: bytes) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, octets, None)

    def _open(self, sealed: bytes) -> bytes | None:
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], None)
        except (InvalidTag, ValueError):
            return None

    def _entry(self, fields: Mapping[bytes, bytes]) -> Entry | None:
        if b"c" in fields:
            node, _, epoch = fields[b"c"].decode().rpartition(" ")
            return Claimed(node, int(epoch), bool(fields.get(b"d")))
        opened = self._open(fields.get(b"e", b""))
        return None if opened is None else decode_entry(opened)


class _Keys(NamedTuple):
    journal: str
    snapshot: str
    home: str
    epoch: str


def _keys(account: str) -> _Keys:
    base = f"parley:{FORMAT}:{{{account}}}"
    return _Keys(*(f"{base}:{name}" for name in _Keys._fields))


def _inbox(node: str) -> str:
    return f"parley:{FORMAT}:{{{node}}}:inbox"


def _node(node: str) -> str:
    return f"parley:{FORMAT}:{{{node}}}:alive"


def _claim_of(answer: Any) -> Claim | None:
    return Claim(int(answer[0]), answer[1].decode()) if answer else None
