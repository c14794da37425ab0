"""The profile tab `billing`, the two steps of buying credits, the list of purchases, and the page after a payment."""

import logging
import re

from flask import request, url_for
from flask.typing import ResponseReturnValue

from models import billing, ledger
from models.billing.payments import cards
from models.billing.payments.billing_details import billing_address, billing_snapshot
from models.billing.payments.buying import (
    FEWEST_CREDITS,
    FEWEST_ORGANISATION_CREDITS,
    operation_id,
    price_cents,
)
from models.billing.payments.cards import SavedCard
from models.billing.payments.customers import customer_of
from models.billing.payments.freezes import freeze_message
from models.billing.payments.payment_state import PaymentMismatch
from models.billing.payments.purchase import CURRENCY, RESOLVED_AFTER
from models.billing.payments.purchase_history import PurchaseRecord, purchase_history, purchase_record
from models.billing.payments.tax import calculate_tax, shown_tax, tax_enabled
from models.billing.statements.spending_pace import spending_pace
from models.core.db import db, now
from models.core.errors import Conflict, Forbidden, Invalid, NotFound
from models.ledger import Account
from models.orgs import administered_orgs
from views.accounts.pages.profile import tab
from views.billing.pages.billing_blueprint import (
    billing_home,
    bp,
    buying_account,
    may_buy,
    money_page,
    organisation,
    page_account,
    page_number,
    requested_credits,
    user,
)
from views.web import format
from views.web.guards import caller_address, limiter, login_required
from views.web.htmx import page_balance, see_other, toast
from views.web.keyset import Cursor, cursor, cursor_text

log = logging.getLogger("stoa.billing")

AMOUNTS = (1_000, 2_500, 5_000, 10_000)
MOST_ON_PAGE = 100_000
ORGANISATION_AMOUNTS = (10_000, 25_000, 50_000, 100_000)
MOST_FOR_ORGANISATION = 1_000_000
NONCE = re.compile(r"[A-Za-z0-9_-]{8,40}", re.ASCII)
TOTAL = re.compile(r"[0-9]{1,12}", re.ASCII)
QUICK_POLLS, LAST_POLL = 20, 60
"""Polls of the payment page: every 2 seconds, then every 10 seconds, then none."""
SYNC_EVERY = 5
"""Every fifth poll asks Stripe; the others only read the purchase."""


@tab("billing")
@login_required
def page() -> ResponseReturnValue:
    """`/profile?tab=billing`: balance, buying, cards, billing details and purchases."""
    return _page()


@bp.get("/orgs/<slug>/billing")
@login_required
def organisation_billing() -> ResponseReturnValue:
    """The same of an organisation, for its owners and admins; owners buy."""
    if request.args.get("purchase_canceled"):
        return cancelled()
    return _page()


@bp.get("/profile/billing/purchases")
@bp.get("/orgs/<slug>/billing/purchases")
@login_required
def purchases() -> ResponseReturnValue:
    """More purchases. Query: `before` (time and id of the last purchase of the previous page)."""
    records, more = purchase_history(page_account(), before=cursor())
    return money_page(
        "billing/purchases.html", partial="billing/_purchases.html", records=records, more=_more(more)
    )


@bp.get("/profile/billing/checkout")
@bp.get("/orgs/<slug>/billing/purchase")
@login_required
def review() -> ResponseReturnValue:
    """Review a purchase before paying: price, fee, tax, card and billing details. Query: `amount` (credits or `custom`),
    `credits`. Asks for billing details first if there are none."""
    account = buying_account()
    amount = request.args.get("amount", "custom")
    try:
        credits = _credits(request.args.get("credits") if amount == "custom" else amount)
    except Invalid as invalid:
        return _page(
            amount=amount,
            custom=request.args.get("credits", ""),
            errors=invalid.fields,
            status=422,
        )
    return _review(account, credits)


@bp.post("/profile/billing/checkout")
@bp.post("/orgs/<slug>/billing/purchase")
@login_required
@limiter.limit("30 per minute")
def buy() -> ResponseReturnValue:
    """Buy credits with the default card, or on Stripe's Checkout page. A repeated submission is the same purchase."""
    account = buying_account()
    credits, nonce = _credits(request.form.get("credits")), request.form.get("operation", "")
    if not NONCE.fullmatch(nonce):
        raise Invalid("This form is incomplete. Load the page again.")
    if billing_snapshot(account.id) is None:
        return see_other(url_for("billing.details", credits=credits))
    seen = request.form.get("total", "")
    total = int(seen) if TOTAL.fullmatch(seen) else None
    buyer = user().id
    operation = operation_id(account, buyer, nonce)
    try:
        outcome = billing.buy(
            account, buyer, credits, nonce=nonce, address=caller_address(), total_cents=total
        )
    except (Conflict, PaymentMismatch, billing.StripeError) as error:
        db.session.rollback()
        if isinstance(error, PaymentMismatch):
            log.error("a purchase does not match its payment: %s", error)
        if _exists(account, operation):
            # the purchase's own page shows its state
            return see_other(_paid_address(operation, credits))
        return _review(account, credits, problem=getattr(error, "message", None), status=502)
    except billing.BuyingLimited as limited:
        db.session.rollback()
        return _review(account, credits, problem=limited.message, status=limited.status)
    except Forbidden:
        return _page(status=403)
    if outcome.checkout_url and not outcome.paid:
        return see_other(outcome.checkout_url)
    return see_other(_paid_address(operation, credits))


@bp.get("/payment-success")
@bp.get("/orgs/<slug>/billing/payment")
@login_required
@limiter.limit("120 per minute")
def payment() -> ResponseReturnValue:
    """The state of a purchase after its payment (contract 6.3). Query: `session_id` of Checkout or `operation`; `amt`.

    Asks Stripe when the page is loaded and on some of its polls, so that it is right without a webhook.
    """
    account = page_account()
    id = request.args.get("session_id") or request.args.get("operation") or ""
    poll = page_number("poll")
    record = _synced(account, id, ask=poll % SYNC_EVERY == 0)
    waiting = record is not None and record.purchase.open
    poll_url = _poll_address(poll + 1) if waiting and poll < LAST_POLL else None
    balance = page_balance(account)
    db.session.commit()
    return money_page(
        "billing/payment.html",
        partial="billing/_payment.html",
        record=record,
        balance=balance,
        poll_url=poll_url,
        poll_seconds=2 if poll < QUICK_POLLS else 10,
        reload_url=_poll_address(0),
    )


@bp.get("/profile/billing/cancelled")
@bp.get("/orgs/<slug>/billing/cancelled")
@login_required
def cancelled() -> ResponseReturnValue:
    """Back from Stripe's page without paying."""
    toast("Payment cancelled. You were not charged.", "info")
    return see_other(billing_home())


def _page(
    *,
    amount: str = "",
    custom: str = "",
    errors: dict[str, str] | None = None,
    status: int = 200,
) -> ResponseReturnValue:
    account, moment = page_account(), now()
    freeze = billing.buying_freeze(account) if billing.enabled() else None
    records, more = purchase_history(account)
    pace = spending_pace(account, moment)
    offered = ORGANISATION_AMOUNTS if account.org_id else AMOUNTS
    least, most = _bounds()
    return money_page(
        "billing/billing.html",
        status=status,
        balance=page_balance(account, now=moment),
        freeze=freeze_message(freeze) if freeze else None,
        pace=pace,
        amounts=[(each, price_cents(each), pace.days_of(each)) for each in offered],
        amount=amount or str(offered[1]),
        custom=custom,
        least=least,
        most=most,
        may_buy=may_buy(),
        seats_cost=billing.enabled() and billing.seats_cost(),
        organisations=administered_orgs(user().id) if account.user_id else [],
        errors=errors or {},
        details=billing_address(billing_snapshot(account.id)),
        records=records,
        more=_more(more),
    )


def _review(
    account: Account, credits: int, *, problem: str | None = None, status: int = 200
) -> ResponseReturnValue:
    snapshot = billing_snapshot(account.id)
    details = billing_address(snapshot)
    if details is None:
        return see_other(url_for("billing.details", credits=credits))
    if billing.buying_freeze(account) is not None:
        return _page(status=403)
    days = spending_pace(account, now()).days_of(credits)
    customer = customer_of(account)
    db.session.commit()  # no transaction during the call to Stripe
    card: SavedCard | None = None
    price = total = price_cents(credits)
    taxes: list[tuple[str, int]] = []
    try:
        card = cards.default_card(customer) if customer else None
        if tax_enabled():
            found = calculate_tax(price, CURRENCY, snapshot)
            total, taxes = found.total_cents, shown_tax(found.lines, found.tax_cents)
    except billing.StripeError as error:
        problem = problem or error.message
    return money_page(
        "billing/review.html",
        status=status,
        credits=credits,
        lines=[
            (name, format.cents(cents, CURRENCY))
            for name, cents in [(f"{format.number(credits)} credits", price), *taxes]
        ],
        # a price without its tax is no total
        total_cents=None if tax_enabled() and not taxes else total,
        days=days,
        card=card,
        details=details,
        problem=problem,
        operation=ledger.compact_id(),
    )


def _synced(account: Account, id: str, *, ask: bool) -> PurchaseRecord | None:
    """The purchase, after asking Stripe for the payment if it is still open; None for an unknown id."""
    try:
        record = purchase_record(account, id)
    except NotFound:
        return None
    purchase = record.purchase
    # the request that started it may still be charging the card
    in_flight = purchase.state == "created" and purchase.created_at > now() - RESOLVED_AFTER
    if not ask or not purchase.open or in_flight or not billing.enabled():
        return record
    operation = purchase.id
    db.session.commit()
    try:
        billing.resolve(operation)
    except (billing.StripeError, PaymentMismatch, Conflict) as error:
        log.warning("the state of %s is unknown: %s", operation, error)
        db.session.rollback()
    return purchase_record(account, operation)


def _exists(account: Account, operation: str) -> bool:
    try:
        purchase_record(account, operation)
    except NotFound:
        return False
    return True


def _credits(text: str | None) -> int:
    return requested_credits(text, *_bounds())


def _bounds() -> tuple[int, int]:
    """The smallest and the largest purchase of the page's account, in credits."""
    if organisation() is None:
        return FEWEST_CREDITS, MOST_ON_PAGE
    return FEWEST_ORGANISATION_CREDITS, MOST_FOR_ORGANISATION


def _paid_address(operation: str, credits: int) -> str:
    return url_for("billing.payment", operation=operation, purchase="credits", amt=credits)


def _poll_address(poll: int) -> str:
    query = {
        name: request.args[name]
        for name in ("session_id", "operation", "purchase", "amt")
        if name in request.args
    }
    return url_for("billing.payment", **query, **({"poll": str(poll)} if poll else {}))  # type: ignore[arg-type]


def _more(after: Cursor | None) -> str | None:
    return url_for("billing.purchases", before=cursor_text(*after)) if after else None
