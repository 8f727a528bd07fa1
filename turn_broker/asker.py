"""Somebody who asks the broker, and the no that he may hear.

It does not know how anybody proves who he is, or what is granted.
"""

from __future__ import annotations

from dataclasses import dataclass

from turn_broker.accounts.access_token import Grants
from turn_broker.accounts.table import Account
from turn_broker.problem import ProblemCode


@dataclass(frozen=True, slots=True)
class Asker:
    """Somebody who has proved who he is."""

    account: Account
    subject: str | None = None
    """The identity; None: the account itself, or nobody."""
    grants: Grants | None = None
    """Of an access token; None: the account's own credentials."""
    is_anonymous: bool = False
    """A probe without an account; what it uses is `account`'s."""
    room: str | None = None
    """Of an access token: an exact room or a pattern; None: any."""


@dataclass(frozen=True, slots=True)
class IssueRefusal:
    """A coded no; each dialect says it in its own words."""

    code: ProblemCode
    message: str
    retry_after_s: float | None = None
