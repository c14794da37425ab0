"""The public pricing page, the review of a plan before payment, and the return from Stripe's Checkout."""

import logging
from dataclasses import replace

from flask import request, url_for
from flask.typing import ResponseReturnValue

from models import billing
from models.billing import Plan, Subscription, stripe_api
from models.billing.payments.billing_details import billing_address, billing_snapshot
from models.billing.payments.buying import FEWEST_CREDITS
from models.billing.payments.freezes import freeze_message
from models.billing.payments.payment_state import PaymentMismatch
from models.billing.payments.tax import calculate_tax, shown_tax, tax_enabled
from models.billing.subscription_plans.plans import INTERVALS
from models.core.db import db
from models.core.errors import Conflict, Forbidden, NotFound
from models.ledger import Account
from views.billing.pages.billing_blueprint import bp, money_page, own_billing, page_number
from views.billing.pages.checkout import LAST_POLL, QUICK_POLLS, SYNC_EVERY
from views.billing.pages.plan_cards import STATUSES, cards_for, plan_card, plan_facts, plan_of
from views.web import format
from views.web.guards import caller_address, cookie_user, current_account, limiter, login_required
from views.web.htmx import see_other, toast

log = logging.getLogger("stoa.billing")

bp.add_app_template_global(billing.enabled, "sells")


@bp.get("/pricing")
def pricing() -> ResponseReturnValue:
    """Plans for sale, and the price of credits. Query: `interval`, if there are monthly and yearly plans. Public;
    404 if billing is disabled."""
    if not billing.enabled():
        raise NotFound("This server sells nothing. Ask its operator for credits.")
    offered = billing.public_plans()
    intervals = [each for each in INTERVALS if any(plan.interval == each for plan in offered)]
    mine = _own_subscription()
    interval = request.args.get("interval", "")
    if interval not in intervals:
        held = plan_of(mine)
        interval = held.interval if held and held.interval in intervals else next(iter(intervals), "")
    cards = cards_for([plan for plan in offered if plan.interval == interval], mine)
    if mine is None and cards:
        middle = (len(cards) - 1) // 2
        cards[middle] = replace(cards[middle], primary=True)
    labels = {"month": "Monthly", "year": "Yearly"}
    return money_page(
        "billing/pricing.html",
        cards=cards,
        intervals=[
            (labels[each], url_for("billing.pricing", interval=each), each == interval) for each in intervals
        ],
        least=FEWEST_CREDITS,
    )


@bp.get("/profile/plan/checkout")
@login_required
def review_plan() -> ResponseReturnValue:
    """Review a plan before paying. Query: `plan`. Redirects to the billing details first if there are none."""
    account = own_billing()
    return _review(account, billing.get_plan(request.args.get("plan", "")))


@bp.post("/profile/plan/checkout")
@login_required
@limiter.limit("20 per minute")
def subscribe_to_plan() -> ResponseReturnValue:
    """Redirect to Stripe's Checkout to pay for a plan."""
    account = own_billing()
    plan = billing.get_plan(request.form.get("plan", ""))
    plan_id = plan.id
    if billing_snapshot(account.id) is None:
        return see_other(url_for("billing.details", plan=plan.id))
    try:
        checkout = billing.subscribe(account, plan, *return_urls(), address=caller_address())
    except Conflict as conflict:
        db.session.rollback()
        toast(conflict.message, "bad")
        return see_other(url_for("profile.profile", tab="plan"))
    except (billing.StripeError, billing.BuyingLimited, Forbidden) as error:
        db.session.rollback()
        status = 502 if isinstance(error, billing.StripeError) else error.status
        return _review(account, billing.get_plan(plan_id), problem=error.message, status=status)
    return see_other(checkout.url)


@bp.get("/profile/plan/started")
@login_required
@limiter.limit("120 per minute")
def plan_started() -> ResponseReturnValue:
    """The state of a subscription after Checkout. Query: `session_id`.

    Fetches the state from Stripe on page load and on some polls, so it is correct without a webhook.
    """
    account, session_id = own_billing(), request.args.get("session_id", "")
    poll = page_number("poll")
    state, subscription = _synced(account, session_id, fetch=poll % SYNC_EVERY == 0)
    plan = plan_of(subscription)
    waiting = state == "waiting"
    return money_page(
        "billing/plan_started.html",
        partial="billing/_plan_started.html",
        state=state,
        name=plan.name if plan else "Your plan",
        label=STATUSES[subscription.status][0].lower() if subscription else "",
        plan_facts=plan_facts(plan, subscription) if plan and subscription else [],
        poll_url=_poll_address(session_id, poll + 1) if waiting and poll < LAST_POLL else None,
        poll_seconds=2 if poll < QUICK_POLLS else 10,
        reload_url=_poll_address(session_id, 0),
    )


@bp.get("/profile/plan/not-started")
@login_required
def plan_not_started() -> ResponseReturnValue:
    """Return from Checkout without a payment."""
    toast("Payment cancelled. You were not charged.", "info")
    return see_other(url_for("billing.pricing"))


def return_urls() -> tuple[str, str]:
    """The URLs that Checkout returns to, with and without a payment."""
    base = stripe_api.billing_settings().base_url
    started = f"{base}{url_for('billing.plan_started')}?session_id={{CHECKOUT_SESSION_ID}}"
    return started, base + url_for("billing.plan_not_started")


def _own_subscription() -> Subscription | None:
    return None if cookie_user() is None else billing.live_subscription(current_account())


def _synced(account: Account, session_id: str, *, fetch: bool) -> tuple[str, Subscription | None]:
    """The state of a Checkout session, for the page, and its subscription: `active`, `waiting`, `ended` (also past due), or
    `unknown` for a session that does not exist or belongs to another account."""
    if not fetch:  # the webhook may have been handled
        found = billing.live_subscription(account)
        return ("active" if found else "waiting"), found
    try:
        found = billing.sync_checkout(account, session_id)
    except NotFound:
        return "unknown", None
    except (billing.StripeError, PaymentMismatch, Conflict) as error:
        log.warning("could not fetch the checkout state of %s: %s", account.id, error)
        db.session.rollback()
        return "waiting", None
    if found is None or found.status == "incomplete":
        return "waiting", None
    return ("active" if found.status in ("active", "trialing") else "ended"), found


def _review(
    account: Account, plan: Plan, *, problem: str | None = None, status: int = 200
) -> ResponseReturnValue:
    if not plan.active:
        raise NotFound("This plan is no longer for sale.")
    if billing.live_subscription(account):
        return see_other(url_for("billing.preview_change", plan=plan.id))
    snapshot = billing_snapshot(account.id)
    details = billing_address(snapshot)
    if details is None:
        return see_other(url_for("billing.details", plan=plan.id))
    freeze = billing.buying_freeze(account) if billing.enabled() else None
    if freeze is not None:
        problem, status = freeze_message(freeze), 403
    card, price, currency = plan_card(plan), plan.price_cents, plan.currency
    due: int | None = price
    taxes: list[tuple[str, int]] = []
    if tax_enabled() and price and freeze is None:
        db.session.commit()  # no transaction during the call to Stripe
        try:
            found = calculate_tax(price, currency, snapshot)
            due, taxes = found.total_cents, shown_tax(found.lines, found.tax_cents)
        except billing.StripeError:
            due = None
    return money_page(
        "billing/plan_review.html",
        status=status,
        card=card,
        details=details,
        problem=problem,
        frozen=freeze is not None,
        lines=[
            (card.name, f"{card.price} a {card.interval}"),
            *((name, format.cents(cents, currency)) for name, cents in taxes),
        ],
        due=None if due is None else format.cents(due, currency),
    )


def _poll_address(session_id: str, poll: int) -> str:
    return url_for("billing.plan_started", session_id=session_id, poll=poll or None)
