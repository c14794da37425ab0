"""The e-mails about automatic top-ups: each is enqueued in the transaction of what it reports, so it is sent once."""

from datetime import datetime

from sqlalchemy import select

from models.accounts.users import User
from models.billing import stripe_api
from models.billing.purchase import Purchase, dollars
from models.core.db import db
from models.core.notices import Notice, send_notice
from models.ledger import Account, owner_of

BILLING_PATH = "/profile?tab=billing"
CLOSING = "You get this e-mail because automatic top-up was switched on for your account. Change it on the billing page."


def moment(time: datetime) -> str:
    """A time, as in `29 Nov 2026, 10:00 UTC`."""
    return f"{time.day} {time:%b %Y, %H:%M} UTC"


def method_of(purchase: Purchase) -> str:
    """The payment method of a purchase, as in `Visa ending in 4242`."""
    if purchase.card_name:
        return purchase.card_name
    return "Link" if purchase.payment_method_type == "link" else "your saved card"


def notify_charged(purchase: Purchase) -> None:
    """A top-up was paid and its credits were granted. Flushes."""
    _send(
        purchase.account,
        f"Automatic top-up: {purchase.credits:,} credits added",
        f"Your balance was low, so Stoa charged {dollars(purchase.amount_cents)} to {method_of(purchase)} and added "
        f"{purchase.credits:,} credits.",
        facts=_facts(purchase),
        label="Open billing",
    )


def notify_failed(purchase: Purchase, retry_at: datetime | None) -> None:
    """A top-up was declined. `retry_at` is when it is tried again; None: not before another card is saved. Flushes."""
    reason = purchase.failure_message or "The payment was declined."
    plan = (
        f"Stoa tries again after {moment(retry_at)}. To top up now, save another card or buy credits."
        if retry_at
        else "Stoa does not charge this card again. Save another card to continue automatic top-up."
    )
    _send(
        purchase.account,
        "Automatic top-up failed",
        f"Stoa could not charge {dollars(purchase.amount_cents)} to {method_of(purchase)}: {reason}",
        plan,
        facts=_facts(purchase),
        label="Open billing",
    )


def notify_confirmation(purchase: Purchase, path: str, expires_at: datetime) -> None:
    """The cardholder must confirm a top-up with the bank, on the page at `path`. Flushes."""
    _send(
        purchase.account,
        "Confirm your automatic top-up",
        f"Your bank asks you to confirm the payment of {dollars(purchase.amount_cents)} for {purchase.credits:,} credits. "
        "Nothing was charged yet.",
        f"The link works once, until {moment(expires_at)}.",
        facts=_facts(purchase),
        label="Confirm the payment",
        path=path,
    )


def notify_cap_reached(account: Account, cap_cents: int, charged_cents: int, retry_at: datetime) -> None:
    """The monthly cap leaves no room for another top-up. Flushes."""
    _send(
        account,
        "Automatic top-up paused: monthly limit reached",
        f"Automatic top-ups charged {dollars(charged_cents)} this month, and your limit is {dollars(cap_cents)}.",
        f"They continue on {moment(retry_at)}. To top up now, raise the limit or buy credits.",
        label="Open billing",
    )


def notify_switched_off(account: Account) -> None:
    """Automatic top-up switched itself off, because no payment method can be charged. Flushes."""
    _send(
        account,
        "Automatic top-up is off",
        "Your account has no payment method that can be charged, so Stoa switched automatic top-up off.",
        "Save a card, then switch it on again.",
        label="Open billing",
    )


def _facts(purchase: Purchase) -> tuple[tuple[str, str], ...]:
    return (
        ("Amount", dollars(purchase.amount_cents)),
        ("Credits", f"{purchase.credits:,}"),
        ("Reference", purchase.id),
    )


def _send(
    account: Account,
    subject: str,
    *paragraphs: str,
    facts: tuple[tuple[str, str], ...] = (),
    label: str,
    path: str = BILLING_PATH,
) -> None:
    to = db.session.scalars(select(User.email).where(User.id == owner_of(account))).one()
    settings = stripe_api.billing_settings()
    link = (label, f"{settings.base_url}{path}")
    send_notice(settings, to, Notice(subject, paragraphs, facts, link, CLOSING))
