"""Usage of a subscriber's plan: its windows, which of them is used up, and when it resets."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnClause, Integer, String, column, func, select

from models.billing.subscription_plans.plans import Plan
from models.billing.subscription_plans.subscriptions import Subscription
from models.core.db import BigInt, db
from models.core.db import now as utc_now
from models.ledger import Account


@dataclass(frozen=True, slots=True)
class Window:
    """A window of a plan at one point in time, in credits.

    `label` names it in a sentence (`weekly`, `5-hour session`). `hours` is None for the billing period. The first window
    starts with the first call: before that, `starts_at` and `resets_at` are None.
    """

    name: str
    label: str
    hours: int | None
    limit: int
    used: int
    """May exceed the limit, because the last call of a window is served completely."""
    unallotted: int
    """Credits that a new block could receive from this window."""
    starts_at: datetime | None
    resets_at: datetime | None

    @property
    def left(self) -> int:
        return max(self.limit - self.used, 0)

    @property
    def percent_used(self) -> int:
        """Rounded, at most 100."""
        return min(round(self.used * 100 / self.limit), 100) if self.limit > 0 else 100


def covering_subscription(
    account: Account, *, now: datetime | None = None
) -> tuple[Subscription, Plan] | None:
    """The subscription whose plan covers the account's calls at `now`, and that plan: trialing, active, or past due for
    less than three days. None for an organisation."""
    covering = func.plan_subscription(account.user_id, now or utc_now()).table_valued(
        column("stripe_subscription_id", String), name="covering"
    )
    row = db.session.execute(
        select(Subscription, Plan)
        .join(covering, covering.c.stripe_subscription_id == Subscription.stripe_subscription_id)
        .join(Plan, Plan.id == Subscription.plan_id)
    ).one_or_none()
    return None if row is None else (row[0], row[1])


def windows_of(account: Account, *, now: datetime | None = None) -> list[Window]:
    """The windows of the account's plan at `now`, shortest first, with the limits of the person's override if there is
    one (contract A.3). Empty without a covering subscription, or if its plan has no windows."""
    columns: tuple[ColumnClause[Any], ...] = (
        column("number", Integer),
        column("name", String),
        column("label", String),
        column("hours", Integer),
        column("credits", BigInt),
        column("used", BigInt),
        column("unallotted", BigInt),
        column("starts_at"),
        column("resets_at"),
    )
    found = func.plan_windows(account.user_id, now or utc_now()).table_valued(*columns, name="found")
    rows = db.session.execute(select(*list(found.c)[1:]).order_by(found.c.number)).all()
    return [Window(*row) for row in rows]


def limited(windows: Sequence[Window]) -> Window | None:
    """The used-up window, the one that resets last if there are several. None if calls may use the plan."""
    used_up = [(window.resets_at, window) for window in windows if not window.left and window.resets_at]
    return max(used_up, key=lambda each: each[0])[1] if used_up else None
