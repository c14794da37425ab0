"""The subscription of an organisation: one seat a member, at the price STRIPE_TEAM_FEE_PRICE_ID (contract 2.8).

Without that setting seats cost nothing: setting up billing saves a card, and no subscription is needed to buy credits.
Functions that call Stripe take transactions of their own, with none open during a request.
"""

import logging
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select, update

from models.billing import stripe_api
from models.billing.payments import cards
from models.billing.payments.customers import customer_of, ensure_customer, replace_customer
from models.billing.payments.payment_state import PaymentMismatch
from models.billing.payments.purchase import CURRENCY
from models.billing.payments.stripe_events import EventOfStripe, on_event
from models.billing.payments.tax import tax_enabled
from models.billing.stripe_api import StripeError, id_of, missing, plain
from models.billing.subscription_plans.subscription_state import subscription_state
from models.core import jobs
from models.core.db import db
from models.core.errors import Conflict, NotFound
from models.core.jobs import transaction
from models.ledger import Account
from models.orgs import Org, org_deleted, record_org
from models.orgs.counts import counts_of
from models.orgs.members import members_changed

log = logging.getLogger("stoa.billing")

LIVE = frozenset({"active", "trialing", "past_due"})
NO_CHECKOUT = "Could not create Stripe checkout session"
NONE_ACTIVE = "No active subscription found"


@dataclass(frozen=True, slots=True)
class SeatSubscription:
    """What Stripe says of an organisation's subscription. `seats` are those paid for."""

    id: str
    item_id: str
    status: str
    seats: int
    period: tuple[datetime, datetime]
    cancel_at_period_end: bool


@dataclass(frozen=True, slots=True)
class SeatPrice:
    """The price of a seat a month, in cents."""

    id: str
    cents: int


def seats_cost() -> bool:
    """Whether this server charges for the seats of organisations."""
    return _price_id() is not None


def seat_price() -> SeatPrice | None:
    """The price of a seat, from Stripe; None if seats cost nothing. Raises StripeError."""
    id = _price_id()
    if id is None:
        return None
    with stripe_api.api_client() as client:
        price = plain(client.v1.prices.retrieve(id))
    return SeatPrice(id, int(price["unit_amount"] or 0))


def billing_is_set_up(account: Account) -> bool:
    """Whether the organisation has a saved card or Link. Raises StripeError."""
    with transaction():
        customer = customer_of(account)
    if customer is None:
        return False
    try:
        return bool(cards.saved_cards(customer))
    except StripeError as error:
        if missing(error):
            return False
        raise


def set_up_billing(account: Account, success_url: str, cancel_url: str) -> tuple[str, str]:
    """Open Stripe's Checkout page to subscribe with one seat a member, or (without a price) to save a card. Returns its id and
    URL. Raises Conflict (it has a subscription), StripeError, BillingDisabled, NotFound."""
    stripe_api.client()
    with transaction():
        org = _org(account.id)
        subscribed, seats = org.stripe_subscription_id is not None, seats_of(account.id)
    price = _price_id()
    if subscribed and price:
        raise Conflict("The organization already has a subscription.", code="already_subscribed")
    customer = ensure_customer(account)
    if not cards.customer_exists(customer):
        customer = replace_customer(account, customer)
    urls = {"customer": customer, "success_url": success_url, "cancel_url": cancel_url}
    params: Any = urls | {"mode": "setup", "currency": CURRENCY}
    if price:
        metadata = {"organization_id": account.id}
        params = urls | {
            "mode": "subscription",
            "line_items": [{"price": price, "quantity": seats}],
            "allow_promotion_codes": True,
            "metadata": metadata | {"type": "subscription_setup"},
            "subscription_data": {"metadata": metadata},
        }
        if tax_enabled():
            params |= {
                "automatic_tax": {"enabled": True},
                "customer_update": {"address": "auto", "name": "auto"},
            }
    with stripe_api.api_client() as client:
        session = client.v1.checkout.sessions.create(params)
    if not session.url:
        raise StripeError(NO_CHECKOUT, unknown=False)
    return session.id, session.url


def seats_of(org_id: str) -> int:
    """The seats that the organisation needs: its people, at least one."""
    return max(1, counts_of([org_id])[org_id].members)


def seat_subscription(account: Account) -> SeatSubscription | None:
    """The organisation's live subscription at Stripe, or None. Raises StripeError."""
    with transaction():
        id = _org(account.id).stripe_subscription_id
    found = _fetch(id) if id else None
    return _seats(found) if found and found["status"] in LIVE else None


def cancel_seats(account: Account) -> None:
    """End the subscription at once, and switch automatic top-up off (contract 2.8). Bought credits stay. Raises NotFound (there
    is none), StripeError, BillingDisabled."""
    stripe_api.client()
    with transaction():
        id = _org(account.id).stripe_subscription_id
    if id is None:
        raise NotFound(NONE_ACTIVE)
    found = _fetch(id)
    if found and found["status"] in LIVE:
        with stripe_api.api_client() as client:
            client.v1.subscriptions.cancel(id)
    with transaction():
        if _ended(account.id, id):
            record_org(account.id, "subscription.cancelled", id)


def sync_org_subscription(id: str) -> None:
    """Bring the organisation of a subscription to what Stripe says of it. Idempotent, in any order of events. The first one
    switches automatic top-up on (contract 2.11); it charges only after an owner or admin has agreed. Raises PaymentMismatch
    (another customer's), StripeError."""
    found = _fetch(id)
    if found is None:
        raise PaymentMismatch(f"Stripe knows no subscription {id}")
    org_id = (found.get("metadata") or {}).get("organization_id")
    with transaction():
        customer = customer_of(Account(org_id=org_id)) if org_id else None
    if org_id is None or customer is None or customer != id_of(found.get("customer")):
        raise PaymentMismatch(f"subscription {id}: the customer is not the organisation's")
    if found["status"] not in LIVE:
        with transaction():
            _ended(org_id, id)
        return
    seats = _seats(found)
    with transaction():
        start, end = seats.period
        first = db.session.execute(
            update(Org)
            .where(Org.id == org_id, Org.stripe_subscription_id.is_(None))
            .values(
                stripe_subscription_id=id,
                auto_topup_enabled=True,
                auto_topup_threshold=500,
                auto_topup_amount=2000,
            )
            .returning(Org.id)
        ).one_or_none()
        db.session.execute(
            update(Org)
            .where(Org.id == org_id, Org.stripe_subscription_id == id)
            .values(current_period_start=start, current_period_end=end)
        )
        if first:
            record_org(org_id, "subscription.started", id, after={"seats": seats.seats})
    if first and (saved := cards.saved_cards(customer)):
        cards.ensure_default_card(customer, saved[0].id)
    sync_seats(org_id)


def sync_seats(org_id: str) -> None:
    """Pay for as many seats as the organisation has people, with proration. Idempotent. Raises StripeError."""
    if not stripe_api.enabled():
        return
    with transaction():
        org = db.session.get(Org, org_id)
        id, seats = (org.stripe_subscription_id, seats_of(org_id)) if org else (None, 0)
    found = _fetch(id) if id else None
    if found is None or found["status"] not in LIVE:
        return
    paid = _seats(found)
    if paid.seats != seats:
        items: Any = [{"id": paid.item_id, "quantity": seats}]
        with stripe_api.api_client() as client:
            client.v1.subscriptions.update(
                paid.id, {"items": items, "proration_behavior": "create_prorations"}
            )


@on_event("customer.subscription.created", "customer.subscription.updated", "customer.subscription.deleted")
def _org_subscription_changed(event: EventOfStripe) -> None:
    if _of_org(event):
        sync_org_subscription(event.object["id"])


@on_event("checkout.session.completed")
def _org_subscribed(event: EventOfStripe) -> None:
    if _of_org(event) and (id := id_of(event.object.get("subscription"))):
        sync_org_subscription(id)


def _of_org(event: EventOfStripe) -> bool:
    return bool((event.object.get("metadata") or {}).get("organization_id"))


@members_changed.connect
def _members_changed(org_id: str) -> None:
    if db.session.scalars(select(Org.stripe_subscription_id).where(Org.id == org_id)).one_or_none():
        jobs.enqueue(jobs.sync_seats, org_id=org_id)


@org_deleted.connect
def _org_deleted(org: Org) -> None:
    if org.stripe_subscription_id:
        jobs.enqueue(jobs.end_seats, org_id=org.id)


def end_seats_of_deleted(org_id: str) -> None:
    """End the subscription of a deleted organisation; one that was restored meanwhile keeps it. Raises StripeError,
    BillingDisabled."""
    with transaction():
        deleted = db.session.scalars(select(Org.deleted_at).where(Org.id == org_id)).one_or_none()
    if deleted is not None:
        with suppress(NotFound):
            cancel_seats(Account(org_id=org_id))


def _ended(org_id: str, subscription_id: str) -> bool:
    ended: Any = db.session.execute(
        update(Org)
        .where(Org.id == org_id, Org.stripe_subscription_id == subscription_id)
        .values(
            stripe_subscription_id=None,
            auto_topup_enabled=False,
            current_period_start=None,
            current_period_end=None,
        )
    )
    return bool(ended.rowcount)


def _fetch(id: str) -> dict[str, Any] | None:
    try:
        with stripe_api.api_client() as client:
            return plain(client.v1.subscriptions.retrieve(id))
    except StripeError as error:
        if missing(error):
            return None
        raise


def _seats(found: dict[str, Any]) -> SeatSubscription:
    state = subscription_state(found, ())
    seats = found["items"]["data"][0].get("quantity") or 1
    return SeatSubscription(
        state.id, state.item_id, state.status, seats, state.period, state.cancel_at_period_end
    )


def _org(id: str) -> Org:
    org = db.session.get(Org, id)
    if org is None:
        raise NotFound("Organization not found")
    return org


def _price_id() -> str | None:
    return stripe_api.billing_settings().stripe_team_fee_price_id
