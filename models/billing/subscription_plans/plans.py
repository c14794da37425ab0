"""Subscription plans with their limits and versions.

A plan's limits are windows of credits: a subscriber's calls spend blocks, which are grants of type `subscription` limited
by the windows. Its `included_credits` are separate: a grant of type `plan` for each paid period, which is part of the
balance and is spent before bought credits.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from itertools import pairwise
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint, func, select, text, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, mapped_column, relationship

from models.billing import stripe_api
from models.billing.payments.purchase import CURRENCY
from models.billing.stripe_api import id_of, plain
from models.core.db import NOW, Base, BigInt, db
from models.core.errors import Conflict, Invalid, NotFound
from models.core.jobs import transaction
from models.ledger import MAX_GRANT
from models.ledger.sanitizing import clean_text

INTERVALS = ("month", "year")
TIERS = (100, 200, 500)
"""Tiers that clients can subscribe to (contract A.3)."""
MIN_CENTS = 50
"""Stripe's minimum charge."""
MAX_CENTS = 99_999_999
"""Stripe's maximum charge."""
MAX_WINDOWS = 6
MAX_LINES = 30
"""Maximum number of display lines, and of model patterns."""
MAX_WINDOW_HOURS = 366 * 24


@dataclass(frozen=True, slots=True)
class WindowLimit:
    """A limit of `credits` per `hours`; `hours` None: per billing period."""

    name: str
    hours: int | None
    credits: int


@dataclass(frozen=True, slots=True)
class NewPlan:
    """The terms of a plan as an operator enters them. The fields have the same meaning as those of `Plan`."""

    name: str
    price_cents: int
    interval: str = "month"
    description: str = ""
    features: Sequence[str] = ()
    models: Sequence[str] | None = None
    windows: Sequence[WindowLimit] = ()
    included_credits: int = 0
    requests_per_minute: int | None = None
    seats: int | None = None
    tier: int | None = None
    public: bool = True
    sort: int = 0


DISPLAY_FIELDS = frozenset({"description", "features", "public", "sort"})
"""Fields of NewPlan that change in place, because they do not affect what subscribers bought."""


class PlanWindow(Base):
    """A limit of a plan: `credits` per `hours`, or per billing period if `hours` is null. All windows of a plan apply
    together."""

    __tablename__ = "plan_window"
    __table_args__ = (
        CheckConstraint("(hours > 0)", name="hours_positive"),
        CheckConstraint("(credits > 0)", name="credits_positive"),
    )

    plan_id: Mapped[str] = mapped_column(ForeignKey("plan.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    hours: Mapped[int | None]
    credits: Mapped[int] = mapped_column(BigInt)


class Plan(Base):
    """A version of a plan. Its price and limits never change: a change creates the next version and retires this one,
    whose subscribers keep it.

    `price_cents` is per `interval`. `features` are display lines. `models` are patterns of model names with `*` and
    `?`, for the name as requested or as listed; None allows all. `tier` is the contract's number (A.3).
    """

    __tablename__ = "plan"
    __table_args__ = (
        UniqueConstraint("name", "version"),
        CheckConstraint("(\"interval\" = ANY (ARRAY['month'::text, 'year'::text]))", name="interval_known"),
        CheckConstraint("(price_cents >= 0)", name="price_not_negative"),
        CheckConstraint("(included_credits >= 0)", name="included_credits_not_negative"),
        CheckConstraint("((requests_per_minute > 0) AND (seats > 0))", name="limits_positive"),
        Index("idx_plan_active_name", "name", unique=True, postgresql_where=text("active")),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    description: Mapped[str] = mapped_column(server_default=text("''::text"))
    version: Mapped[int] = mapped_column(server_default=text("1"))
    price_cents: Mapped[int]
    currency: Mapped[str] = mapped_column(server_default=text("'usd'::text"))
    interval: Mapped[str]
    features: Mapped[list[str]] = mapped_column(JSONB, server_default=text("'[]'::jsonb"))
    models: Mapped[list[str] | None] = mapped_column(JSONB(none_as_null=True))
    requests_per_minute: Mapped[int | None]
    seats: Mapped[int | None]
    included_credits: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    tier: Mapped[int | None]
    active: Mapped[bool] = mapped_column(server_default=text("true"))
    public: Mapped[bool] = mapped_column(server_default=text("true"))
    sort: Mapped[int] = mapped_column(server_default=text("0"))
    stripe_product_id: Mapped[str | None]
    stripe_price_id: Mapped[str | None] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW, onupdate=func.now())

    windows: Mapped[list[PlanWindow]] = relationship(
        order_by=PlanWindow.hours.asc().nulls_last(), lazy="selectin", passive_deletes=True
    )
    """Shortest first; the one of the billing period is last."""


class LimitOverride(Base):
    """A user's limits, in credits and hours, which replace those of their plan's two shortest windows (contract A.3)."""

    __tablename__ = "limit_override"

    user_id: Mapped[str] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"), primary_key=True)
    credits_per_block: Mapped[int]
    block_duration_hours: Mapped[int]
    weekly_credit_limit: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW, onupdate=func.now())


def create_plan(new: NewPlan) -> Plan:
    """Create an active plan. Its Stripe price is created when somebody first subscribes. Flushes. Raises Invalid with
    `fields`, and Conflict if an active plan has this name."""
    new = _checked(new)
    # a retired plan of this name is an earlier version of it
    last = db.session.scalar(select(func.max(Plan.version)).where(Plan.name == new.name)) or 0
    plan = Plan(
        id=f"pkg_{uuid.uuid4()}",
        version=last + 1,
        currency=CURRENCY,
        windows=[
            PlanWindow(name=window.name, hours=window.hours, credits=window.credits) for window in new.windows
        ],
        **{name: value for name, value in _values(new).items() if name != "windows"},
    )
    try:
        with db.session.begin_nested():
            db.session.add(plan)
    except IntegrityError:
        raise Conflict(f"There is an active plan named {new.name}.", code="name_taken") from None
    db.session.refresh(plan)
    return plan


def update_plan(plan: Plan, changes: Mapping[str, Any]) -> Plan:
    """Change some fields of `NewPlan`. Returns the plan that is active afterwards. Flushes.

    A new name, price, interval or limit creates the next version and retires this one, whose subscribers keep it until
    they change; other fields change in place. Raises Invalid with `fields`, and Conflict for a retired plan or a taken
    name.
    """
    if unknown := changes.keys() - {each.name for each in fields(NewPlan)}:
        raise Invalid("A plan has no such field.", fields=dict.fromkeys(unknown, "unknown"))
    plan = _locked(plan)
    if not plan.active:
        raise Conflict("This version of the plan is retired. Change the active one.", code="retired")
    before = terms(plan)
    after = _checked(NewPlan(**_values(before) | dict(changes)))
    if new_version(before, after):
        with db.session.begin_nested():
            plan.active = False
            db.session.flush()
            return create_plan(after)
    for name in DISPLAY_FIELDS:
        setattr(plan, name, _values(after)[name])
    db.session.flush()
    return plan


def new_version(before: NewPlan, after: NewPlan) -> bool:
    """Whether this change of a plan needs a new version."""
    return any(
        value != _values(after)[name] for name, value in _values(before).items() if name not in DISPLAY_FIELDS
    )


def retire_plan(plan: Plan) -> None:
    """Stop selling the plan; its subscribers keep it. Idempotent. Flushes."""
    _locked(plan).active = False
    db.session.flush()


def terms(plan: Plan) -> NewPlan:
    """The terms of the plan, as `create_plan` takes them."""
    windows = tuple(WindowLimit(each.name, each.hours, each.credits) for each in plan.windows)
    rest = {each.name: getattr(plan, each.name) for each in fields(NewPlan) if each.name != "windows"}
    return NewPlan(**rest, windows=windows)


def public_plans() -> list[Plan]:
    """Active public plans, in display order."""
    query = select(Plan).where(Plan.active, Plan.public)
    return list(db.session.scalars(query.order_by(Plan.sort, Plan.price_cents, Plan.name)))


def listed_plans(*, active: bool | None = None) -> list[Plan]:
    """All plans, or only active or only retired ones, for operators: in display order, newest version first."""
    query = select(Plan).order_by(Plan.active.desc(), Plan.sort, Plan.name, Plan.version.desc())
    if active is not None:
        query = query.where(Plan.active.is_(active))
    return list(db.session.scalars(query))


def get_plan(id: str) -> Plan:
    """A plan, active or retired. Raises NotFound."""
    plan = db.session.get(Plan, id)
    if plan is None:
        raise NotFound("There is no such plan.")
    return plan


def plan_of_price(stripe_price_id: str) -> Plan | None:
    """The plan with this Stripe price; None if there is none."""
    return db.session.scalars(select(Plan).where(Plan.stripe_price_id == stripe_price_id)).one_or_none()


def plan_of_tier(tier: int) -> Plan | None:
    """The active public plan of this tier (contract A.3); monthly plans are preferred."""
    query = select(Plan).where(Plan.active, Plan.public, Plan.tier == tier)
    by_order = query.order_by(Plan.interval, Plan.sort, Plan.price_cents, Plan.name)
    return db.session.scalars(by_order.limit(1)).one_or_none()


def stripe_price(plan: Plan) -> str:
    """The id of the plan's Stripe price; the price and its product are created when first needed. Uses its own
    transactions; idempotent by the plan's id. Raises StripeError, BillingDisabled."""
    with transaction():
        found = get_plan(plan.id)
    if found.stripe_price_id is not None:
        return found.stripe_price_id
    params: Any = {
        "currency": found.currency,
        "unit_amount": found.price_cents,
        "tax_behavior": "exclusive",
        "recurring": {"interval": found.interval},
        "product_data": {"name": found.name, "metadata": {"planId": found.id}},
        "metadata": {"planId": found.id},
    }
    with stripe_api.api_client() as client:
        price = plain(client.v1.prices.create(params, {"idempotency_key": f"price-{found.id}"}))
    with transaction():
        db.session.execute(
            update(Plan)
            .where(Plan.id == found.id, Plan.stripe_price_id.is_(None))
            .values(stripe_price_id=price["id"], stripe_product_id=id_of(price["product"]))
            .execution_options(synchronize_session=False)
        )
        kept = db.session.get_one(Plan, found.id, populate_existing=True).stripe_price_id
    return str(kept)


def _locked(plan: Plan) -> Plan:
    return db.session.get_one(Plan, plan.id, with_for_update=True, populate_existing=True)


def _values(new: NewPlan) -> dict[str, Any]:
    found = {each.name: getattr(new, each.name) for each in fields(NewPlan)}
    listed = {
        name: found[name] if found[name] is None else list(found[name]) for name in ("features", "models")
    }
    return found | listed | {"windows": tuple(new.windows)}


def _checked(new: NewPlan) -> NewPlan:
    """The validated plan with sanitized texts. Raises Invalid with `fields`."""
    errors: dict[str, str] = {}
    name = clean_text(new.name).strip()
    if not 1 <= len(name) <= 60 or not name.isprintable():
        errors["name"] = "Use at most 60 characters in one line." if name else "Enter a name."
    if not 0 <= new.price_cents <= MAX_CENTS or 0 < new.price_cents < MIN_CENTS:
        errors["price_cents"] = f"Use 0, or {MIN_CENTS} to {MAX_CENTS:,} cents."
    if new.interval not in INTERVALS:
        errors["interval"] = "Choose month or year."
    description = clean_text(new.description).strip()
    if len(description) > 500:
        errors["description"] = "Use at most 500 characters."
    for field, limit in (("features", 120), ("models", 200)):
        lines = getattr(new, field) or ()
        if len(lines) > MAX_LINES or any(not 1 <= len(line.strip()) <= limit for line in lines):
            errors[field] = f"Use at most {MAX_LINES} lines of 1 to {limit} characters."
    if new.models is not None and not new.models:
        errors["models"] = "Name a model, or allow all."
    if not 0 <= new.included_credits <= MAX_GRANT:
        errors["included_credits"] = f"Use 0 to {MAX_GRANT:,} credits."
    for field in ("requests_per_minute", "seats", "tier"):
        value = getattr(new, field)
        if value is not None and not 0 < value <= 1_000_000:
            errors[field] = "Use 1 to 1,000,000, or leave it empty."
    if not -10_000 <= new.sort <= 10_000:
        errors["sort"] = "Use -10,000 to 10,000."
    windows = sorted(
        (WindowLimit(clean_text(each.name).strip(), each.hours, each.credits) for each in new.windows),
        key=lambda each: each.hours or MAX_WINDOW_HOURS + 1,
    )
    if problem := _windows_problem(windows):
        errors["windows"] = problem
    if errors:
        raise Invalid("Check the plan.", fields=errors)
    return NewPlan(
        **_values(new)
        | {
            "name": name,
            "description": description,
            "features": [clean_text(line).strip() for line in new.features],
            "models": None if new.models is None else [clean_text(each).strip() for each in new.models],
            "windows": tuple(windows),
        }
    )


def _windows_problem(windows: Sequence[WindowLimit]) -> str | None:
    if len(windows) > MAX_WINDOWS:
        return f"Use at most {MAX_WINDOWS} windows."
    for each in windows:
        if not 1 <= len(each.name) <= 40 or not each.name.isprintable():
            return "Give each window a name of 1 to 40 characters."
        if each.hours is not None and not 0 < each.hours <= MAX_WINDOW_HOURS:
            return f"A window lasts 1 to {MAX_WINDOW_HOURS:,} hours, or the billing period."
        if not 0 < each.credits <= MAX_GRANT:
            return f"A window has 1 to {MAX_GRANT:,} credits."
    if len({each.name for each in windows}) < len(windows) or len({each.hours for each in windows}) < len(
        windows
    ):
        return "Each window needs a unique name and a unique length."
    for shorter, longer in pairwise(windows):
        if longer.credits < shorter.credits:
            return f"{longer.name} has fewer credits than {shorter.name}, which would never be used up."
    return None
