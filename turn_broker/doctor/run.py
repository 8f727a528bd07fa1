"""Asks a TURN server everything the doctor wants to know.

Nothing is ever sent to the addresses that are tried as peers: only CreatePermission asks for them.
What was seen goes to `doctor.diagnose`.
"""

from __future__ import annotations

import asyncio
import secrets
import ssl
from collections.abc import Callable, Sequence

from msgspec import Struct

from turn_broker.credentials import TurnCredential, mint, parse_username, password_of
from turn_broker.doctor.credentials import is_refusal
from turn_broker.doctor.dangers import FORBIDDEN_PEERS
from turn_broker.doctor.report import (
    CredentialTrial,
    Observations,
    PermissionTrial,
    ServerObservation,
    UrlObservation,
)
from turn_broker.doctor.tls_look import look_at_tls
from turn_broker.ice_servers import TurnUri
from turn_broker.relay.stun import IPV4, IPV6, family_of
from turn_broker.turn.client import STEP_TIMEOUT_S, TurnClient
from turn_broker.turn.dialogue import TCP, Allocation, Failure, Reason
from turn_broker.turn.proof import prove_relay

FRESH_TTL_S = 600
LATER_S = (FRESH_TTL_S, 3600, 86_400, 30 * 86_400, 365 * 86_400, 10 * 365 * 86_400)
"""Expiries that a server whose clock is ahead accepts from some point on."""
SOON_S = 30
PASSED_S = (-30, -3600, -86_400)
"""Expiries that only a server whose clock is behind accepts."""
MAX_URLS_AT_ONCE = 8
_BEYOND_CREDENTIALS = (Reason.QUOTA, Reason.CAPACITY)


class Knowledge(Struct, frozen=True, kw_only=True):
    """What the doctor is told beforehand."""

    credential: TurnCredential | None = None
    secrets: tuple[str, ...] = ()
    """The active one first."""
    realm: str | None = None
    """The configured one."""

    def __repr__(self) -> str:
        return "Knowledge(...)"


class Examination:
    """One look at the URLs of one server, or of one fleet with the same secret."""

    def __init__(
        self,
        knowledge: Knowledge,
        *,
        clock: Callable[[], float],
        timeout_s: float = STEP_TIMEOUT_S,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`tls` replaces the system's trust."""
        self._known = knowledge
        self._clock = clock
        self._timeout_s = timeout_s
        self._tls = tls or ssl.create_default_context()
        self._turns = asyncio.Semaphore(MAX_URLS_AT_ONCE)

    async def observe(self, uris: Sequence[TurnUri]) -> Observations:
        """Look at every URL, then closer at each server behind them."""
        urls = tuple(await asyncio.gather(*(self._look_at(uri) for uri in uris)))
        servers: dict[str, list[UrlObservation]] = {}
        for url in urls:
            if url.server is not None and url.allocated is not None:
                servers.setdefault(url.server[0], []).append(url)
        closer = [self._look_closer(server, urls) for server, urls in servers.items()]
        credential = self._known.credential
        parsed = credential and parse_username(credential.username)
        return Observations(
            now=self._clock(),
            urls=urls,
            servers=tuple(await asyncio.gather(*closer)),
            expires_at=parsed.expires_at if parsed else None,
            is_of_secret=self._is_of_secret(credential),
            expected_realm=self._known.realm,
        )

    async def _look_closer(self, server: str, urls: list[UrlObservation]) -> ServerObservation:
        async with self._turns:
            relaying = [url.uri for url in urls if isinstance(url.allocated, Allocation)]
            refusing = [url.uri for url in urls if is_refusal(url.allocated)]
            at = (refusing or relaying or [urls[0].uri])[0]
            trials: tuple[CredentialTrial, ...] = ()
            if self._known.secrets and (refusing or relaying):
                trials = await (self._why_refused if refusing else self._clock_of)(at)
            return ServerObservation(
                server=server,
                at=at,
                trials=trials,
                permissions=await self._permissions(relaying[0]) if relaying else (),
                tcp_relay=await self._tcp_relay(relaying),
            )

    # One URL

    async def _look_at(self, uri: TurnUri) -> UrlObservation:
        async with self._turns:
            look = await look_at_tls(uri, self._timeout_s) if uri.kind == "tls" else None
            async with self._client(uri, None) as stranger:
                opened = await stranger.open()
                if opened is not None:
                    return UrlObservation(uri=uri, opened=opened, tls=look)
                server = stranger.server
                bound = await stranger.bind()
                factors = [_factor(stranger)]
                anonymous = None if uri.kind == "stun" else await stranger.allocate()
                factors.append(_factor(stranger))
            credential = self._credential(FRESH_TTL_S)
            seen = UrlObservation(
                uri=uri,
                server=server,
                tls=look,
                bound=bound,
                anonymous=anonymous,
                software=stranger.software,
                amplification=max(factors),
            )
            is_mute = isinstance(anonymous, Failure) and anonymous.code is None
            if credential is None or uri.kind == "stun" or is_mute:
                return seen
            return await self._relayed(seen, credential)

    async def _relayed(self, seen: UrlObservation, credential: TurnCredential) -> UrlObservation:
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with self._client(seen.uri, credential) as turn:
            allocated = await turn.allocate()
            took_ms = round((loop.time() - began) * 1000)
            proof = None
            if isinstance(allocated, Allocation):
                async with self._client(seen.uri, credential) as other:
                    proof = await prove_relay(
                        turn, other, timeout_s=self._timeout_s, always_loop=True
                    )
        return UrlObservation(
            uri=seen.uri,
            server=seen.server,
            tls=seen.tls,
            bound=seen.bound,
            anonymous=seen.anonymous,
            software=turn.software or seen.software,
            amplification=seen.amplification,
            allocated=allocated,
            proof=proof,
            took_ms=took_ms,
        )

    # Credentials

    async def _why_refused(self, uri: TurnUri) -> tuple[CredentialTrial, ...]:
        """Later and later expiries until one is accepted; then other secrets, as late as that."""
        trials = []
        for offset_s in LATER_S:
            trials += await self._try(uri, 0, offset_s)
            if trials and trials[-1].accepted:
                return tuple(trials)
        for index in range(1, len(self._known.secrets)):
            trials += await self._try(uri, index, LATER_S[-1])
        return tuple(trials)

    async def _clock_of(self, uri: TurnUri) -> tuple[CredentialTrial, ...]:
        trials = await self._try(uri, 0, SOON_S)
        for offset_s in PASSED_S:
            tried = await self._try(uri, 0, offset_s)
            trials += tried
            if not tried or not tried[0].accepted:
                break
        return tuple(trials)

    async def _try(self, uri: TurnUri, index: int, offset_s: int) -> list[CredentialTrial]:
        """One trial; none when the server said neither yes nor no to the credential."""
        minted = self._mint(self._known.secrets[index], offset_s)
        async with self._client(uri, minted) as turn:
            allocated = await turn.allocate()
        # A quota is looked at after the credential.
        is_known = isinstance(allocated, Allocation) or allocated.reason in _BEYOND_CREDENTIALS
        if not is_known and not is_refusal(allocated):
            return []
        return [CredentialTrial(secret=index, offset_s=offset_s, accepted=is_known)]

    def _credential(self, ttl_s: int) -> TurnCredential | None:
        if self._known.credential is not None or not self._known.secrets:
            return self._known.credential
        return self._mint(self._known.secrets[0], ttl_s)

    def _mint(self, secret: str, offset_s: int) -> TurnCredential:
        return mint(secret, f"doctor.{secrets.token_hex(8)}", int(self._clock()) + offset_s)

    def _is_of_secret(self, credential: TurnCredential | None) -> bool | None:
        if credential is None or not self._known.secrets:
            return None
        return any(
            secrets.compare_digest(
                password_of(known, credential.username).encode(), credential.password.encode()
            )
            for known in self._known.secrets
        )

    # Dangers

    async def _permissions(self, uri: TurnUri) -> tuple[PermissionTrial, ...]:
        """What each family's allocation lets a client reach; IPv6 where the server has it."""
        trials = []
        for family, version in ((IPV4, 4), (IPV6, 6)):
            async with self._client(uri, self._credential(FRESH_TTL_S)) as turn:
                allocated = await turn.allocate(family=None if family == IPV4 else family)
                if isinstance(allocated, Failure):
                    continue
                for peer in FORBIDDEN_PEERS:
                    # A peer of the other family is tried all the same: a bypass looks like that.
                    if family == IPV4 and family_of(peer) == IPV6 and "ffff" not in peer:
                        continue
                    refused = await turn.permit((peer, 9))
                    if refused is not None and refused.code is None:
                        break  # It answers no more: neither allowed nor denied.
                    allowed = refused is None
                    trials.append(PermissionTrial(peer=peer, allowed=allowed, family=version))
        return tuple(trials)

    async def _tcp_relay(self, uris: Sequence[TurnUri]) -> Allocation | Failure | None:
        uri = next((uri for uri in uris if uri.transport == "tcp"), None)
        if uri is None:
            return None
        async with self._client(uri, self._credential(FRESH_TTL_S)) as turn:
            return await turn.allocate(protocol=TCP)

    def _client(self, uri: TurnUri, credential: TurnCredential | None) -> TurnClient:
        return TurnClient(uri, credential, timeout_s=self._timeout_s, tls=self._tls)


def _factor(turn: TurnClient) -> float:
    asked, answered = turn.exchanged
    return answered / asked if asked else 0.0
