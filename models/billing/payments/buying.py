"""Buying credits: the purchase is written down, then Stripe is asked, and the credits land by whoever hears of it first.

Between its steps the process may be stopped at any point. A job that is enqueued with the purchase asks Stripe how it
ended, so a charged card becomes credits, and a purchase that came to nothing is closed.
"""

import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from models import ledger
from models.billing import stripe_api
from models.billing.payments import cards, trust
from models.billing.payments.billing_details import billing_snapshot
from models.billing.payments.customers import ensure_customer, replace_customer, send_billing_details
from models.billing.payments.freezes import refuse_frozen
from models.billing.payments.open_checkouts import within_limits
from models.billing.payments.payment_state import of_new_intent
from models.billing.payments.purchase import CURRENCY, RESOLVED_AFTER, Purchase
from models.billing.payments.tax import calculate_tax, tax_enabled
from models.billing.payments.transitions import note_attempt, purchase_by_id, settle, sync
from models.billing.stripe_api import StripeError, id_of, plain
from models.core import jobs
from models.core.db import db
from models.core.db import now as utc_now
from models.core.errors import Conflict, Invalid
from models.core.jobs import transaction
from models.ledger import Account
from models.orgs import Org

if TYPE_CHECKING:
    import stripe

FEWEST_CREDITS = 500
FEWEST_ORGANISATION_CREDITS = 5000
"""The smallest purchase of an organisation (contract 3.1)."""
MOST_CREDITS = 99_999_999
"""What Stripe takes at most for one charge, in cents."""
NONCE = re.compile(r"[\w-]{1,64}", re.ASCII)
UNKNOWN = (
    "Stripe did not answer. If your card was charged, the credits arrive within a few minutes: look at your purchases "
    "before you try again."
)
TAX_CHANGED = "The tax has changed since you saw the total. Check the new total before you pay."
TAX_NOT_AGREED = (
    "Tax is added to your top-ups now, and your consent does not name it. Save the settings of automatic top-up "
    "again."
)
NO_CHECKOUT = "Could not create Stripe checkout session."


@dataclass(frozen=True, slots=True)
class BuyOutcome:
    """What became of buying: the credits are there (`paid`), or the buyer goes on at `checkout_url`, or waits."""

    purchase_id: str
    credits: int
    paid: bool
    session_id: str | None = None
    checkout_url: str | None = None


def price_cents(credits: int) -> int:
    """What so many credits cost, in cents, before tax (contract 3.1)."""
    return credits


def buy(
    account: Account,
    buyer_id: str,
    credits: int,
    *,
    nonce: str | None = None,
    address: str | None = None,
    total_cents: int | None = None,
) -> BuyOutcome:
    """Buy credits: with the account's default card, off-session, else on Stripe's Checkout page (contract 2.11).

    Takes transactions of its own. At a limit of 24 hours, Checkout pages that were left open are closed. `nonce`, a form's own word, makes a repeated submission the same purchase.
    `address` is the buyer's network address, for limits of declines. `total_cents` is the total that the buyer saw: a saved
    card is charged that much or not at all. Where tax is added, a saved card needs billing details. Raises BillingDisabled, Forbidden (buying is frozen),
    BuyingLimited, StripeError, Conflict.
    """
    stripe_api.client()
    started = utc_now()
    with transaction():
        refuse_frozen(account)
        may_charge = not tax_enabled() or billing_snapshot(account.id) is not None
    customer = ensure_customer(account)
    card = cards.default_card(customer) if may_charge else None
    if card is None and not cards.customer_exists(customer):
        customer = replace_customer(account, customer)
    operation = operation_id(account, buyer_id, nonce)
    with transaction():
        if not _begun(operation):
            trust.refuse_declined(card.fingerprint if card else None, address)
    insert = partial(
        begin,
        operation,
        account,
        buyer_id,
        "direct" if card else "checkout",
        credits,
        customer,
        address=address,
    )
    try:
        within_limits(account, insert, opened_before=started)
    except IntegrityError:
        return _again(operation, credits)
    if card is not None:
        purchase = charge(operation, card.id, card.type, cancel_failed=True, agreed_cents=total_cents)
        if purchase.paid:
            return BuyOutcome(operation, credits, paid=True)
        if purchase.open:
            raise StripeError(UNKNOWN, unknown=True)
    return open_checkout(operation)


def operation_id(account: Account, buyer_id: str, nonce: str | None = None) -> str:
    """A fresh name for a purchase, and for its grant (contract 3.2). Raises Invalid for a nonce that is no word."""
    if nonce is not None and not NONCE.fullmatch(nonce):
        raise Invalid("This form is damaged. Load the page again.")
    owner = f"org-{account.org_id}" if account.org_id else f"buy-{buyer_id}"
    return f"{owner}-{nonce or ledger.compact_id()}"


def begin(
    operation: str,
    account: Account,
    buyer_id: str,
    kind: str,
    credits: int,
    customer: str,
    *,
    address: str | None = None,
) -> Purchase:
    """Write a purchase down, before Stripe is asked, with the job that finds out how it ended. Flushes.

    Locks the account. Raises sqlalchemy's IntegrityError if there is one of this name, else BuyingLimited if the account
    has bought too often or too much in the last 24 hours.
    """
    ledger.lock_account(account)
    if not _begun(operation):
        trust.refuse_limited(account, price_cents(credits))
    purchase = Purchase(
        id=operation,
        user_id=buyer_id,
        org_id=account.org_id,
        kind=kind,
        credits=credits,
        amount_cents=price_cents(credits),
        currency=CURRENCY,
        stripe_customer_id=customer,
        billing=billing_snapshot(account.id),
        client_address=address,
    )
    db.session.add(purchase)
    db.session.flush()
    jobs.enqueue(jobs.resolve_purchase, at=utc_now() + RESOLVED_AFTER, purchase_id=operation)
    return purchase


def charge(
    operation: str, method_id: str, method_type: str, *, cancel_failed: bool, agreed_cents: int | None = None
) -> Purchase:
    """Charge a saved card off-session for a purchase that was begun; the purchase as it is afterwards: paid, pending, or
    failed with the reason.

    The operation is Stripe's idempotency key. Takes transactions of its own. `cancel_failed` makes sure that an attempt
    that failed is never finished later, so that another way to pay may be offered; without it a payment that only needs the
    buyer's confirmation (`authentication_required`) can still be confirmed, and is paid then. Where tax is
    added it is calculated first; a purchase whose tax is unknown, or whose total is not `agreed_cents`, fails without a charge.
    Raises StripeError (`unknown`: the card may have been charged), Conflict, PaymentMismatch.
    """
    if tax_enabled() and not _add_tax(operation, agreed_cents):
        with transaction():
            return purchase_by_id(operation)
    with transaction():
        purchase = purchase_by_id(operation)
        version = purchase.version
        params = _intent(purchase, method_id, method_type)
    import stripe

    try:
        with stripe_api.api_client() as client:
            intent = client.v1.payment_intents.create(params, {"idempotency_key": operation})
    except stripe.CardError as error:
        return _declined(operation, version, error, cancel_failed)
    except StripeError as error:
        if error.unknown:
            raise StripeError(UNKNOWN, unknown=True) from error
        with transaction():
            note_attempt(
                operation, version, state="failed", failure_code="refused", failure_message=error.message
            )
            return purchase_by_id(operation)
    with transaction():
        if settle(operation, version, of_new_intent(intent)):
            return purchase_by_id(operation)
    return sync(operation, intent_id=intent.id)


def _add_tax(operation: str, agreed_cents: int | None) -> bool:
    """Add the tax to a purchase that was begun; False if it has failed instead. Takes transactions of its own. Raises
    Conflict if others changed the purchase meanwhile: nothing was charged."""
    with transaction():
        purchase = purchase_by_id(operation)
        version, net_cents, currency = purchase.version, purchase.net_cents, purchase.currency
        billing, top_up = purchase.billing, purchase.kind == "auto_topup"
    try:
        found = calculate_tax(net_cents, currency, billing, operation=operation)
        refusal = TAX_NOT_AGREED if top_up else TAX_CHANGED
        problem = None if agreed_cents in (None, found.total_cents) else refusal
        values: dict[str, Any] = {
            "amount_cents": found.total_cents,
            "tax_cents": found.tax_cents,
            "tax_lines": found.lines,
            "tax_calculation_id": found.id,
        }
    except StripeError as error:
        problem, values = error.message, {}
    if problem:
        values = {"state": "failed", "failure_code": "tax", "failure_message": problem}
    with transaction():
        if not note_attempt(operation, version, **values):
            raise Conflict("This purchase was changed meanwhile. Nothing was charged.")
    return problem is None


def open_checkout(operation: str) -> BuyOutcome:
    """Open Stripe's Checkout page for a purchase that was begun, or whose card was declined. Takes transactions of its
    own. Raises StripeError."""
    with transaction():
        purchase = purchase_by_id(operation)
        version, credits, account_id = purchase.version, purchase.credits, purchase.account_id
        params = _checkout(purchase)
    try:
        if tax_enabled():
            send_billing_details(account_id)  # Checkout takes the tax of the customer's address
        with stripe_api.api_client() as client:
            session = plain(
                client.v1.checkout.sessions.create(params, {"idempotency_key": f"{operation}-checkout"})
            )
    except StripeError as error:
        if not error.unknown:
            with transaction():
                note_attempt(
                    operation, version, state="failed", failure_code="refused", failure_message=error.message
                )
        raise
    _note_session(operation, session["id"])
    if not session.get("url"):
        raise StripeError(NO_CHECKOUT, unknown=False)
    return BuyOutcome(operation, credits, paid=False, session_id=session["id"], checkout_url=session["url"])


def resolve(operation: str) -> None:
    """Find out how a purchase ended whose request is over: the job behind `begin`. Takes transactions of its own."""
    if not stripe_api.enabled():
        return
    with transaction():
        found = db.session.get(Purchase, operation, populate_existing=True)
        waits = found is not None and not found.paid
    if waits:
        sync(operation)


def _begun(operation: str) -> bool:
    return db.session.scalars(select(Purchase.id).where(Purchase.id == operation)).one_or_none() is not None


def _note_session(operation: str, session_id: str) -> None:
    """Write the session down, also when an event of the attempt before it came in between."""
    noted = False
    while not noted:
        with transaction():
            purchase = purchase_by_id(operation)
            noted = purchase.paid or note_attempt(
                operation,
                purchase.version,
                state="pending",
                kind="checkout",
                stripe_checkout_session_id=session_id,
            )


def _again(operation: str, credits: int) -> BuyOutcome:
    with transaction():
        begun = purchase_by_id(operation)
        if begun.state == "created" and begun.created_at > utc_now() - RESOLVED_AFTER:
            raise Conflict("This purchase is being made just now. Wait a moment.")
    purchase = sync(operation)
    if purchase.credits != credits:
        raise Conflict("This form was used for another purchase. Load the page again.")
    if purchase.paid:
        return BuyOutcome(operation, credits, paid=True)
    if purchase.stripe_checkout_session_id and purchase.open:
        with stripe_api.api_client() as client:
            session = plain(client.v1.checkout.sessions.retrieve(purchase.stripe_checkout_session_id))
        return BuyOutcome(
            operation, credits, paid=False, session_id=session["id"], checkout_url=session["url"]
        )
    raise Conflict("This purchase has ended. Load the page again for another one.")


def _declined(operation: str, version: int, error: "stripe.CardError", cancel_failed: bool) -> Purchase:
    intent: Any = error.error.payment_intent if error.error else None
    intent_id = id_of(intent if isinstance(intent, str) or intent is None else plain(intent))
    if intent_id is None:
        code = getattr(error.error, "decline_code", None) or error.code
        with transaction():
            note_attempt(
                operation, version, state="failed", failure_code=code, failure_message=error.user_message
            )
            purchase = purchase_by_id(operation)
            trust.record_decline(purchase, operation, code or "declined", None)
            return purchase
    if cancel_failed:
        _cancel(intent_id)
    return sync(operation, intent_id=intent_id)


def _cancel(intent_id: str) -> None:
    """So that it cannot be finished any more. One that has ended already is as it is: who asks next sees it."""
    try:
        with stripe_api.api_client() as client:
            client.v1.payment_intents.cancel(intent_id)
    except StripeError as error:
        if error.unknown:
            raise StripeError(UNKNOWN, unknown=True) from error


def _metadata(purchase: Purchase, **more: str) -> dict[str, str]:
    facts = {
        "userId": purchase.user_id,
        "credits": str(purchase.credits),
        "operationId": purchase.id,
        "grantType": "organization_purchase" if purchase.org_id else "purchase",
        **more,
    }
    if purchase.org_id is None:
        return facts
    return facts | {"organizationId": purchase.org_id, "organization_id": purchase.org_id}


def _intent(purchase: Purchase, method_id: str, method_type: str) -> Any:
    taxed = {}
    if purchase.tax_calculation_id:
        taxed = {"netCents": str(purchase.net_cents), "taxCalculation": purchase.tax_calculation_id}
    return {
        "amount": purchase.amount_cents,
        "currency": purchase.currency,
        "customer": purchase.stripe_customer_id,
        "payment_method": method_id,
        "payment_method_types": [method_type],
        "confirm": True,
        "off_session": True,
        "description": f"{purchase.credits:,} credits",
        "metadata": _metadata(purchase, **taxed),
        "expand": ["latest_charge"],
    }


def _checkout(purchase: Purchase) -> Any:
    base = stripe_api.billing_settings().base_url
    taxed = {"netCents": str(purchase.net_cents), "tax": "checkout"} if tax_enabled() else {}
    metadata = _metadata(purchase, **taxed)
    paid, left = "/payment-success", "/usage"
    if purchase.org_id:
        left = f"/orgs/{db.session.get_one(Org, purchase.org_id).slug}/billing"
        paid = f"{left}/payment"
    # asked here if the account has none
    details: Any = {
        "billing_address_collection": "required",
        "tax_id_collection": {"enabled": True},
        "customer_update": {"name": "auto", "address": "auto"},
    }
    more = details if purchase.billing is None else {}
    price: Any = {
        "currency": purchase.currency,
        "unit_amount": purchase.net_cents,
        "product_data": {"name": f"{purchase.credits:,} credits"},
    }
    if tax_enabled():
        more = more | {"automatic_tax": {"enabled": True}}
        price["tax_behavior"] = "exclusive"
    return more | {
        "mode": "payment",
        "customer": purchase.stripe_customer_id,
        "client_reference_id": purchase.id,
        "payment_method_types": ["card", "link"],
        "line_items": [{"quantity": 1, "price_data": price}],
        "metadata": metadata,
        "payment_intent_data": {"metadata": metadata, "setup_future_usage": "off_session"},
        "success_url": f"{base}{paid}?session_id={{CHECKOUT_SESSION_ID}}&purchase=credits&amt={purchase.credits}",
        "cancel_url": f"{base}{left}?purchase_canceled=true",
    }
