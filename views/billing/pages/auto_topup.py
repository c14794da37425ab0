"""Automatic top-up: its card with the form, and the confirmation of payments with the bank."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from flask import request
from flask.typing import ResponseReturnValue

from models import billing
from models.billing.payments import confirmations, transitions
from models.billing.payments.purchase import Purchase
from models.billing.topups import auto_topup, topup_charging
from models.billing.topups.auto_topup import (
    DEFAULT_CREDITS,
    DEFAULT_THRESHOLD,
    MAX_CAP_CENTS,
    MIN_CREDITS,
    AutoTopupBlocked,
    AutoTopupView,
    TopupBounds,
    TopupSettings,
    bounds_of,
    consent_text,
)
from models.core import jobs
from models.core.db import db, now
from models.core.errors import Conflict
from models.ledger import Account
from views.billing.pages.billing_blueprint import (
    absolute,
    billing_home,
    bp,
    money_page,
    own_billing,
    page_account,
    user,
)
from views.web import format
from views.web.guards import limiter, login_required
from views.web.htmx import see_other, toast, wants_fragment

DOLLARS = re.compile(r"\d{1,6}(\.\d{1,2})?", re.ASCII)
SAME_CARD = (
    "Your default card is the one that was declined. Save another card, or make another one the default."
)
SUGGESTED_CAP_CENTS = 10_000
"""The monthly limit that the form suggests to an account that has none stored, in cents."""


@dataclass(frozen=True)
class TopupCard:
    """Data of `billing/_auto_topup.html`: the view, the fields as entered, and their errors. Amounts are strings."""

    view: AutoTopupView
    enabled: bool
    threshold: str
    amount: str
    cap: str
    thresholds: tuple[int, int]
    amounts: tuple[int, int]
    errors: Mapping[str, str] = field(default_factory=dict)
    saved: bool = False


def auto_topup_view() -> TopupCard | None:
    """The card of the page's account, for pages that include `billing/_auto_topup.html`; None if billing is disabled."""
    return _card(page_account()) if billing.enabled() else None


bp.add_app_template_global(auto_topup_view)


def suggests_auto_topup(purchase: Purchase) -> bool:
    """Whether the page of a paid purchase suggests automatic top-up: it is off, and the payment saved a chargeable
    method."""
    saved = purchase.card_last4 is not None or purchase.payment_method_type == "link"
    return (
        saved
        and purchase.state == "paid"
        and not auto_topup.settings_of(purchase.account).enabled
        and billing.buying_freeze(purchase.account) is None
    )


bp.add_app_template_global(suggests_auto_topup)


@bp.get("/profile/auto-topup")
@bp.get("/orgs/<slug>/billing/auto-topup")
@login_required
def auto_topup_page() -> ResponseReturnValue:
    """The page of automatic top-up; htmx gets only its status."""
    return _page(_card(own_billing()), partial="billing/_auto_topup_status.html")


@bp.post("/profile/auto-topup")
@bp.post("/orgs/<slug>/billing/auto-topup")
@login_required
@limiter.limit("120 per minute")
def save_auto_topup() -> ResponseReturnValue:
    """Store the form; switching it on needs a payment method that can be charged."""
    account, actor_id = own_billing(), user().id
    before = auto_topup.settings_of(account)
    db.session.commit()
    entered = {name: request.form.get(name, "").strip() for name in ("threshold", "amount", "cap")}
    enabled = bool(request.form.get("enabled"))
    bounds = bounds_of(account)
    numbers, errors = _parse(entered, _thresholds(before, bounds), bounds)
    if enabled and not before.enabled and not errors:
        errors = _missing_card(account)
    if errors:
        card = _card(account, entered=entered, enabled=enabled, errors=errors)
        return _page(card, partial="billing/_auto_topup.html", status=422)
    settings = TopupSettings(enabled, numbers["threshold"], numbers["amount"], numbers["cap"])
    auto_topup.save(account, actor_id, settings, source="page")
    db.session.commit()
    if not wants_fragment():
        toast("Automatic top-up saved.")
        return see_other(billing_home())
    return _page(_card(account, saved=True), partial="billing/_auto_topup.html")


@bp.post("/profile/auto-topup/attempts")
@bp.post("/orgs/<slug>/billing/auto-topup/attempts")
@login_required
@limiter.limit("10 per minute")
def retry_topup() -> ResponseReturnValue:
    """End the pause after a decline and retry in a job; after a permanent decline another card is required first."""
    account = own_billing()
    db.session.commit()
    if blocked := auto_topup.blocked_reason(account):
        same = blocked == auto_topup.NO_CARD and auto_topup.settings_of(account).enabled
        toast(SAME_CARD if same else blocked, "bad")
        return see_other(billing_home())
    topup_charging.resume(account)
    jobs.enqueue(jobs.top_up, account_id=account.id)
    db.session.commit()
    toast("Retrying. The result appears here in a few seconds.")
    return see_other(billing_home())


@bp.post("/profile/auto-topup/confirmation/<operation>")
@bp.post("/orgs/<slug>/billing/auto-topup/confirmation/<operation>")
@login_required
@limiter.limit("10 per minute")
def confirm_own_topup(operation: str) -> ResponseReturnValue:
    """Redirect to the bank's page to confirm the signed-in user's waiting top-up."""
    purchase_id = confirmations.owned(own_billing(), operation)
    db.session.commit()
    back = absolute("billing.own_topup_confirmed", operation=purchase_id)
    return see_other(confirmations.confirm(purchase_id, back) or back)


@bp.get("/profile/auto-topup/confirmation/<operation>")
@bp.get("/orgs/<slug>/billing/auto-topup/confirmation/<operation>")
@login_required
@limiter.limit("60 per minute")
def own_topup_confirmed(operation: str) -> ResponseReturnValue:
    """Return from the bank's page to the billing page."""
    purchase = billing.purchase_of(own_billing(), operation)
    id = purchase.id
    db.session.commit()
    purchase = transitions.sync(id)
    if purchase.paid:
        toast(f"Payment confirmed: {format.number(purchase.credits)} credits added.")
    else:
        toast("The bank has not confirmed the payment. Nothing was charged.", "bad")
    return see_other(billing_home())


@bp.get("/billing/confirmations/<token>")
@limiter.limit("60 per minute")
def confirmation(token: str) -> ResponseReturnValue:
    """Show the payment of an e-mailed link with a button to confirm it, because mail scanners open every URL.

    Shows the outcome after the return from the bank's page."""
    shown = confirmations.look_up(token, now())
    db.session.commit()
    if shown.state == "unconfirmed" and request.args.get("payment_intent"):
        transitions.sync(shown.purchase.id)
        shown = confirmations.look_up(token, now())
    response = money_page("billing/confirmation.html", shown=shown, token=token)
    response.headers["Referrer-Policy"] = "no-referrer"  # the URL is a credential
    return response


@bp.post("/billing/confirmations/<token>")
@limiter.limit("20 per minute")
def use_confirmation(token: str) -> ResponseReturnValue:
    """Mark the link as used and redirect to the bank's page."""
    purchase_id = confirmations.use(token, now())
    db.session.commit()
    back = absolute("billing.confirmation", token=token)
    if purchase_id is None:
        return see_other(back)
    try:
        return see_other(confirmations.confirm(purchase_id, back) or back)
    except Conflict:
        return see_other(back)


def _page(card: TopupCard, *, partial: str, status: int = 200) -> ResponseReturnValue:
    return money_page("billing/auto_topup.html", partial=partial, status=status, topup=card)


def _card(
    account: Account,
    *,
    entered: dict[str, str] | None = None,
    enabled: bool | None = None,
    errors: Mapping[str, str] | None = None,
    saved: bool = False,
) -> TopupCard:
    view, bounds = auto_topup.view(account), bounds_of(account)
    stored = view.settings
    cap = _suggested_cap(account, stored)
    # the consent covers the values that the form would save
    view = replace(view, consent=consent_text(account, replace(stored, monthly_cap_cents=cap)))
    texts = entered or {
        "threshold": str(DEFAULT_THRESHOLD if stored.threshold is None else stored.threshold),
        "amount": _dollars(stored.amount or DEFAULT_CREDITS),
        "cap": _dollars(cap),
    }
    return TopupCard(
        view,
        stored.enabled if enabled is None else enabled,
        texts["threshold"],
        texts["amount"],
        texts["cap"],
        _thresholds(stored, bounds),
        (MIN_CREDITS // 100, bounds.max_credits // 100),
        errors=errors or {},
        saved=saved,
    )


def _suggested_cap(account: Account, stored: TopupSettings) -> int | None:
    # organisations are created with a stored amount
    unset = stored.amount is None or (account.org_id and not auto_topup.consented(account))
    untouched = unset and not stored.enabled
    return SUGGESTED_CAP_CENTS if untouched else stored.monthly_cap_cents


def _thresholds(stored: TopupSettings, bounds: TopupBounds) -> tuple[int, int]:
    """The form's bounds, extended by the stored value, which the JSON route does not limit."""
    least, most = bounds.thresholds
    present = DEFAULT_THRESHOLD if stored.threshold is None else stored.threshold
    return min(least, present), max(most, present)


def _parse(
    entered: dict[str, str], thresholds: tuple[int, int], bounds: TopupBounds
) -> tuple[dict[str, Any], dict[str, str]]:
    numbers: dict[str, Any] = {}
    errors: dict[str, str] = {}
    least, most = thresholds
    text = entered["threshold"].replace(",", "")
    if re.fullmatch(r"-?\d{1,9}", text, re.ASCII) and least <= int(text) <= most:
        numbers["threshold"] = int(text)
    else:
        errors["threshold"] = f"Enter {format.as_entered(least)} to {format.as_entered(most)} credits."
    numbers["amount"] = _cents(entered["amount"])
    if numbers["amount"] is None or not MIN_CREDITS <= numbers["amount"] <= bounds.max_credits:
        errors["amount"] = f"Enter ${MIN_CREDITS // 100} to ${bounds.max_credits // 100}."
    numbers["cap"] = _cents(entered["cap"])
    smallest = 1 if "amount" in errors else numbers["amount"]
    if entered["cap"] and not smallest <= (numbers["cap"] or 0) <= MAX_CAP_CENTS:
        errors["cap"] = (
            f"Enter at least the amount of one top-up and at most ${format.as_entered(MAX_CAP_CENTS // 100)}, or leave it empty."
        )
    return numbers, errors


def _cents(text: str) -> int | None:
    digits = text.replace(",", "").removeprefix("$")
    return int(Decimal(digits) * 100) if DOLLARS.fullmatch(digits) else None


def _dollars(cents: int | None) -> str:
    if cents is None:
        return ""
    return str(cents // 100) if cents % 100 == 0 else str(Decimal(cents).scaleb(-2))


def _missing_card(account: Account) -> dict[str, str]:
    try:
        auto_topup.chargeable_card(account)
    except AutoTopupBlocked:
        return {"enabled": "Save a card first. Automatic top-up charges your default card."}
    except billing.StripeError as error:
        return {"enabled": error.message}
    return {}
