"""Receipts: what became of a message, told to the session that sent it (feature `receipts`).

It does not know messages, logs or sessions.
"""

from __future__ import annotations

from enum import StrEnum

from signal_server.wire.base import Numbered


class Stage(StrEnum):
    """How far a message has come; stages only go forward, and may be skipped."""

    RELAYED = "relayed"
    """It is in the receiver's log; of a message with candidates, the last of them."""
    RECEIVED = "received"
    """The receiver has acknowledged its number."""
    APPLIED = "applied"
    """The receiver has shown that it has set this description."""
    EXPIRED = "expired"
    """It waited too long."""
    DROPPED = "dropped"
    """It will not be delivered, or nobody is left to say that it was."""


class Why(StrEnum):
    """Why a message expired or was dropped."""

    EARLY_TTL = "early_ttl"
    """The description that a candidate waited for did not come."""
    RESUME_WINDOW = "resume_window"
    """The receiver's session, or the sender's, was not resumed in time."""
    LIMITS = "limits"
    """Too many messages without acknowledgement: this one is no longer followed."""
    PEER_LEFT = "peer_left"
    """The receiver, or the sender, left the room."""
    STALE_GENERATION = "stale_generation"
    CANDIDATE_AFTER_END = "candidate_after_end"
    DUPLICATE = "duplicate"
    """Everything in it had been said before."""
    ADDRESS_POLICY = "address_policy"
    """The relay lets none of its addresses out."""


class Receipt(Numbered, tag="receipt", kw_only=True, gc=False):
    ref: str | int
    """The `id` of the message."""
    stage: Stage
    reason: Why | None = None
