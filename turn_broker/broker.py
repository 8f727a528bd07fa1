"""Grants TURN credentials: for whom, how long, and through which URLs of which node.

Pure: told the time and the randomness. A request it cannot grant is a `GrantRefusal`. It does not
know HTTP, dialects or whether a node is alive.

A username is `<expiry>:<identity digest>.<token id>`. The digest (80 bits of a keyed hash of
account and subject) is the same for every credential of one identity and tells nothing about it;
the token id (80 random bits) tells its credentials apart. So one credential can be revoked or
metered by the whole opaque id, and an identity by the part before the dot. coturn's `user-quota`
counts the whole part after the colon: there it is a quota per credential; a quota per identity is
the embedded relay's, or of whoever splits at the dot.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from turn_broker.credentials import mint
from turn_broker.ice_servers import IceServer, Kind, Transport, TurnUri
from turn_broker.policy import Policy
from turn_broker.secret_ring import SecretRing

ENTROPY_BYTES = 10
"""Random bytes that `Broker.grant` needs."""
_BEST_FIRST: dict[Kind, int] = {"udp": 0, "tcp": 1, "tls": 2, "stun": 3}
MAX_REGION_CHARS = 64


@dataclass(frozen=True, slots=True)
class TurnNode:
    """One TURN server and the URLs it is reached by."""

    id: str
    region: str
    urls: tuple[TurnUri, ...]

    def __post_init__(self) -> None:
        if all(url.kind == "stun" for url in self.urls):
            raise ValueError(f"TURN node {self.id} has no turn: or turns: URL")


@dataclass(frozen=True, slots=True)
class Grant:
    """A minted credential with the ICE servers it opens."""

    id: str
    """The opaque id: what follows the colon of the username."""
    username: str
    credential: str = field(repr=False)
    ttl: int
    expires_at: int
    ice_servers: tuple[IceServer, ...]


@dataclass(frozen=True, slots=True)
class GrantRefusal:
    code: Literal["bad_request"]
    message: str


class Broker:
    """The credentials of one realm."""

    def __init__(
        self,
        nodes: Sequence[TurnNode],
        ring: SecretRing,
        policy: Policy | None = None,
        *,
        identity_key: str | None = None,
    ) -> None:
        """`identity_key` keys the identity digests; by default the active secret does.

        Set it where secrets rotate: a digest must outlive the secret that minted with it.
        """
        if not nodes:
            raise ValueError("a broker needs at least one TURN node")
        self._nodes = tuple(nodes)
        self.ring = ring
        self.policy = policy or Policy()
        self._identity_key = (identity_key or ring.active).encode()
        self._usual = tuple(self._choose(None, None, self.policy.max_urls))

    def identity_digest(self, account_sid: str, subject: str) -> str:
        """The part of a username that all credentials of one identity share."""
        message = f"{account_sid}|{subject}".encode("utf-8", "surrogatepass")
        return _base32(hmac.digest(self._identity_key, message, "sha256"))

    def grant(  # noqa: PLR0913 - one parameter per thing a client may ask for
        self,
        account_sid: str,
        subject: str | None,
        now: float,
        *,
        ttl: int | None = None,
        region: str | None = None,
        transports: Iterable[str] | None = None,
        max_urls: int | None = None,
        entropy: bytes,
    ) -> Grant | GrantRefusal:
        """Credential for `subject`; None when the asker is an account that did not name anyone.

        Such a credential is an identity of its own. A region or transport that no node has falls
        back to what there is: a client without servers has no way left to connect.
        """
        if len(entropy) < ENTROPY_BYTES:
            raise ValueError(f"grant needs {ENTROPY_BYTES} random bytes")
        wanted = None if transports is None else tuple(transports)
        refusal = self._refusal(ttl, wanted, max_urls)
        if refusal:
            return GrantRefusal("bad_request", refusal)
        token_id = _base32(entropy)
        digest = self.identity_digest(account_sid, subject if subject is not None else token_id)
        lifetime = self.policy.default_ttl_s if ttl is None else ttl
        expires_at = int(now) + lifetime
        credential = mint(self.ring.active, f"{digest}.{token_id}", expires_at)
        is_usual = region is None and not wanted and max_urls is None
        chosen = self._usual if is_usual else self._choose(region, wanted, max_urls)
        stun = tuple(str(url) for url in chosen if url.kind == "stun")
        turn = tuple(str(url) for url in chosen if url.kind != "stun")
        relays = IceServer(turn, credential.username, credential.password)
        return Grant(
            id=f"{digest}.{token_id}",
            username=credential.username,
            credential=credential.password,
            ttl=lifetime,
            expires_at=expires_at,
            ice_servers=(IceServer(stun), relays) if stun else (relays,),
        )

    def _refusal(
        self, ttl: int | None, transports: tuple[str, ...] | None, max_urls: int | None
    ) -> str | None:
        policy = self.policy
        if ttl is not None and not policy.min_ttl_s <= ttl <= policy.max_ttl_s:
            return f"ttl must be {policy.min_ttl_s} to {policy.max_ttl_s} seconds"
        if max_urls is not None and not 1 <= max_urls <= policy.max_urls:
            return f"max_urls must be 1 to {policy.max_urls}"
        if transports is not None and not set(transports) <= set(get_args(Transport)):
            return f"transports must be of {', '.join(get_args(Transport))}"
        return None

    def _choose(
        self, region: str | None, transports: tuple[str, ...] | None, max_urls: int | None
    ) -> list[TurnUri]:
        """At most `max_urls` URLs, best node first and UDP, TCP, TLS, STUN of each.

        One URL per kind and node comes before a second of the same kind, and a TURN URL is always
        among them.
        """
        near = [node for node in self._nodes if node.region == region] or self._nodes
        urls = [url for node in near for url in _one_of_each_first(node.urls)]
        if transports:
            urls = [url for url in urls if url.kind in transports] or urls
        return list(dict.fromkeys(urls))[: max_urls or self.policy.max_urls]


def _one_of_each_first(urls: tuple[TurnUri, ...]) -> list[TurnUri]:
    seen: dict[Kind, int] = {}
    ranked: list[tuple[int, int, TurnUri]] = []
    for url in urls:
        turn = seen[url.kind] = seen.get(url.kind, 0) + 1
        ranked.append((turn, _BEST_FIRST[url.kind], url))
    return [url for _, _, url in sorted(ranked, key=lambda entry: entry[:2])]


def _base32(octets: bytes) -> str:
    return base64.b32encode(octets[:ENTROPY_BYTES]).decode().lower()
