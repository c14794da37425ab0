"""JSON routes for subscribers: plan, windows, and the preference to continue with credits (contract A.3)."""

from datetime import datetime
from typing import Any, Literal

from flask import Blueprint, jsonify
from flask.typing import ResponseReturnValue
from pydantic import Field

from models import billing
from models.accounts import User, scopes
from models.billing import Plan, Subscription, Window
from models.core.db import db, now
from models.core.errors import DomainError
from models.ledger import Account
from views.web import error_bodies
from views.web.body import BadJson, Body, Missing, read
from views.web.error_bodies import door
from views.web.format import iso
from views.web.guards import cookie_user, key_account, key_user, personal_key_user
from views.web.operation import Operation, ResponseModel

bp = Blueprint("subscription_api", __name__)


class SubscriptionFacts(ResponseModel):
    id: str
    status: str = Field(description="Stripe's status")
    billingPeriodEnd: datetime
    cancelAtPeriodEnd: bool
    canceledAt: datetime | None
    tier: int = Field(description="Dollars per month")
    scheduledTier: int | None = Field(description="From the end of the billing period")


class PlanUse(ResponseModel):
    limited: bool = Field(description="A window is used up")
    reason: Missing[Literal["block_exhausted", "weekly_limit"]] = None
    canStartNewBlock: bool
    blockUsed: Missing[int] = Field(None, description="Credits; only while a block is live")
    blockLimit: Missing[int] = None
    blockResetsAt: Missing[datetime] = None
    weeklyUsed: int = Field(description="Credits of the week, or of a longer window that is used up")
    weeklyLimit: int
    weeklyResetsAt: datetime
    weeklyPercentUsed: int


class PlanLimits(ResponseModel):
    creditsPerBlock: int
    blockDurationHours: int
    weeklyCreditsLimit: int


class OwnSubscription(ResponseModel):
    hasSubscription: bool
    displayName: Missing[str] = Field(None, description="The plan's name")
    subscription: Missing[SubscriptionFacts] = None
    rateLimit: Missing[PlanUse] = None
    limits: Missing[PlanLimits] = None
    fallbackToALaCarte: bool = Field(description="Continue with credits when the plan is used up")


class Preferences(ResponseModel):
    fallbackToALaCarte: bool


class SavedPreferences(ResponseModel):
    success: Literal[True]
    fallbackToALaCarte: bool


class PreferencesBody(Body):
    fallbackToALaCarte: Missing[bool] = Field(
        None, description="Continue with credits when the plan is used up"
    )


def _error_response(error: Exception) -> ResponseReturnValue | None:
    if isinstance(error, BadJson):
        return jsonify(error="Invalid JSON body"), 400
    return error_bodies.format_error(error)


DOOR = door(_error_response)


@bp.get("/api/user/subscription")
@Operation(
    tag="Plans",
    caller="cookie or key",
    scope=scopes.USAGE_READ,
    answers={200: ("Your plan and its use", OwnSubscription)},
    door=DOOR,
)
def own_subscription() -> ResponseReturnValue:
    """Return your subscription and the usage of its plan.

    A subscription that does not cover calls, because its payment is overdue, counts as none. A key of an organisation has none:
    plans do not cover its calls.
    """
    user, moment = _personal_user(), now()
    if user is None:
        return jsonify(hasSubscription=False, fallbackToALaCarte=False)
    account = Account(user_id=user.id)
    answer: dict[str, Any] = {"hasSubscription": False, "fallbackToALaCarte": user.fallback_to_a_la_carte}
    found = billing.covering_subscription(account, now=moment)
    if found is None:
        return jsonify(answer)
    subscription, plan = found
    windows = billing.windows_of(account, now=moment)
    scheduled = subscription.scheduled_plan_id and billing.get_plan(subscription.scheduled_plan_id)
    return jsonify(
        answer
        | {
            "hasSubscription": True,
            "displayName": plan.name,
            "subscription": {
                "id": subscription.stripe_subscription_id,
                "status": subscription.status,
                "billingPeriodEnd": iso(subscription.billing_period_end),
                "cancelAtPeriodEnd": subscription.cancel_at_period_end,
                "canceledAt": iso(subscription.canceled_at),
                "tier": _tier(plan),
                "scheduledTier": _tier(scheduled) if scheduled else None,
            },
            "rateLimit": _use(windows, subscription),
            "limits": _limits(windows),
        }
    )


@bp.get("/api/user/preferences")
@Operation(
    tag="Plans",
    caller="cookie or key",
    scope=scopes.USAGE_READ,
    answers={200: ("Your preferences", Preferences)},
    door=DOOR,
)
def preferences() -> ResponseReturnValue:
    """Return your preferences."""
    user = _personal_user()
    return jsonify(fallbackToALaCarte=user is not None and user.fallback_to_a_la_carte)


@bp.patch("/api/user/preferences")
@Operation(
    tag="Plans",
    caller="cookie or key",
    scope=scopes.ORG_ADMIN,
    body=PreferencesBody,
    answers={
        200: ("Saved", SavedPreferences),
        400: "No updates, or an invalid body",
        403: "The key belongs to an organisation",
    },
    door=DOOR,
)
def save_preferences() -> ResponseReturnValue:
    """Change your preferences."""
    user = cookie_user() or personal_key_user()
    if user is None:
        raise DomainError("Unauthorized", status=401)
    body = read(PreferencesBody)
    if body.fallbackToALaCarte is None:
        raise DomainError("No updates provided")
    user.fallback_to_a_la_carte = body.fallbackToALaCarte
    db.session.commit()
    return jsonify(success=True, fallbackToALaCarte=user.fallback_to_a_la_carte)


def _personal_user() -> User | None:
    """The user of the cookie or key; None for an organisation's key. Raises DomainError (401)."""
    if user := cookie_user():
        return user
    account = key_account()
    if account is None:
        raise DomainError("Unauthorized", status=401)
    return None if account.org_id else key_user()


def _tier(plan: Plan) -> int:
    return plan.tier or plan.price_cents // (100 if plan.interval == "month" else 1_200)


def _use(windows: list[Window], subscription: Subscription) -> dict[str, Any]:
    reached = billing.limited(windows)
    block, week = (windows[0] if windows else None), _week(windows)
    use: dict[str, Any] = {"limited": reached is not None}
    if reached is not None:
        use["reason"] = "block_exhausted" if reached is block else "weekly_limit"
    use["canStartNewBlock"] = bool(
        block and block.resets_at is None and all(window.unallotted > 0 for window in windows)
    )
    if block and block.resets_at:
        use |= {"blockUsed": block.used, "blockLimit": block.limit, "blockResetsAt": iso(block.resets_at)}
    resets_at = week.resets_at if week and week.resets_at else subscription.billing_period_end
    return use | {
        "weeklyUsed": week.used if week else 0,
        "weeklyLimit": week.limit if week else 0,
        "weeklyResetsAt": iso(resets_at),
        "weeklyPercentUsed": week.percent_used if week else 0,
    }


def _week(windows: list[Window]) -> Window | None:
    """The window for the contract's weekly fields: a used-up window other than the first, else the week, else the second
    window."""
    longer = windows[1:]
    week = next((window for window in longer if window.hours == 168), longer[0] if longer else None)
    return billing.limited(longer) or week


def _limits(windows: list[Window]) -> dict[str, int]:
    block, week = (windows[0] if windows else None), _week(windows)
    hours = block.hours if block else None
    if block and hours is None and block.starts_at and block.resets_at:
        hours = round((block.resets_at - block.starts_at).total_seconds() / 3600)
    return {
        "creditsPerBlock": block.limit if block else 0,
        "blockDurationHours": hours or 0,
        "weeklyCreditsLimit": week.limit if week else 0,
    }
