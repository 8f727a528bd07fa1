"""Key sets: which keys count, when they are read, and what an unreachable one changes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from turn_broker.accounts.access_token import AccessTokens, Claims, TokenRefusal
from turn_broker.accounts.jwks import MAX_BYTES, KeySets, keys_of
from turn_broker.accounts.table import Account, Accounts, Algorithm, ApiKey

NOW = 1_800_000_000
AC1, AC2 = "AC" + "1" * 32, "AC" + "2" * 32
SK1, SK2 = "SK" + "1" * 32, "SK" + "2" * 32
URL = "https://keys.test/jwks"
EC_KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
ED_KEY = ed25519.Ed25519PrivateKey.generate()
WEAK_KEY = rsa.generate_private_key(public_exponent=65537, key_size=1024)


def jwk(key: Any, kid: str, **more: Any) -> dict[str, Any]:
    algorithm: Any = OKPAlgorithm
    if isinstance(key, rsa.RSAPrivateKey):
        algorithm = RSAAlgorithm
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        algorithm = ECAlgorithm
    public: dict[str, Any] = json.loads(algorithm.to_jwk(key.public_key()))
    public.pop("key_ops", None)
    return public | {"kid": kid} | more


def document(*keys: object) -> bytes:
    return json.dumps({"keys": keys}).encode()


@pytest.mark.parametrize(
    ("algorithm", "found"),
    [("ES256", {"e"}), ("RS256", {"r"}), ("EdDSA", {"o"})],
)
def test_a_key_verifies_one_algorithm(algorithm: Algorithm, found: set[str]) -> None:
    content = document(
        jwk(EC_KEY, "e"),
        jwk(RSA_KEY, "r", use="sig"),
        jwk(ED_KEY, "o"),
        jwk(RSA_KEY, "other", alg="RS512"),
        jwk(RSA_KEY, "encrypts", use="enc"),
        jwk(WEAK_KEY, "weak"),
        jwk(RSA_KEY, ""),
        jwk(RSA_KEY, "x" * 300),
        {"kty": "oct", "k": "c2VjcmV0", "kid": "shared"},
        {"kty": "RSA", "kid": "broken", "n": "!", "e": "AQAB"},
        {"kty": "EC", "crv": "P-521", "kid": "curve"},
        {"kid": 1},
        {},
    )

    assert set(keys_of(content, algorithm)) == found


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"keys": 1}', b'{"keys": [1]}', b"[" * 9999]
)
def test_no_key_set(content: bytes) -> None:
    with pytest.raises(ValueError, match="no key set"):
        keys_of(content, "ES256")


class World:
    def __init__(self) -> None:
        self.answer = httpx.Response(200, content=document(jwk(EC_KEY, "one")))
        self.asked = 0
        self.now = 0.0
        account = Account(AC1, "t", (ApiKey(SK1, algorithm="ES256", jwks_url=URL),))
        self.accounts = Accounts([account, Account(AC2, "t2", (ApiKey(SK2, "s" * 32),))])
        self.sets = KeySets(
            self.accounts, clock=lambda: self.now, transport=httpx.MockTransport(self._serve)
        )
        self.tokens = AccessTokens(self.accounts, self.sets)

    def _serve(self, request: httpx.Request) -> httpx.Response:
        assert request.url == URL
        self.asked += 1
        return self.answer

    def verify(self, kid: str = "one", key: Any = EC_KEY, **changes: Any) -> Claims | TokenRefusal:
        claims = {"iss": AC1, "aud": "parley", "sub": "alice", "exp": NOW + 60} | changes
        algorithm = "ES256" if isinstance(key, ec.EllipticCurvePrivateKey) else "RS256"
        return self.tokens.verify(jwt.encode(claims, key, algorithm, {"kid": kid}), NOW)


def code_of(verdict: Claims | TokenRefusal) -> str:
    return verdict.code if isinstance(verdict, TokenRefusal) else "good"


async def test_tokens_of_a_set() -> None:
    world = World()
    assert code_of(world.verify()) == "unavailable"
    async with world.sets:
        verdict = world.verify()
        assert isinstance(verdict, Claims)
        assert (verdict.account_sid, verdict.identity, verdict.key_id) == (AC1, "alice", "one")
        other = ec.generate_private_key(ec.SECP256R1())
        assert code_of(world.verify(key=other)) == "unauthenticated"
        assert code_of(world.verify(key=RSA_KEY)) == "unauthenticated"
        assert code_of(world.verify(iss=AC2)) == "unauthenticated"
        assert code_of(world.verify(iss="AC9")) == "unauthenticated"


async def test_an_unknown_key_has_the_set_read_at_most_once_a_minute() -> None:
    world = World()
    await world.sets.read_due()
    world.answer = httpx.Response(200, content=document(jwk(EC_KEY, "two")))
    assert code_of(world.verify("two")) == "unauthenticated"
    await world.sets.read_due()
    assert world.asked == 1

    world.now = 61
    assert code_of(world.verify("two")) == "unavailable"
    await world.sets.read_due()
    assert (world.asked, code_of(world.verify("two"))) == (2, "good")
    assert code_of(world.verify("one")) == "unauthenticated"
    world.now = 700
    await world.sets.read_due()
    assert world.asked == 3


async def test_an_unknown_key_wakes_the_reader() -> None:
    world = World()
    async with world.sets:
        world.answer = httpx.Response(200, content=document(jwk(EC_KEY, "two")))
        world.now = 61
        async with asyncio.timeout(20):
            while code_of(world.verify("two")) == "unavailable":  # noqa: ASYNC110
                await asyncio.sleep(0)

    assert (world.asked, code_of(world.verify("two"))) == (2, "good")


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(500),
        httpx.Response(302, headers={"Location": URL}),
        httpx.Response(200, content=b"{"),
        httpx.Response(200, content=b" " * (MAX_BYTES + 1)),
    ],
)
async def test_a_set_that_cannot_be_read_stays(answer: httpx.Response) -> None:
    world = World()
    await world.sets.read_due()
    world.now, world.answer = 601, answer
    await world.sets.read_due()

    assert (world.asked, world.sets.failures) == (2, 1)
    assert code_of(world.verify()) == "good"


async def test_a_set_that_nobody_names_is_forgotten() -> None:
    world = World()
    await world.sets.read_due()
    world.accounts._fixed = ()
    world.accounts._sids.clear()
    world.accounts._keys.clear()
    await world.sets.read_due()

    assert not world.sets._sets
    assert code_of(world.verify()) == "unauthenticated"
