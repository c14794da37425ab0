"""Alerts of budgets of organisations: the warning level was reached, or calls are refused."""

from datetime import datetime, timedelta

from sqlalchemy import text

from models.core.db import db
from models.core.db import now as utc_now
from models.orgs import raise_alert

LOOK_BACK = timedelta(hours=1)
"""The job runs each minute; after a longer stop alerts older than this are left out."""

_NEWS = text(
    "SELECT b.account_id, b.id, b.level, b.period, b.limit_credits, b.warn_percent, u.subject, u.window_start, u.spent,"
    " u.warned_at, u.stopped_at, budget_resets(b.period, :now, a.time_zone) AS resets_at,"
    " budget_subject_name(b.account_id, b.level, u.subject) AS name"
    " FROM budget_spend u JOIN budget b ON b.id = u.budget_id AND b.ended_at IS NULL"
    " JOIN credit_account a ON a.id = b.account_id AND a.org_id IS NOT NULL"
    " WHERE (u.warned_at > :since OR u.stopped_at > :since)"
    " AND u.window_start = budget_window(b.period, :now, a.time_zone)"
)


def watch_budgets(*, now: datetime | None = None) -> int:
    """Raise the alerts of budgets that were warned of or refused a call since an hour ago, once a window and subject; returns the
    number of new ones. Flushes."""
    now = now or utc_now()
    since, raised = now - LOOK_BACK, 0
    for row in db.session.execute(_NEWS, {"now": now, "since": since}):
        name = "the account" if row.level == "account" else f"{row.level} {row.name}"
        facts = {"budget_id": row.id, **({"user_id": row.subject} if row.level == "member" else {})}
        key = f"{row.id}:{row.subject}:{row.window_start.isoformat()}"
        spent = f"{row.spent:,} of {row.limit_credits:,} credits are spent."
        reset = f" It resets {row.resets_at:%d %B %Y, %H:%M} UTC." if row.resets_at else ""
        until = row.resets_at
        if row.warned_at and row.warned_at > since:
            title = f"{row.warn_percent} % of the budget of {name} is spent"
            raised += raise_alert(
                row.account_id, "budget_warned", key, "warning", title, spent + reset, facts, until=until
            )
        if row.stopped_at and row.stopped_at > since:
            title = f"The budget of {name} refuses calls"
            raised += raise_alert(
                row.account_id, "budget_stopped", key, "critical", title, spent + reset, facts, until=until
            )
    return raised
