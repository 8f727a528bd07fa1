"""Grants TURN credentials: for whom, how long, and through which URLs of which node.

Pure: told the time and the randomness. A request it cannot grant is a `GrantRefusal`. It does not
know HTTP, dialects or whether a node is alive.

A username is `<expiry>:<identity digest>.<token id>`. The digest (80 bits of a keyed hash of
account and subject, in hex) is the same for every credential of one identity and tells nothing
about it; the token id (80 random bits, in hex) tells its credentials apart. So one credential can
be revoked or metered by the whole opaque id, and an identity by the part before the dot. coturn's
`user-quota` counts the whole part after the colon: there it is a quota per credential; a quota per
identity is the node agent's.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from msgspec import Struct

from turn_broker.credentials import mint
from turn_broker.fleet.messages import Terms, TokenRecord
from turn_broker.ice_servers import IceServer, Transport
from turn_broker.nodes.health import NodeList
from turn_broker.policy import Policy
from turn_broker.secret_ring import SecretRing

ID_BYTES = 10
ENTROPY_BYTES = 2 * ID_BYTES
"""Random bytes that `Broker.grant` needs: a token id, and an identity for who has none."""
MAX_REGION_CHARS = 64


class Wishes(Struct, frozen=True, kw_only=True):
    """What an asker may want of a grant; what is None is the policy's."""

    ttl: int | None = None
    """Seconds."""
    region: str | None = None
    transports: tuple[str, ...] | None = None
    max_urls: int | None = None
    client_address: str | None = None
    """Where the client is, to find the region nearest to it; is not kept."""
    terms: Terms = Terms()
    label: str | None = None


ANYTHING = Wishes()


class Grant(Struct, frozen=True, kw_only=True):
    """A minted credential with the ICE servers it opens; the credential never shows in a repr."""

    id: str
    """The opaque id: what follows the colon of the username."""
    username: str
    credential: str
    ttl: int
    expires_at: int
    ice_servers: tuple[IceServer, ...]
    """The last one is the relays'."""

    def __repr__(self) -> str:
        return f"Grant(username={self.username!r}, ttl={self.ttl})"

    @property
    def turn_urls(self) -> tuple[str, ...]:
        """Without STUN."""
        return self.ice_servers[-1].urls

    def record(self, account: str, now: float, dialect: str, wishes: Wishes) -> TokenRecord:
        """What the fleet remembers of it."""
        return TokenRecord(
            id=self.id,
            account=account,
            issued_at=int(now),
            expires_at=self.expires_at,
            dialect=dialect,
            label=wishes.label,
            terms=wishes.terms,
        )


@dataclass(frozen=True, slots=True)
class GrantRefusal:
    code: Literal["bad_request"]
    message: str


class Broker:
    """The credentials of one realm."""

    def __init__(
        self,
        nodes: NodeList,
        rings: Callable[[str], SecretRing],
        policy: Policy | None = None,
        *,
        identity_key: str,
    ) -> None:
        """`rings` gives the ring that mints for an account SID at this moment.

        `identity_key` keys the identity digests: a digest must outlive the secret that minted
        with it, so the key is none of the rings'.
        """
        self.nodes = nodes
        self.rings = rings
        self.policy = policy or Policy()
        self._identity_key = identity_key.encode()

    def identity_digest(self, account_sid: str, subject: str) -> str:
        """The part of a username that all credentials of one identity share."""
        return self._digest(account_sid, subject).hex()

    def grant(
        self,
        account_sid: str,
        subject: str | None,
        now: float,
        *,
        wishes: Wishes = ANYTHING,
        entropy: bytes,
    ) -> Grant | GrantRefusal:
        """Credential for `subject`; None when the asker is an account that did not name anyone.

        Such a credential is an identity of its own. A region or transport that no node has falls
        back to what there is: a client without servers has no way left to connect. An identity
        stays with its node while that node works.
        """
        if len(entropy) < ENTROPY_BYTES:
            raise ValueError(f"grant needs {ENTROPY_BYTES} random bytes")
        refusal = None if wishes is ANYTHING else self._refusal(wishes)
        if refusal:
            return GrantRefusal("bad_request", refusal)
        digest = entropy[ID_BYTES:ENTROPY_BYTES]
        if subject is not None:
            digest = self._digest(account_sid, subject)
        opaque_id = f"{digest.hex()}.{entropy[:ID_BYTES].hex()}"
        lifetime = self.policy.default_ttl_s if wishes.ttl is None else wishes.ttl
        expires_at = int(now) + lifetime
        credential = mint(self.rings(account_sid).active, opaque_id, expires_at)
        choice = self.nodes.choose(
            wishes.region,
            wishes.transports,
            wishes.max_urls or self.policy.max_urls,
            wishes.client_address,
            chance=int.from_bytes(digest[-4:]) / 2**32,
        )
        relays = IceServer(choice.turn, credential.username, credential.password)
        return Grant(
            id=opaque_id,
            username=credential.username,
            credential=credential.password,
            ttl=lifetime,
            expires_at=expires_at,
            ice_servers=(IceServer(choice.stun), relays) if choice.stun else (relays,),
        )

    def _refusal(self, wishes: Wishes) -> str | None:
        policy = self.policy
        if wishes.ttl is not None and not policy.min_ttl_s <= wishes.ttl <= policy.max_ttl_s:
            return f"ttl must be {policy.min_ttl_s} to {policy.max_ttl_s} seconds"
        if wishes.max_urls is not None and not 1 <= wishes.max_urls <= policy.max_urls:
            return f"max_urls must be 1 to {policy.max_urls}"
        if not set(wishes.transports or ()) <= set(get_args(Transport)):
            return f"transports must be of {', '.join(get_args(Transport))}"
        return None

    def _digest(self, account_sid: str, subject: str) -> bytes:
        message = f"{account_sid}|{subject}".encode("utf-8", "surrogatepass")
        return hmac.digest(self._identity_key, message, "sha256")[:ID_BYTES]
