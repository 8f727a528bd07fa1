"""Key sets (JWKS) that accounts publish: which keys sign their access tokens.

Read at the start, every ten minutes, and when a token names an unknown key, at most once a minute.
A set that cannot be read leaves the former one in force. A key verifies only the algorithm that the
account registered for its set, whatever the set says. It does not know tokens.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import msgspec

from turn_broker.accounts.access_token import prepare_key
from turn_broker.accounts.table import Account, Accounts, Algorithm, ApiKey
from turn_broker.background import Background
from turn_broker.clock import monotonic

if TYPE_CHECKING:
    import httpx

log = logging.getLogger("turn_broker.accounts.jwks")

INTERVAL_S = 600.0
SOONEST_S = 60.0
"""Between two readings of one set."""
TIMEOUT_S = 5.0
MAX_BYTES = 64 * 1024
MAX_KEYS = 64
"""Of one set."""
MAX_SETS = 256
READ_AT_ONCE = 8
MAX_KID_CHARS = 256
_KIND_OF: dict[Algorithm, tuple[str, str | None]] = {
    "RS256": ("RSA", None),
    "ES256": ("EC", "P-256"),
    "EdDSA": ("OKP", None),
}


class _KeySet(msgspec.Struct):
    keys: list[dict[str, Any]]


def keys_of(content: bytes, algorithm: Algorithm) -> dict[str, Any]:
    """The set's verifiers for `algorithm` by kid; ValueError if it is no key set."""
    try:
        entries = msgspec.json.decode(content, type=_KeySet).keys
    except (msgspec.DecodeError, UnicodeError, RecursionError) as flaw:
        raise ValueError("no key set") from flaw
    found: dict[str, Any] = {}
    for entry in entries[:MAX_KEYS]:
        kid = entry.get("kid")
        if not isinstance(kid, str) or not 0 < len(kid) <= MAX_KID_CHARS:
            continue
        kind, curve = _KIND_OF[algorithm]
        fits = entry.get("kty") == kind and curve in (None, entry.get("crv"))
        is_ours = entry.get("alg", algorithm) == algorithm and entry.get("use", "sig") == "sig"
        if fits and is_ours and "d" not in entry:
            with contextlib.suppress(ValueError, KeyError):
                found[kid] = prepare_key(algorithm, entry)
    return found


@dataclass(frozen=True, slots=True)
class SetKey:
    """One key of a set."""

    account: Account
    owner: ApiKey
    """Whose set it is in."""
    verifier: Any


@dataclass(slots=True)
class _Set:
    keys: dict[str, Any] = field(default_factory=dict)
    """Verifiers by kid; the former ones while the set cannot be read."""
    tried_at: float = float("-inf")
    is_wanted: bool = True


class KeySets(Background):
    """An async context manager; it reads while it is entered."""

    def __init__(
        self,
        accounts: Accounts,
        *,
        clock: Callable[[], float] = monotonic,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._accounts = accounts
        self._clock = clock
        self._transport = transport
        self._sets: dict[tuple[str, Algorithm], _Set] = {}
        self._bell = asyncio.Event()
        self._was_read = asyncio.Event()
        self.failures = 0
        """Readings that failed."""

    def find(self, account_sid: str, kid: str, algorithm: str) -> SetKey | None:
        account = self._accounts.by_sid(account_sid)
        for key in account.api_keys if account else ():
            if key.jwks_url and key.algorithm == algorithm:
                known = self._sets.get((key.jwks_url, key.algorithm))
                verifier = known.keys.get(kid) if known else None
                if account and verifier is not None:
                    return SetKey(account, key, verifier)
        return None

    def is_being_read(self, account_sid: str) -> bool:
        """Whether one of the account's sets will be read now; orders it where it may be."""
        account = self._accounts.by_sid(account_sid)
        now, is_any = self._clock(), False
        for key in account.api_keys if account else ():
            if key.jwks_url:
                known = self._sets.get((key.jwks_url, key.algorithm))
                if known is None or known.is_wanted or now - known.tried_at >= SOONEST_S:
                    is_any = True
                    if known is not None:
                        known.is_wanted = True
        if is_any:
            self._bell.set()
        return is_any

    async def read_due(self) -> None:
        """Read the sets that are wanted or old, and forget those that nobody names any more."""
        named = {(key.jwks_url, key.algorithm) for key in self._accounts.api_keys() if key.jwks_url}
        chosen = sorted(named)[:MAX_SETS]
        self._sets = {name: self._sets.get(name) or _Set() for name in chosen}
        now = self._clock()
        due = [
            (name, known)
            for name, known in self._sets.items()
            if known.is_wanted or now - known.tried_at >= INTERVAL_S
        ]
        if not due:
            return
        import httpx  # Costs 10 MB, which most deployments need not spend.

        async with httpx.AsyncClient(
            transport=self._transport, timeout=TIMEOUT_S, trust_env=False
        ) as client:
            places = asyncio.Semaphore(READ_AT_ONCE)
            await asyncio.gather(*(self._read(client, places, *entry) for entry in due))

    async def _read(
        self,
        client: httpx.AsyncClient,
        places: asyncio.Semaphore,
        name: tuple[str, Algorithm],
        known: _Set,
    ) -> None:
        import httpx

        url, algorithm = name
        try:
            async with places, asyncio.timeout(TIMEOUT_S):
                known.keys = keys_of(await _fetched(client, url), algorithm)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError) as flaw:
            self.failures += 1
            log.warning("a key set cannot be read", extra={"reason": type(flaw).__name__})
        finally:
            known.tried_at = self._clock()
            known.is_wanted = False

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TIMEOUT_S):
                await self._was_read.wait()
        return self

    async def _work(self) -> None:
        while True:
            self._bell.clear()
            await self.read_due()
            self._was_read.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SOONEST_S):
                    await self._bell.wait()


async def _fetched(client: httpx.AsyncClient, url: str) -> bytes:
    """The body of a 200; raises httpx.HTTPError or ValueError."""
    content = bytearray()
    async with client.stream("GET", url, headers={"Accept": "application/json"}) as response:
        if response.status_code != 200:
            raise ValueError(f"status {response.status_code}")
        async for chunk in response.aiter_bytes():
            content += chunk
            if len(content) > MAX_BYTES:
                raise ValueError("the key set is too large")
    return bytes(content)
