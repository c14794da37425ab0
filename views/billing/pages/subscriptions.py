"""The profile tab `plan`: the plan with its windows, and the routes to change, cancel and resume it."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flask import request, url_for
from flask.typing import ResponseReturnValue

from models import billing
from models.billing import ChangePreview, Plan, Subscription
from models.core.db import db, now
from models.core.errors import Conflict, Forbidden, Invalid, NotFound
from models.ledger import Account
from views.accounts.pages.profile import tab
from views.billing.pages.billing_blueprint import bp, money_page, own_billing, user
from views.billing.pages.plan_cards import STATUSES, cards_for, plan_card, plan_facts, plan_of
from views.web import format
from views.web.guards import current_account, limiter, login_required
from views.web.htmx import see_other, toast, wants_fragment

NOTICES = {
    "past_due": (
        "The payment of the renewal failed",
        "Stripe retries the payment over the next days. The plan pays for calls for three days; after that they use your credits.",
    ),
    "unpaid": ("The plan is unpaid", "Model calls use your credits until it is paid."),
    "paused": ("The plan is paused", "Model calls use your credits until it continues."),
}
UNCONFIRMED = (
    "A change of plan requires your confirmation",
    "Your bank requires you to confirm the payment. The plan changes as soon as you do; after one day the change expires.",
)
INVOICE_STATES = {
    "paid": ("Paid", "ok", "check"),
    "open": ("Unpaid", "bad", "alert"),
    "void": ("Void", None, "cut"),
    "uncollectible": ("Uncollectible", "bad", "x"),
}
"""Label, badge and icon of each status of an invoice."""
WARNING_SHARE = 0.8
"""The used share of a window from which its meter warns."""


@dataclass(frozen=True, slots=True)
class PlanView:
    """The user's plan as the page shows it."""

    name: str
    status: tuple[str, str | None, str]
    facts: list[tuple[str, str]]
    period_end: datetime
    ends: bool
    scheduled: str | None
    notice: tuple[str, str] | None
    pay_url: str | None

    @property
    def cancellable(self) -> bool:
        """Whether the page offers to cancel."""
        return not self.ends


@dataclass(frozen=True, slots=True)
class Allowance:
    """A window of the plan as a meter, in credits; `resets_at` is None before its first use."""

    name: str
    used: int
    limit: int
    resets_at: datetime | None

    @property
    def share(self) -> float:
        """The used share, from 0 to 1."""
        return min(1.0, self.used / self.limit) if self.limit else 1.0

    @property
    def kind(self) -> str | None:
        """The meter's kind."""
        return "full" if self.used >= self.limit else "warn" if self.share >= WARNING_SHARE else None


@tab("plan")
@login_required
def plan_page() -> ResponseReturnValue:
    """`/profile?tab=plan`: the plan, its windows, and other plans. htmx gets only the windows."""
    account, moment = current_account(), now()
    subscription = billing.live_subscription(account)
    plan = plan_of(subscription)
    offered = billing.public_plans() if billing.enabled() and not wants_fragment() else []
    others = [each for each in offered if subscription is None or _can_change(subscription, each)]
    return money_page(
        "billing/plan.html",
        partial="billing/_allowances.html",
        plan=_plan_view(plan, subscription) if plan and subscription else None,
        covers=billing.covering_subscription(account, now=moment) is not None,
        allowances=_allowances(account, moment) if plan else [],
        cards=cards_for(others, subscription),
        invoices=billing.subscription_invoices(account) if not wants_fragment() else [],
        invoice_states=INVOICE_STATES,
        fallback=user().fallback_to_a_la_carte,
        saved=False,
    )


@bp.post("/profile/plan/fallback")
@login_required
@limiter.limit("60 per minute")
def save_fallback() -> ResponseReturnValue:
    """Store whether calls continue with credits when the plan is used up."""
    fallback = bool(request.form.get("fallback"))
    user().fallback_to_a_la_carte = fallback
    db.session.commit()
    if not wants_fragment():
        toast("Saved.")
        return see_other(url_for("profile.profile", tab="plan"))
    return money_page("billing/_plan_fallback.html", fallback=fallback, saved=True)


@bp.get("/profile/plan/change")
@login_required
@limiter.limit("60 per minute")
def preview_change() -> ResponseReturnValue:
    """Preview the price and start of a change to another plan. Query: `plan`."""
    account = own_billing()
    plan = billing.get_plan(request.args.get("plan", ""))
    return _change_page(account, plan)


@bp.post("/profile/plan/change")
@login_required
@limiter.limit("20 per minute")
def change_plan() -> ResponseReturnValue:
    """Change to another plan: immediately if it is an upgrade, else at the end of the period. Redirects to Stripe's
    page if the bank requires a confirmation of the payment."""
    account = own_billing()
    plan = billing.get_plan(request.form.get("plan", ""))
    agreed = _proration_date(request.form.get("proration_date", ""))
    id, name = plan.id, plan.name
    try:
        changed = billing.change(account, plan, agreed)
    except billing.ConfirmationNeeded as needed:
        db.session.rollback()
        return see_other(needed.url)
    except (billing.PaymentDeclined, billing.StripeError, Conflict, Forbidden) as error:
        db.session.rollback()
        if error.code == "same_plan":  # the form was sent twice
            toast(error.message, "info")
            return see_other(url_for("profile.profile", tab="plan"))
        return _change_page(account, billing.get_plan(id), problem=error.message, status=error.status)
    if changed.scheduled_plan_id == id:
        toast(f"{name} starts on {format.date(changed.billing_period_end)}.")
    else:
        toast(f"{name} is active.")
    return see_other(url_for("profile.profile", tab="plan"))


@bp.post("/profile/plan/change/removal")
@login_required
@limiter.limit("20 per minute")
def undo_plan_change() -> ResponseReturnValue:
    """Keep the current plan: undo a change that is scheduled for the end of the period."""
    return _done(billing.undo_scheduled_change, "The change is undone.")


@bp.get("/profile/plan/cancellation")
@login_required
def ask_plan_end() -> ResponseReturnValue:
    """Confirm cancelling the plan, in a dialog or, without JavaScript, on a page."""
    subscription = billing.live_subscription(own_billing())
    plan = plan_of(subscription)
    if subscription is None or plan is None:
        raise NotFound("You have no plan.")
    return money_page(
        "billing/plan_end.html",
        partial="billing/_plan_end.html",
        name=plan.name,
        period_end=subscription.billing_period_end,
    )


@bp.post("/profile/plan/cancellation")
@login_required
@limiter.limit("20 per minute")
def cancel_plan() -> ResponseReturnValue:
    """Cancel the plan at the end of its period."""
    return _done(billing.cancel, "The plan is cancelled. It stays usable until its period ends.")


@bp.post("/profile/plan/resumption")
@login_required
@limiter.limit("20 per minute")
def resume_plan() -> ResponseReturnValue:
    """Undo a cancellation."""
    return _done(billing.resume, "The plan continues.")


def _done(verb: Callable[[Account], Any], message: str) -> ResponseReturnValue:
    try:
        verb(own_billing())
    except (billing.StripeError, Conflict, Forbidden, NotFound) as error:
        db.session.rollback()
        toast(error.message, "bad")
    else:
        toast(message)
    return see_other(url_for("profile.profile", tab="plan"))


def _change_page(
    account: Account, plan: Plan, *, problem: str | None = None, status: int = 200
) -> ResponseReturnValue:
    subscription = billing.live_subscription(account)
    if subscription is None:
        return see_other(url_for("billing.review_plan", plan=plan.id))
    present = plan_of(subscription)
    current = present.name if present else "your plan"
    card = plan_card(plan)
    preview: ChangePreview | None = None
    try:
        preview = billing.preview_change(account, plan)
    except (billing.StripeError, Conflict, Forbidden) as error:
        db.session.rollback()
        problem, status = problem or error.message, error.status if status == 200 else status
    return money_page(
        "billing/plan_change.html",
        status=status,
        preview=preview,
        card=card,
        current=current,
        problem=problem,
        **(_preview_texts(preview, card.name) if preview else {}),
    )


def _preview_texts(preview: ChangePreview, name: str) -> dict[str, Any]:
    due, starts = format.cents(preview.due_cents), format.date(preview.at)
    if not preview.immediate:
        verb = f"Change on {starts}"
    elif preview.due_cents > 0:
        verb = f"Pay {due} and change"
    else:
        verb = f"Change to {name}"
    return {
        "lines": [(text, format.cents(cents)) for text, cents in preview.lines],
        "due": due,
        "starts": starts,
        "verb": verb,
        "proration_date": preview.proration_date,
    }


def _proration_date(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 11):
        raise Invalid("This form is incomplete. Load the page again.")
    return int(text)


def _can_change(subscription: Subscription, plan: Plan) -> bool:
    unchanged = subscription.status == "active" and not subscription.cancel_at_period_end
    return unchanged and plan.id != subscription.plan_id


def _plan_view(plan: Plan, subscription: Subscription) -> PlanView:
    unpaid = billing.unpaid_invoice(subscription)
    scheduled = billing.get_plan(subscription.scheduled_plan_id) if subscription.scheduled_plan_id else None
    return PlanView(
        plan.name,
        STATUSES[subscription.status],
        plan_facts(plan, subscription),
        subscription.billing_period_end,
        subscription.cancel_at_period_end,
        scheduled.name if scheduled else None,
        NOTICES.get(subscription.status) or (UNCONFIRMED if unpaid else None),
        unpaid.hosted_invoice_url if unpaid else None,
    )


def _allowances(account: Account, moment: datetime) -> list[Allowance]:
    return [
        Allowance(each.name, each.used, each.limit, each.resets_at)
        for each in billing.windows_of(account, now=moment)
    ]
