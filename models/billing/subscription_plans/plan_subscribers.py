"""Plans for operators: every version with the number of its subscribers, and the list of subscribers."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Select, func, select, tuple_

from models.accounts import User
from models.billing.subscription_plans.plans import Plan
from models.billing.subscription_plans.subscriptions import LIVE_STATUSES, Subscription
from models.core.db import db

MAX_OFFERED = 200
"""Maximum number of active plans in a list."""


@dataclass(frozen=True, slots=True)
class PlanSubscriber:
    """A live subscription, and the e-mail address of its user."""

    subscription: Subscription
    email: str | None


def offered_plans() -> list[tuple[Plan, int]]:
    """Active plans, hidden ones included, in display order, each with its number of live subscribers."""
    query = _counted().where(Plan.active).order_by(Plan.sort, Plan.price_cents, Plan.name).limit(MAX_OFFERED)
    return [(plan, count) for plan, count in db.session.execute(query)]


def retired_plans(*, before: tuple[datetime, str] | None = None, limit: int) -> list[tuple[Plan, int]]:
    """Retired plans and versions, the newest first, each with its number of live subscribers. `before`: `created_at` and id of
    the last row of the previous page."""
    query = _counted().where(~Plan.active).order_by(Plan.created_at.desc(), Plan.id.desc()).limit(limit)
    if before:
        query = query.where(tuple_(Plan.created_at, Plan.id) < before)
    return [(plan, count) for plan, count in db.session.execute(query)]


def subscriber_count(plan: Plan) -> int:
    """The number of live subscribers of this version."""
    query = select(func.count()).where(
        Subscription.plan_id == plan.id, Subscription.status.in_(LIVE_STATUSES)
    )
    return db.session.scalars(query).one()


def subscribers(
    plan: Plan, *, before: tuple[datetime, str] | None = None, limit: int
) -> list[PlanSubscriber]:
    """The live subscribers of this version, the newest first. `before`: `created_at` and id of the last row of the
    previous page."""
    query = (
        select(Subscription, User.email)
        .outerjoin(User, User.id == Subscription.user_id)
        .where(Subscription.plan_id == plan.id, Subscription.status.in_(LIVE_STATUSES))
        .order_by(Subscription.created_at.desc(), Subscription.stripe_subscription_id.desc())
        .limit(limit)
    )
    if before:
        query = query.where(tuple_(Subscription.created_at, Subscription.stripe_subscription_id) < before)
    return [PlanSubscriber(subscription, email) for subscription, email in db.session.execute(query)]


def _counted() -> Select[Plan, int]:
    count = (
        select(func.count())
        .where(Subscription.plan_id == Plan.id, Subscription.status.in_(LIVE_STATUSES))
        .correlate(Plan)
        .scalar_subquery()
    )
    return select(Plan, count)
