"""What signaling costs at sizes that cannot be tried here: measured constants, a load, arithmetic.

And a small queue, for what arithmetic does not tell. The tables of docs/scaling.md are printed from
it (`python tests/cost_model.py`). It knows what the parts cost, not how they work.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from random import Random

# Measured on 21 November 2026 (docs/scaling.md says how), in microseconds and bytes.
HOME_US = 20.0
"""CPU of an account's home for one message of 0.3 KB with `id` and `ack`."""
HELLO_US = 140.0
"""CPU of the home for a hello with a room."""
JOIN_US = 216.0
"""CPU of a node for a client that comes: handshake, token, credential."""
CROSS_US = 361.0
"""CPU of nodes and Redis for a message between nodes that comes alone: all of them slept before."""
CROSS_PACKED_US = 15.6
"""The same where many come in one tick."""
REDIS_ENTRY_US = 21.0
"""CPU of Redis for one entry written and read; a message between nodes is two."""
CAPTURE_IDLE_US, CAPTURE_BUSY_US = 28.0, 91.0
RESTORE_IDLE_US, RESTORE_BUSY_US = 45.0, 126.0
STATE_IDLE_BYTES, STATE_BUSY_BYTES = 700, 4025
JOURNAL_ENTRY_BYTES = 512
"""In Redis, for an entry with one message."""
CONNECTION_BYTES = 7105
"""Of a node, for an idle connection with its session."""
STATE_BYTES_PER_S = 80e6
"""Between a node and Redis, sealed."""

# From the code, in seconds and entries: home.py, post.py, redis_journal.py.
LEASE_S, WATCH_S = 1.5, 0.25
SAVE_ENTRIES, SAVE_COST = 4000, 50

# The load: what a session does in an hour, and how much more in the busiest minute.
CALLS, MESSAGES_PER_CALL = 2.0, 14
OTHER_MESSAGES = 20.0
RESUMES = 1.0
PEAK = 4.0
BUSY = 0.1
"""Sessions that are in a call, with a full log."""

# What an operator can live with.
MAX_PAUSE_S, MAX_TAKEOVER_S, MAX_SHARE = 1.0, 5.0, 0.7
CONNECTIONS_PER_NODE = 50_000
ACCOUNT_SESSIONS = 10_000


@dataclass(frozen=True)
class Account:
    """One account's switchboard, which runs on one core of one node, at its busiest."""

    sessions: int

    @property
    def messages_per_s(self) -> float:
        return self.sessions * PEAK * (CALLS * MESSAGES_PER_CALL + OTHER_MESSAGES) / 3600

    @property
    def resumes_per_s(self) -> float:
        return self.sessions * PEAK * RESUMES / 3600

    @property
    def home_share(self) -> float:
        """Of one core."""
        return (self.messages_per_s * HOME_US + self.resumes_per_s * HELLO_US) / 1e6

    @property
    def pause_s(self) -> float:
        """While the state is saved nothing else happens."""
        return self.sessions * _mixed(CAPTURE_IDLE_US, CAPTURE_BUSY_US) / 1e6

    @property
    def state_bytes(self) -> float:
        return self.sessions * _mixed(STATE_IDLE_BYTES, STATE_BUSY_BYTES)

    @property
    def save_every_s(self) -> float:
        return max(SAVE_ENTRIES / self.messages_per_s, SAVE_COST * self.pause_s)

    @property
    def takeover_s(self) -> float:
        """From a home's death to the first word of the next one, at worst."""
        load = self.state_bytes / STATE_BYTES_PER_S
        restore = self.sessions * _mixed(RESTORE_IDLE_US, RESTORE_BUSY_US) / 1e6
        return LEASE_S + WATCH_S + load + restore + self.save_every_s * self.home_share

    @property
    def breaks(self) -> str:
        """What is over its limit."""
        over = {
            "pause": self.pause_s > MAX_PAUSE_S,
            "takeover": self.takeover_s > MAX_TAKEOVER_S,
            "core": self.home_share > MAX_SHARE,
        }
        return ", ".join(name for name, is_over in over.items() if is_over) or "nothing"


@dataclass(frozen=True)
class Deployment:
    """Many accounts of one size on one Redis, or on several masters of a Cluster."""

    sessions: int

    @property
    def accounts(self) -> int:
        return ceil(self.sessions / ACCOUNT_SESSIONS)

    @property
    def _all(self) -> Account:
        return Account(self.sessions)

    @property
    def cores(self) -> float:
        """Of all nodes and Redis, if every message comes alone."""
        all_of = self._all
        return (all_of.messages_per_s * CROSS_US + all_of.resumes_per_s * JOIN_US) / 1e6

    @property
    def nodes(self) -> int:
        """By connections, with one to spare; each of one core."""
        by_core = self.cores / MAX_SHARE
        return ceil(max(self.sessions / CONNECTIONS_PER_NODE, by_core)) + 1

    @property
    def memory_bytes(self) -> float:
        return self.sessions * (CONNECTION_BYTES + _mixed(0, STATE_BUSY_BYTES))

    @property
    def redis_cores(self) -> float:
        return 2 * self._all.messages_per_s * REDIS_ENTRY_US / 1e6

    @property
    def masters(self) -> int:
        return ceil(self.redis_cores / MAX_SHARE)

    @property
    def redis_bytes(self) -> float:
        """States, and the journals behind them."""
        account = Account(ACCOUNT_SESSIONS)
        journal = account.messages_per_s * account.save_every_s * JOURNAL_ENTRY_BYTES
        return self.accounts * (account.state_bytes + journal)


def largest(limit_of: str) -> int:
    """Sessions of an account at which that limit is reached, to the nearest thousand below."""
    return max(
        (n for n in range(1000, 4_000_000, 1000) if limit_of not in Account(n).breaks), default=0
    )


def redis_limit() -> int:
    """Sessions of a deployment at which one Redis has no more to give."""
    return int(MAX_SHARE / Deployment(1_000_000).redis_cores * 1_000_000)


def delays_s(account: Account, seconds: float = 120.0, seed: int = 1) -> list[float]:
    """How long messages wait for their home, sorted: one server that stops to save."""
    dice, wait, out = Random(seed), 0.0, []
    until_save = account.save_every_s / 2
    at = 0.0
    while at < seconds:
        gap = dice.expovariate(account.messages_per_s)
        at += gap
        wait = max(0.0, wait - gap)
        until_save -= gap
        if until_save <= 0:
            wait += account.pause_s
            until_save += account.save_every_s
        wait += HOME_US / 1e6
        out.append(wait)
    return sorted(out)


def _mixed(idle: float, busy: float) -> float:
    return (1 - BUSY) * idle + BUSY * busy


def _row(*cells: object) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def account_table() -> list[str]:
    rows = [
        _row(
            *("sessions", "messages/s", "of a core", "pause", "a save every", "state"),
            *("wait, p50", "p99", "worst", "takeover", "too much"),
        ),
        _row(*["---"] * 11),
    ]
    for sessions in (1000, 3000, 10_000, 30_000, 100_000, 1_000_000):
        account = Account(sessions)
        delays = delays_s(account) if sessions <= 30_000 else []
        waits = [_ms(delays[int(q * (len(delays) - 1))]) if delays else "" for q in (0.5, 0.99, 1)]
        rows.append(
            _row(
                *(f"{sessions:,}", f"{account.messages_per_s:,.0f}", f"{account.home_share:.1%}"),
                *(_ms(account.pause_s), f"{account.save_every_s:.0f} s"),
                *(f"{account.state_bytes / 1e6:,.1f} MB", *waits),
                *(f"{account.takeover_s:,.1f} s", account.breaks),
            )
        )
    return rows


def deployment_table() -> list[str]:
    rows = [
        _row(
            *("sessions", "accounts", "messages/s", "cores", "nodes", "memory of nodes"),
            *("cores of Redis", "masters", "memory of Redis"),
        ),
        _row(*["---"] * 9),
    ]
    for sessions in (100_000, 1_000_000, 10_000_000):
        all_of = Deployment(sessions)
        rows.append(
            _row(
                *(f"{sessions:,}", f"{all_of.accounts:,}"),
                f"{Account(sessions).messages_per_s:,.0f}",
                *(f"{all_of.cores:.1f}", all_of.nodes, f"{all_of.memory_bytes / 1e9:,.1f} GB"),
                *(f"{all_of.redis_cores:.1f}", all_of.masters),
                f"{all_of.redis_bytes / 1e9:,.1f} GB",
            )
        )
    return rows


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:,.2f} ms" if seconds < 0.001 else f"{seconds * 1000:,.0f} ms"


if __name__ == "__main__":
    for line in (*account_table(), "", *deployment_table()):
        print(line)  # noqa: T201 - its output is the documentation's
    print({name: largest(name) for name in ("pause", "takeover", "core")}, redis_limit())  # noqa: T201
