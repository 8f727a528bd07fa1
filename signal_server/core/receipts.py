"""Tells senders what became of their messages, where they want to know (feature `receipts`).

Two halves that meet in one small `Fact`, so that they may live on two nodes. The sender's home
follows each message: it knows what was relayed, held, dropped and applied, for the evidence is
addressed to the sender. The receiver's home knows one thing more: what was acknowledged. It does
not know what messages say.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from signal_server.core.negotiation import Negotiation
from signal_server.core.room import Followed, Session
from signal_server.wire.base import Numbered
from signal_server.wire.receipts import Receipt, Stage, Why

Ref = str | int
"""A request's `id`."""

_WHY = {"expired": Why.EARLY_TTL}
"""The candidate buffer's words that differ from the receipts'."""


class Fact(NamedTuple):
    """What the receiver's home tells the sender's."""

    sender: str
    """Its peer id."""
    ref: Ref
    stage: Stage
    reason: Why | None = None


class Receipts:
    """Owns nothing: what is followed and awaited belongs to the sessions."""

    def __init__(
        self,
        most: int,
        deliver: Callable[[Session, Numbered], None],
        session_of: Callable[[str], Session | None],
    ) -> None:
        """`most` messages of one session are followed at a time."""
        self._most = most
        self._deliver = deliver
        self._session_of = session_of

    # The sender's home ----------------------------------------------------------------------

    def relayed(self, sender: Session, target: Session, ref: Ref | None) -> None:
        """The latest message in the target's log is this request's."""
        if sender.followed is not None and ref is not None:
            entry = self._follow(sender.followed, sender, Followed(target.peer), ref)
            self._in_log(sender, target, ref, entry)

    def described(self, sender: Session, end: Negotiation, number: int, ref: Ref | None) -> None:
        """It was a description, so there is one stage more."""
        entry = None if sender.followed is None or ref is None else sender.followed.get(ref)
        if entry is None or ref is None:
            return
        entry.is_description = True
        if end.followed is None:
            end.followed = []
        end.followed.append((number, ref))

    def gathered(
        self, sender: Session, target: Session, ref: Ref, held: int, *, passed: bool, empty: bool
    ) -> None:
        """Candidates: some are in the target's log (the latest message), some are held."""
        if sender.followed is None:
            return
        entry = self._follow(sender.followed, sender, Followed(target.peer, held), ref)
        entry.has_passed = passed
        if not held and passed:
            self._in_log(sender, target, ref, entry)
        elif not held:
            self._lose(sender, ref, Why.ADDRESS_POLICY if empty else Why.DUPLICATE)

    def settle(
        self, sender: Session, target: Session, fates: Iterable[tuple[Ref, str | None]]
    ) -> None:
        """Held candidates were released, as the latest message in the target's log, or dropped."""
        for ref, reason in fates:
            entry = None if sender.followed is None else sender.followed.get(ref)
            if entry is None:
                continue
            why = None if reason is None else _WHY.get(reason) or Why(reason)
            entry.held -= 1
            entry.has_passed = entry.has_passed or why is None
            if why not in (None, Why.DUPLICATE):
                self._lose(sender, ref, why)
            elif not entry.held and entry.has_passed:
                self._in_log(sender, target, ref, entry)
            elif not entry.held:
                self._lose(sender, ref, Why.DUPLICATE)

    def advance(self, sender: Session, end: Negotiation) -> None:
        """Tell which descriptions were applied; forget those that are void."""
        waiting = []
        for number, ref in end.followed or ():
            entry = (sender.followed or {}).get(ref)
            if entry is None:
                # The last word about it has been said.
                continue
            if number <= end.buffer.gate.proven:
                self._tell(sender, ref, Stage.APPLIED)
                self._forget(sender, ref)
            elif end.buffer.describes(number):
                waiting.append((number, ref))
            else:
                entry.is_description = False
                if entry.is_received:
                    self._forget(sender, ref)
        end.followed = waiting or None

    def parted(self, leaving: Session, members: Iterable[Session], reason: str) -> None:
        """The session leaves its room: nothing more is heard between it and the others."""
        for member in (leaving, *members):
            for ref, entry in list((member.followed or {}).items()):
                if member is leaving or entry.peer == leaving.peer:
                    is_lost = reason == "connection_lost"
                    self._lose(member, ref, Why.RESUME_WINDOW if is_lost else Why.PEER_LEFT)

    def hear(self, fact: Fact) -> None:
        """From the receiver's home."""
        sender = self._session_of(fact.sender)
        entry = None if sender is None else (sender.followed or {}).get(fact.ref)
        if sender is None or entry is None or entry.is_received:
            return
        self._tell(sender, fact.ref, fact.stage, fact.reason)
        entry.is_received = True
        if not entry.is_description or fact.stage is not Stage.RECEIVED:
            self._forget(sender, fact.ref)

    # The receiver's home --------------------------------------------------------------------

    def acknowledged(self, receiver: Session, seq: int) -> None:
        """The receiver has everything up to `seq`."""
        awaited = receiver.awaited
        while awaited and awaited[0][0] <= seq:
            _, sender, ref = awaited.popleft()
            self.hear(Fact(sender, ref, Stage.RECEIVED))

    def _await(self, receiver: Session, sender: str, ref: Ref) -> None:
        """Watch the latest message of the receiver's log; give up those that the log has lost."""
        if receiver.awaited is None:
            receiver.awaited = deque()
        awaited = receiver.awaited
        awaited.append((receiver.outbox.seq, sender, ref))
        while awaited and awaited[0][0] <= receiver.outbox.trimmed:
            _, who, lost = awaited.popleft()
            self.hear(Fact(who, lost, Stage.EXPIRED, Why.LIMITS))

    # Inside ---------------------------------------------------------------------------------

    def _follow(
        self, followed: dict[Ref, Followed], sender: Session, entry: Followed, ref: Ref
    ) -> Followed:
        followed.pop(ref, None)
        followed[ref] = entry
        if len(followed) > self._most:
            self._lose(sender, next(iter(followed)), Why.LIMITS)
        return entry

    def _in_log(self, sender: Session, target: Session, ref: Ref, entry: Followed) -> None:
        entry.held = 0
        self._tell(sender, ref, Stage.RELAYED)
        self._await(target, sender.peer, ref)

    def _lose(self, sender: Session, ref: Ref, why: Why | None) -> None:
        """The last word, unless it was received: nothing can be lost of it then."""
        entry = self._forget(sender, ref)
        if entry is not None and not entry.is_received:
            waited = why in (Why.EARLY_TTL, Why.RESUME_WINDOW, Why.LIMITS)
            self._tell(sender, ref, Stage.EXPIRED if waited else Stage.DROPPED, why)

    def _forget(self, sender: Session, ref: Ref) -> Followed | None:
        return None if sender.followed is None else sender.followed.pop(ref, None)

    def _tell(self, sender: Session, ref: Ref, stage: Stage, why: Why | None = None) -> None:
        self._deliver(sender, Receipt(ref=ref, stage=stage, reason=why))
