"""The sessions of one node: begun by a hello, lost, resumed, expired, ended.

A connection is not a session: a lost connection leaves its session waiting for a window, in which
its numbered log goes on growing; whoever shows the secret takes it up again, and the former
connection is fenced off. It does not know rooms or messages between peers.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from enum import IntEnum, auto

from signal_server.core import inputs
from signal_server.core.address_policy import AddressPolicy
from signal_server.core.deadlines import Deadlines
from signal_server.core.effects import Close
from signal_server.core.outbox import Outbox
from signal_server.core.rate_limit import RateKeys
from signal_server.core.room import Session
from signal_server.wire.codec import Refusal
from signal_server.wire.codes import CloseCode, ErrorCode
from signal_server.wire.limits import Limits
from signal_server.wire.messages import Former, Resume

TOKEN_WARNING_S = 60.0
"""How long before its token expires a session is told."""


FORMER_SECRETS = 4
"""Of one session, that stay good until its client has spoken."""


class Due(IntEnum):
    """What a session has on the agenda; a plain Enum hashes eight times slower."""

    WINDOW_ENDS = auto()
    ICE_REFRESH = auto()
    TOKEN_WARNING = auto()
    TOKEN_EXPIRES = auto()


class Sessions:
    """Owner of the session tables."""

    def __init__(self, limits: Limits) -> None:
        self.by_connection: dict[int, Session] = {}
        """The sessions that have a connection."""
        self.by_id: dict[str, Session] = {}
        """All, also those that wait to be resumed."""
        self.agenda: Deadlines[tuple[str, Due]] = Deadlines()
        self._limits = limits

    def containers(self) -> tuple[object, ...]:
        """What there is to know."""
        return self.by_connection, self.by_id, self.agenda

    def begin(self, event: inputs.Opened, policy: AddressPolicy, now: float) -> Session:
        """A new session for a connection that said hello."""
        admission = event.admission
        permit = admission.permit
        session = Session(
            id=event.session,
            peer=event.peer,
            permit=permit,
            gated="gated" in event.hello.features,
            outbox=Outbox(self._limits.outbox_messages, self._limits.outbox_bytes),
            secret_hash=_hash(admission.resume_secret),
            connection=event.connection,
            keys=RateKeys(
                session=event.session,
                identity=f"{permit.account}/{permit.identity}",
                address=admission.address or None,
            ),
            policy=policy,
            remote=admission.remote,
            followed={} if "receipts" in event.hello.features else None,
        )
        self.by_id[session.id] = session
        self.by_connection[event.connection] = session
        self.watch_token(session, admission.token_life_s, now)
        return session

    def find(self, event: inputs.Resumed) -> Session | Refusal:
        """The session to resume; an unknown one and a wrong secret get the same answer."""
        session = self._shown(event.resume, event.admission.permit)
        if session is None:
            message = "that session is over; say hello without resume"
            return Refusal(ErrorCode.RESUME_EXPIRED, message)
        return session

    def former(self, event: inputs.Opened) -> Session | None:
        """The session that this hello replaces, if it may."""
        former = event.hello.replaces
        return None if former is None else self._shown(former, event.admission.permit)

    def _shown(self, named: Former | Resume, permit: inputs.Permit) -> Session | None:
        """The session whose secret is shown by its own identity."""
        session = self.by_id.get(named.session)
        given = _hash(named.secret)
        good = _NOBODY if session is None else (session.secret_hash, *session.former_hashes)
        # A sum, not `any`: all are compared, so time tells nothing.
        is_right = sum(hmac.compare_digest(given, each) for each in good) > 0
        is_theirs = session is not None and is_right and session.permit.who == permit.who
        return session if is_theirs else None

    def attach(
        self, session: Session, event: inputs.Resumed, policy: AddressPolicy, now: float
    ) -> Close | None:
        """Give the session its new connection; returns what fences the former one off."""
        former = session.connection
        if former is not None:
            del self.by_connection[former]
        used, current = _hash(event.resume.secret), session.secret_hash
        is_current = hmac.compare_digest(used, current)
        session.connection = event.connection
        session.permit = event.admission.permit
        session.policy = policy
        session.remote = event.admission.remote
        # The answer may be lost, or this resume be an old one that comes late: until the client has
        # spoken, every secret that it may hold stays good.
        held = () if is_current else (*session.former_hashes, current)
        others = tuple(each for each in held if each != used)
        session.former_hashes = (*others, used)[-FORMER_SECRETS:]
        session.secret_hash = _hash(event.admission.resume_secret)
        self.by_connection[event.connection] = session
        self.agenda.set((session.id, Due.WINDOW_ENDS), None)
        self.watch_token(session, event.admission.token_life_s, now)
        if former is None:
            return None
        if is_current:
            return Close(former, CloseCode.SUPERSEDED, "superseded")
        # Perhaps the client is there, and this is the old one: it may come again.
        return Close(former, CloseCode.GO_AWAY, "resume")

    def rekey(self, session: Session, secret: str) -> None:
        """Another secret; who has not got it yet may still show the one before."""
        session.former_hashes = (*session.former_hashes, session.secret_hash)[-FORMER_SECRETS:]
        session.secret_hash = _hash(secret)

    def detach(self, connection: int, now: float) -> Session | None:
        """The connection is lost; its session waits. None when it had none."""
        session = self.by_connection.pop(connection, None)
        if session is not None:
            session.connection = None
            self.agenda.set((session.id, Due.WINDOW_ENDS), now + self._limits.resume_window_s)
        return session

    def end(self, session: Session) -> None:
        """Nothing of it remains."""
        del self.by_id[session.id]
        if session.connection is not None:
            del self.by_connection[session.connection]
            session.connection = None
        for due in Due:
            self.agenda.set((session.id, due), None)

    def watch_token(self, session: Session, life_s: float, now: float) -> None:
        """A connection does not outlive its access token."""
        session.token_ends = now + life_s
        self.agenda.set((session.id, Due.TOKEN_EXPIRES), session.token_ends)
        warning = max(life_s / 2, life_s - TOKEN_WARNING_S)
        self.agenda.set((session.id, Due.TOKEN_WARNING), now + warning)

    def due(self, now: float) -> Iterator[tuple[Session, Due]]:
        """What is on the agenda by now."""
        for session_id, due in self.agenda.due(now):
            session = self.by_id.get(session_id)
            if session is not None:
                yield session, due


_NOBODY = (b"\0" * 32,)


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
