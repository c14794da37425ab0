"""Limits that an operator sets for one person, in place of those of their plan (contract A.3)."""

from sqlalchemy import select

from models.billing.subscription_plans.plans import MAX_WINDOW_HOURS, LimitOverride
from models.core.db import db
from models.core.db import now as utc_now
from models.core.errors import Invalid, NotFound
from models.ledger import Account

MOST_CREDITS = 2_000_000_000


def limit_override(account: Account) -> LimitOverride | None:
    """The person's override; None if the limits of their plan apply. Raises NotFound for an organisation."""
    if account.user_id is None:
        raise NotFound("Plans are for personal accounts.")
    return db.session.scalars(
        select(LimitOverride)
        .where(LimitOverride.user_id == account.user_id)
        .execution_options(populate_existing=True)
    ).one_or_none()


def set_limit_override(
    account: Account, *, block: int | None = None, hours: int | None = None, week: int | None = None
) -> LimitOverride:
    """Replace the limits of the two shortest windows of the person's plan, also of a later one: `block` credits in `hours`
    hours, and `week` credits. None keeps what the override has.

    Flushes. Raises NotFound for an organisation, and Invalid if a value is out of range, or missing in a new override.
    """
    found = limit_override(account)
    if found is not None:
        block = found.credits_per_block if block is None else block
        hours = found.block_duration_hours if hours is None else hours
        week = found.weekly_credit_limit if week is None else week
    if block is None or hours is None or week is None:
        raise Invalid("A new override needs the credits of a block, its hours, and the credits of a week.")
    if not (0 < block <= MOST_CREDITS and 0 < week <= MOST_CREDITS):
        raise Invalid(f"Use 1 to {MOST_CREDITS:,} credits.")
    if not 0 < hours <= MAX_WINDOW_HOURS:
        raise Invalid(f"A block lasts 1 to {MAX_WINDOW_HOURS:,} hours.")
    if found is None:
        found = LimitOverride(user_id=account.user_id)
        db.session.add(found)
    found.credits_per_block, found.block_duration_hours, found.weekly_credit_limit = block, hours, week
    found.updated_at = utc_now()
    db.session.flush()
    return found


def remove_limit_override(account: Account) -> bool:
    """Let the limits of the person's plan apply again; whether there was an override. Flushes. Raises NotFound for an
    organisation."""
    found = limit_override(account)
    if found is not None:
        db.session.delete(found)
        db.session.flush()
    return found is not None
