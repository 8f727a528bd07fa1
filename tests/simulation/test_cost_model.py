"""The cost model, and the tables of docs/scaling.md that come from it."""

from __future__ import annotations

from pathlib import Path

import pytest
from cost_model import (
    HOME_US,
    SAVE_COST,
    SAVE_ENTRIES,
    Account,
    Deployment,
    account_table,
    delays_s,
    deployment_table,
    largest,
    redis_limit,
)
from cost_model import LEASE_S as MODEL_LEASE_S
from cost_model import WATCH_S as MODEL_WATCH_S

from signal_server.backplane import home, post, redis_journal

PAGE = Path(__file__).parent.parent.parent / "docs" / "scaling.md"


@pytest.mark.parametrize(
    ("name", "table"), [("accounts", account_table), ("deployments", deployment_table)]
)
def test_cost_model_is_what_the_page_says(name: str, table: object) -> None:
    shown = PAGE.read_text().partition(f"<!-- {name} -->\n")[2].partition("\n<!-- end -->")[0]
    assert callable(table)
    assert shown.splitlines() == table()


def test_cost_model_says_what_breaks_first() -> None:
    page = PAGE.read_text()
    limits = {name: largest(name) for name in ("pause", "takeover", "core")}
    assert all(f"{sessions:,}" in page for sessions in limits.values())
    assert f"{redis_limit():,}" in page
    assert limits["takeover"] < limits["pause"] < limits["core"]
    assert Account(10_000).breaks == "nothing"
    assert Deployment(redis_limit()).masters == 1
    assert Deployment(redis_limit() + 1000).masters == 2


def test_cost_model_has_the_constants_of_the_code() -> None:
    assert (home.SAVE_ENTRIES, home.SAVE_COST) == (SAVE_ENTRIES, SAVE_COST)
    assert redis_journal.LEASE_MS / 1000 == MODEL_LEASE_S
    assert post.WATCH_S == MODEL_WATCH_S


def test_cost_model_queue_waits_for_saves_and_for_nothing_else() -> None:
    """A queue with steady work, which theory knows, and now and then a stop."""
    account = Account(10_000)
    delays = delays_s(account, 300.0)
    steady = [delay for delay in delays if delay < account.pause_s / 100]
    load = account.messages_per_s * HOME_US / 1e6
    mean = HOME_US / 1e6 * (1 + load / (2 * (1 - load)))  # Pollaczek and Khinchine, M/D/1
    assert sum(steady) / len(steady) == pytest.approx(mean, rel=0.1)
    stopped = 1 - len(steady) / len(delays)
    assert stopped == pytest.approx(account.pause_s / account.save_every_s, rel=0.35)
    assert account.pause_s <= delays[-1] < 1.2 * account.pause_s
    assert delays == sorted(delays_s(account, 300.0))
