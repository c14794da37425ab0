"""Forget what was spent of budgets in windows that are long over."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, select

from models.core.db import db
from models.ledger.budget_tables import Budget, BudgetSpend

KEPT_FOR = timedelta(days=100)
"""Longer than any window, and than the proof looks back."""


def prune_spending(now: datetime) -> int:
    """Delete the rows of windows that began more than 100 days ago, but those of budgets in total, which have one window. Returns
    how many. One statement; idempotent. Flushes."""
    periodic = select(Budget.id).where(Budget.period != "total")
    done: Any = db.session.execute(
        delete(BudgetSpend)
        .where(BudgetSpend.window_start < now - KEPT_FOR, BudgetSpend.budget_id.in_(periodic))
        .execution_options(synchronize_session=False)
    )
    return int(done.rowcount)
