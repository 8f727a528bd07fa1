"""The JWT attack matrix (RFC 8725), the claims, and the room pattern."""

from __future__ import annotations

import base64
import fnmatch
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from turn_broker.accounts.access_token import AccessTokens, Claims, Grants, TokenRefusal
from turn_broker.accounts.table import Account, Accounts, Algorithm, ApiKey
from turn_broker.globs import matches

NOW = 1_800_000_000
AC1, AC2 = "AC" + "1" * 32, "AC" + "2" * 32
SK1, SK2, RSA_KID, EC_KID, ED_KID = ("SK" + digit * 32 for digit in "12345")
SECRET1, SECRET2 = "one-" + "0123456789abcdef" * 4, "two-" + "0123456789abcdef" * 4
PRIVATE: dict[str, Any] = {
    RSA_KID: rsa.generate_private_key(public_exponent=65537, key_size=2048),
    EC_KID: ec.generate_private_key(ec.SECP256R1()),
    ED_KID: ed25519.Ed25519PrivateKey.generate(),
}
ALGORITHMS: dict[str, Algorithm] = {RSA_KID: "RS256", EC_KID: "ES256", ED_KID: "EdDSA"}


def pem(kid: str) -> str:
    public = PRIVATE[kid].public_key()
    encoded: bytes = public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded.decode()


ACCOUNT1 = Account(
    AC1,
    "token-one",
    (
        ApiKey(SK1, SECRET1),
        *(
            ApiKey(kid, algorithm=algorithm, public_key=pem(kid))
            for kid, algorithm in ALGORITHMS.items()
        ),
    ),
)
ACCOUNT2 = Account(AC2, "token-two", (ApiKey(SK2, SECRET2),))
TOKENS = AccessTokens(Accounts([ACCOUNT1, ACCOUNT2]))


def claims(**changes: Any) -> dict[str, Any]:
    payload = {"iss": AC1, "aud": "parley", "sub": "alice", "exp": NOW + 600} | changes
    return {name: value for name, value in payload.items() if value is not ...}


def sign(
    payload: dict[str, Any] | None = None,
    headers: dict[str, Any] | None = None,
    key: Any = SECRET1,
    algorithm: str = "HS256",
) -> str:
    headers = {"kid": SK1} if headers is None else headers
    return jwt.encode(claims() if payload is None else payload, key, algorithm, headers)


def b64(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def sign_raw(header: bytes, payload: bytes) -> str:
    """A token whose signature is right whatever its parts are."""
    hs256 = jwt.get_algorithm_by_name("HS256")
    signing_input = f"{b64(header)}.{b64(payload)}"
    return f"{signing_input}.{b64(hs256.sign(signing_input.encode(), SECRET1.encode()))}"


HEADER = json.dumps({"alg": "HS256", "kid": SK1}).encode()


def test_a_minimal_token() -> None:
    assert TOKENS.verify(sign(), NOW) == Claims(
        account_sid=AC1,
        identity="alice",
        name=None,
        room=None,
        grants=Grants(),
        expires_at=NOW + 600,
        key_id=SK1,
    )


def test_every_claim() -> None:
    grants = {"join": False, "turn": False, "admin": True, "relay_only": True, "later": 1}
    token = sign(claims(aud=["x", "parley"], name="Ä", room="team-*", grants=grants, nbf=NOW - 1))

    verified = TOKENS.verify(token, NOW)

    assert isinstance(verified, Claims)
    assert (verified.name, verified.room) == ("Ä", "team-*")
    assert verified.grants == Grants(join=False, turn=False, admin=True, relay_only=True)
    assert not verified.may_join("team-1")


def test_registered_public_keys() -> None:
    for kid, algorithm in ALGORITHMS.items():
        token = sign(headers={"kid": kid}, key=PRIVATE[kid], algorithm=algorithm)
        verified = TOKENS.verify(token, NOW)
        assert isinstance(verified, Claims), algorithm
        assert verified.key_id == kid
        head, payload, signature = token.split(".")
        other = b64(json.dumps(claims(sub="mallory")).encode())
        assert isinstance(TOKENS.verify(f"{head}.{other}.{signature}", NOW), TokenRefusal)
        assert isinstance(TOKENS.verify(f"{head}.{payload}.", NOW), TokenRefusal)


def confused(kid: str) -> str:
    """HS256 with the public key as its secret; pyjwt will not sign that, so it is done by hand."""
    head = b64(json.dumps({"alg": "HS256", "kid": kid}).encode())
    signing_input = f"{head}.{b64(json.dumps(claims()).encode())}"
    mac = jwt.get_algorithm_by_name("HS256").sign(signing_input.encode(), pem(kid).encode())
    return f"{signing_input}.{b64(mac)}"


BAD_TOKENS: dict[str, str] = {
    "empty": "",
    "not a token": "abc",
    "two parts": sign().rsplit(".", 1)[0],
    "four parts": sign() + ".x",
    "not ascii": sign() + "é",
    "lone surrogate": "\ud800." + sign(),
    "null": "\x00",
    "oversize": sign(claims(name="n" * 9000)),
    "alg none": sign(key=None, algorithm="none"),
    "alg none, capitals": sign_raw(json.dumps({"alg": "NONE", "kid": SK1}).encode(), b"{}"),
    "signature removed": sign().rsplit(".", 1)[0] + ".",
    "signature of another secret": sign(key=SECRET2),
    "another account's kid": sign(headers={"kid": SK2}),
    "another account's issuer": sign(claims(iss=AC2)),
    "issuer prefix": sign(claims(iss=AC1[:-1])),
    "issuer list": sign_raw(HEADER, json.dumps(claims(iss=[AC1])).encode()),
    "no kid": sign(headers={}),
    "unknown kid": sign(headers={"kid": "SK" + "9" * 32}),
    "kid is the account": sign(headers={"kid": AC1}),
    "kid is a number": sign_raw(b'{"alg":"HS256","kid":1}', b"{}"),
    "kid is a path": sign(headers={"kid": "../../dev/null"}),
    "other hash": sign(algorithm="HS512"),
    "HS256 under an RSA kid": confused(RSA_KID),
    "HS256 under an EC kid": confused(EC_KID),
    "RS256 under an HS256 kid": sign(key=PRIVATE[RSA_KID], algorithm="RS256"),
    "ES256 under an RSA kid": sign(
        headers={"kid": RSA_KID}, key=PRIVATE[EC_KID], algorithm="ES256"
    ),
    "jku": sign(headers={"kid": SK1, "jku": "https://evil.test/jwks"}),
    "x5u": sign(headers={"kid": SK1, "x5u": "https://evil.test/x"}),
    "x5c": sign(headers={"kid": SK1, "x5c": ["AA=="]}),
    "jwk": sign(headers={"kid": SK1, "jwk": {"kty": "oct", "k": "AA"}}),
    "crit": sign_raw(json.dumps({"alg": "HS256", "kid": SK1, "crit": ["b64"]}).encode(), b"{}"),
    "b64": sign_raw(json.dumps({"alg": "HS256", "kid": SK1, "b64": False}).encode(), b"{}"),
    "no exp": sign(claims(exp=...)),
    "no iss": sign(claims(iss=...)),
    "no aud": sign(claims(aud=...)),
    "no sub": sign(claims(sub=...)),
    "other aud": sign(claims(aud="other")),
    "aud list without us": sign(claims(aud=["other"])),
    "aud prefix": sign(claims(aud="parley2")),
    "exp of 400 digits": sign(claims(exp=10**400)),
    "exp far away": sign(claims(exp=NOW + 10 * 366 * 86400)),
    "exp 2**53": sign(claims(exp=2**53)),
    "exp negative": sign(claims(exp=-1)),
    "exp null": sign_raw(HEADER, json.dumps(claims(exp=None)).encode()),
    "exp true": sign_raw(HEADER, json.dumps(claims(exp=True)).encode()),
    "exp text": sign_raw(HEADER, json.dumps(claims(exp=str(NOW + 600))).encode()),
    "exp NaN": sign_raw(HEADER, json.dumps(claims(exp=float("nan"))).encode()),
    "exp Infinity": sign_raw(HEADER, json.dumps(claims(exp=float("inf"))).encode()),
    "exp 1e400": sign_raw(HEADER, json.dumps(claims()).replace(str(NOW + 600), "1e400").encode()),
    "nbf in the future": sign(claims(nbf=NOW + 31)),
    "iat in the future": sign(claims(iat=NOW + 31)),
    "sub empty": sign(claims(sub="")),
    "sub too long": sign(claims(sub="x" * 129)),
    "sub with a line feed": sign(claims(sub="a\nb")),
    "sub with a bidi override": sign(claims(sub="a\u202eb")),
    "sub a number": sign_raw(HEADER, json.dumps(claims(sub=5)).encode()),
    "sub a lone surrogate": sign_raw(HEADER, json.dumps(claims(sub="\ud800")).encode()),
    "room empty": sign(claims(room="")),
    "room too long": sign(claims(room="r" * 129)),
    "name too long": sign(claims(name="n" * 129)),
    "grants a list": sign(claims(grants=["admin"])),
    "grant not a boolean": sign(claims(grants={"admin": "yes"})),
    "payload not JSON": sign_raw(HEADER, b"{"),
    "payload an array": sign_raw(HEADER, b"[]"),
    "payload not UTF-8": sign_raw(HEADER, b'{"iss":"\xff"}'),
    "payload deep": sign_raw(HEADER, b'{"x":' + b"[" * 5000 + b"]" * 5000 + b"}")[:8192],
    "header deep": sign_raw(b'{"alg":' + b"[" * 2500, b"{}"),
    "header an array": sign_raw(b"[]", b"{}"),
    "header null": sign_raw(b"null", b"{}"),
}


@pytest.mark.parametrize("name", BAD_TOKENS)
def test_attack_matrix(name: str) -> None:
    refusal = TOKENS.verify(BAD_TOKENS[name], NOW)

    assert isinstance(refusal, TokenRefusal)
    assert refusal.code == "unauthenticated"


def test_deep_payload_inside_the_size_limit() -> None:
    token = sign_raw(HEADER, b'{"x":' + b"[" * 2900 + b"]" * 2900 + b"}")

    assert len(token) < 8192
    assert isinstance(TOKENS.verify(token, NOW), TokenRefusal)


def test_expiry_has_a_leeway() -> None:
    token = sign()

    assert isinstance(TOKENS.verify(token, NOW + 629.9), Claims)
    refusal = TOKENS.verify(token, NOW + 630)
    assert isinstance(refusal, TokenRefusal)
    assert refusal.code == "token_expired"
    strict = AccessTokens(Accounts([ACCOUNT1]), leeway_s=0)
    assert isinstance(strict.verify(token, NOW + 600), TokenRefusal)


def test_an_expired_forgery_is_not_called_expired() -> None:
    refusal = TOKENS.verify(sign(claims(exp=NOW - 999), key=SECRET2), NOW)

    assert isinstance(refusal, TokenRefusal)
    assert refusal.code == "unauthenticated"


def test_the_wall_clock_is_not_asked() -> None:
    past = time.time() - 10 * 366 * 86400
    token = sign(claims(exp=int(past) + 60))

    assert isinstance(TOKENS.verify(token, past), Claims)


@given(st.text(max_size=300))
def test_no_text_raises(text: str) -> None:
    assert isinstance(TOKENS.verify(text, NOW), TokenRefusal)


@given(st.integers(0, len(sign()) - 1), st.characters(max_codepoint=127))
def test_no_single_change_is_accepted_as_someone_else(at: int, char: str) -> None:
    token = sign()
    verdict = TOKENS.verify(token[:at] + char + token[at + 1 :], NOW)

    # The last base64 digit of a part has spare bits, so a change may mean the same octets.
    assert isinstance(verdict, TokenRefusal) or verdict == TOKENS.verify(token, NOW)


def test_issued_tokens_verify() -> None:
    grants = Grants(admin=True, call=False)
    token = TOKENS.issue(
        ACCOUNT1, SK1, "bob", room="r-?", name="Bob", grants=grants, ttl_s=60, now=NOW + 0.7
    )

    verified = TOKENS.verify(token, NOW)

    assert verified == Claims(AC1, "bob", "Bob", "r-?", grants, NOW + 60, SK1)
    assert isinstance(TOKENS.verify(TOKENS.issue(ACCOUNT2, SK2, "x", now=NOW), NOW), Claims)


@pytest.mark.parametrize(
    "wish",
    [
        {"key_sid": SK2},
        {"key_sid": RSA_KID},
        {"identity": ""},
        {"identity": "a\x00"},
        {"room": ""},
        {"name": "n" * 129},
        {"ttl_s": 0},
        {"ttl_s": 10**12},
    ],
)
def test_nothing_is_issued_that_would_be_refused(wish: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"key_sid": SK1, "identity": "bob", "now": NOW} | wish
    with pytest.raises(ValueError, match=r"."):
        TOKENS.issue(ACCOUNT1, **arguments)


@pytest.mark.parametrize(
    "key",
    [
        ApiKey(SK1, "short"),
        ApiKey(SK1, algorithm="RS256", public_key="no PEM"),
        ApiKey(SK1, algorithm="RS256", public_key=pem(EC_KID)),
        ApiKey(SK1, algorithm="ES256", public_key=pem(RSA_KID)),
        ApiKey(SK1, algorithm="EdDSA", public_key=pem(EC_KID)),
    ],
)
def test_a_key_that_cannot_verify_is_refused_at_once(key: ApiKey) -> None:
    with pytest.raises(ValueError, match=SK1):
        AccessTokens(Accounts([Account(AC1, "t", (key,))]))


@pytest.mark.parametrize(
    ("pattern", "room", "expected"),
    [
        ("lobby", "lobby", True),
        ("lobby", "Lobby", False),
        ("lobby", "lobby2", False),
        ("team-*", "team-", True),
        ("team-*", "team-a/b", True),
        ("team-*", "xteam-", False),
        ("team-?", "team-1", True),
        ("team-?", "team-12", False),
        ("*", "anything", True),
        ("[ab]", "a", False),
        ("[ab]", "[ab]", True),
        ("*a*b", "xaxxb", True),
        ("*a*b", "xaxxbc", False),
    ],
)
def test_room_claim(pattern: str, room: str, expected: bool) -> None:
    verified = TOKENS.verify(sign(claims(room=pattern)), NOW)

    assert isinstance(verified, Claims)
    assert verified.may_join(room) is expected


@given(st.text("ab*?", max_size=8), st.text("ab", max_size=10))
def test_pattern_agrees_with_fnmatch(pattern: str, room: str) -> None:
    assert matches(pattern, room) is fnmatch.fnmatchcase(room, pattern)


def test_pattern_has_no_exponential_case() -> None:
    started = time.process_time()

    assert not matches("*a" * 64, "a" * 63 + "b" * 65)
    assert time.process_time() - started < 5
