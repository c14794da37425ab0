"""Alerts of organisations about money: an automatic top-up that failed, a card that expires."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import select

from models.billing.payments import cards
from models.billing.payments.cards import SavedCard
from models.billing.payments.purchase import Purchase
from models.core.db import db, midnight
from models.orgs import Org, raise_alert

EXPIRY_NOTICE = timedelta(days=30)


def alert_failed_topup(purchase: Purchase, retry_at: datetime | None) -> None:
    """Raise the alert of an organisation's declined top-up; nothing for a person's. Flushes."""
    if purchase.org_id is None:
        return
    reason = purchase.failure_message or "The payment was declined."
    following = (
        f"The next attempt is on {retry_at:%-d %b %Y, %H:%M} UTC."
        if retry_at
        else "There is no other attempt before another card is saved."
    )
    raise_alert(
        purchase.org_id,
        "auto_topup_failed",
        f"{purchase.id}:{purchase.version}",
        "critical",
        "Automatic Top-up Failed",
        f"{reason} {following}",
        {"purchase_id": purchase.id, "credits": purchase.credits},
        until=purchase.created_at + timedelta(days=7),
    )


def orgs_with_cards() -> Sequence[tuple[str, str]]:
    """Id and Stripe customer of the organisations that have one."""
    query = select(Org.id, Org.stripe_customer_id).where(
        Org.stripe_customer_id.is_not(None), Org.deleted_at.is_(None)
    )
    return [(id, customer) for id, customer in db.session.execute(query.order_by(Org.id)) if customer]


def default_card_of(customer_id: str) -> SavedCard | None:
    """The customer's default card. Calls Stripe: no transaction may be open. Raises StripeError."""
    return cards.default_card(customer_id)


def alert_expiring_card(org_id: str, card: SavedCard | None, now: datetime) -> bool:
    """Raise an alert if the card is valid for less than 30 days more, once by card; whether it is new. Flushes."""
    if card is None or not card.exp_year or not card.exp_month:
        return False
    year, month = card.exp_year + card.exp_month // 12, card.exp_month % 12 + 1
    ends = midnight(now.date().replace(year=year, month=month, day=1))
    if ends - now > EXPIRY_NOTICE:
        return False
    return raise_alert(
        org_id,
        "card_expiring",
        f"{card.id}:{card.exp_year}-{card.exp_month:02}",
        "warning",
        "Card Expires",
        f"The card ending in {card.last4} expires at the end of {ends - timedelta(days=1):%B %Y}."
        " Save another one, so that automatic top-up and the subscription go on.",
        {"last4": card.last4, "expires": f"{card.exp_year}-{card.exp_month:02}"},
        until=ends,
    )
