"""What was verified stays verified, exactly as long as verifying again would say the same."""

from __future__ import annotations

from turn_broker.accounts.access_token import AccessTokens, Claims, TokenRefusal
from turn_broker.accounts.table import Account, Accounts, ApiKey
from turn_broker.accounts.verified_tokens import VerifiedTokens

NOW = 1_800_000_000
AC, SK = "AC" + "1" * 32, "SK" + "1" * 32


class Counting(AccessTokens):
    """Counts the verifications that were really made."""

    made = 0

    def verify(self, token: str, now: float) -> Claims | TokenRefusal:
        self.made += 1
        return super().verify(token, now)


def account(secret: str = "0123456789abcdef" * 4) -> Account:
    return Account(AC, "token", (ApiKey(SK, secret),))


class World:
    """Accounts that change when `changed` says so."""

    def __init__(self, *, remembered: int = 100) -> None:
        self.changed: list[Account] | None = [account()]
        self.accounts = Accounts([], self._take)
        self.tokens = Counting(self.accounts)
        self.verified = VerifiedTokens(self.tokens, self.accounts, remembered=remembered)

    def _take(self) -> list[Account] | None:
        changed, self.changed = self.changed, None
        return changed

    def issue(self, identity: str = "alice") -> str:
        owner = self.accounts.by_sid(AC)
        assert owner is not None
        return self.tokens.issue(owner, SK, identity, ttl_s=600, now=NOW)


def test_a_token_that_comes_back_is_verified_once() -> None:
    world = World()
    token = world.issue()
    first = world.verified.verify(token, NOW)
    assert isinstance(first, Claims)
    assert world.verified.verify(token, NOW + 599) is first
    assert world.tokens.made == 1


def test_after_its_expiry_the_real_verdict_counts_again() -> None:
    world = World()
    token = world.issue()
    world.verified.verify(token, NOW)
    assert isinstance(world.verified.verify(token, NOW + 601), Claims), "within the leeway"
    assert len(world.verified) == 0
    late = world.verified.verify(token, NOW + 700)
    assert isinstance(late, TokenRefusal)
    assert late.code == "token_expired"


def test_a_key_that_changed_or_went_away_is_noticed_at_once() -> None:
    world = World()
    token = world.issue()
    world.verified.verify(token, NOW)
    world.changed = [account("fedcba9876543210" * 4)]
    assert isinstance(world.verified.verify(token, NOW), TokenRefusal)
    world.changed = [account()]
    assert isinstance(world.verified.verify(token, NOW), Claims)
    world.changed = []
    assert isinstance(world.verified.verify(token, NOW), TokenRefusal)


def test_a_refusal_is_never_remembered_and_a_changed_token_is_another() -> None:
    world = World()
    token = world.issue()
    world.verified.verify(token, NOW)
    forged = token[:-5] + ("AAAAA" if token[-5:] != "AAAAA" else "BBBBB")
    for wrong in (forged, forged, "\ud800", ""):
        assert isinstance(world.verified.verify(wrong, NOW), TokenRefusal)
    assert world.tokens.made == 5
    assert len(world.verified) == 1


def test_only_so_many_are_remembered() -> None:
    world = World(remembered=2)
    tokens = [world.issue(f"identity-{number}") for number in range(3)]
    for token in tokens:
        world.verified.verify(token, NOW)
    assert len(world.verified) == 2
    world.verified.verify(tokens[2], NOW)
    assert world.tokens.made == 3
    world.verified.verify(tokens[0], NOW)
    assert world.tokens.made == 4


def test_it_can_be_turned_off() -> None:
    world = World(remembered=0)
    token = world.issue()
    for _ in range(2):
        assert isinstance(world.verified.verify(token, NOW), Claims)
    assert world.tokens.made == 2
