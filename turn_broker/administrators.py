"""Who may administer: an account itself, its tokens with the `admin` grant, and the operator.

An account is itself by its own credentials (Basic). The operator has the admin token and reaches
every account; the default account's own credentials are the operator's, too, for what belongs to no
account. It does not know what is administered.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, replace
from typing import Protocol

from turn_broker.accounts.table import Accounts
from turn_broker.asker import Asker, IssueRefusal
from turn_broker.authorization import Bearer, parse_authorization


class Authenticator(Protocol):
    """The issuer."""

    accounts: Accounts

    def shut_out(self, address: str) -> IssueRefusal | None: ...

    def authenticate(self, header: str | None, address: str) -> Asker | IssueRefusal: ...


@dataclass(frozen=True, slots=True)
class Administrator:
    """Somebody who has proved that he may."""

    account: str
    """SID: whose things are meant."""
    is_operator: bool = False
    """Also what belongs to no account: nodes, secrets, draining."""
    reaches_all: bool = False
    """May name any account."""
    rooms: str | None = None
    """Pattern of the only rooms that are meant; None: the whole account."""


class Administrators:
    """See the module's text."""

    def __init__(
        self, authenticator: Authenticator, *, default_account: str, admin_token: str = ""
    ) -> None:
        """`default_account` is a SID; an empty `admin_token` is nobody's."""
        self._authenticator = authenticator
        self._default_account = default_account
        self._admin_token = admin_token.encode()

    def identify(
        self, header: str | None, address: str, account: str | None
    ) -> Administrator | IssueRefusal:
        """Who sent this `Authorization` header from `address` and named this account, or none."""
        found = self._caller(header, address)
        if isinstance(found, IssueRefusal) or account is None or account == found.account:
            return found
        if not found.reaches_all:
            return IssueRefusal("forbidden", "what is another account's")
        if self._authenticator.accounts.by_sid(account) is None:
            return IssueRefusal("not_found", "no such account")
        return replace(found, account=account)

    def _caller(self, header: str | None, address: str) -> Administrator | IssueRefusal:
        given = parse_authorization(header)
        if isinstance(given, Bearer) and self._admin_token:
            shut_out = self._authenticator.shut_out(address)
            if shut_out is not None:
                return shut_out
            token = given.token.encode("utf-8", "surrogatepass")
            if hmac.compare_digest(token, self._admin_token):
                return Administrator(self._default_account, is_operator=True, reaches_all=True)
        asker = self._authenticator.authenticate(header, address)
        if isinstance(asker, IssueRefusal):
            return asker
        if asker.grants is None:
            sid = asker.account.sid
            return Administrator(sid, is_operator=sid == self._default_account)
        if not asker.grants.admin:
            return IssueRefusal("forbidden", "the access token has no admin grant")
        return Administrator(asker.account.sid, rooms=asker.room)
