"""Confirming a payment with the bank (3D Secure): one-time links by e-mail, and the redirect to the bank's page.

The table stores the SHA-256 of a link's token. Confirming continues the same purchase and the same PaymentIntent.
"""

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import ForeignKey, Index, select, update
from sqlalchemy.orm import Mapped, mapped_column

from models.accounts.credentials import hash_token
from models.billing import stripe_api
from models.billing.mails import at_sending
from models.billing.payments.purchase import Purchase, purchase_of
from models.billing.payments.transitions import purchase_by_id, sync
from models.billing.stripe_api import StripeError, plain
from models.billing.topups.auto_topup import AutoTopup
from models.core.db import NOW, Base, db
from models.core.errors import Conflict, NotFound
from models.core.jobs import transaction
from models.ledger import Account

LIFETIME = timedelta(hours=24)
PATH = "/billing/confirmations/"


class PaymentConfirmation(Base):
    """A link that confirms one payment without signing in."""

    __tablename__ = "payment_confirmation"
    __table_args__ = (Index("idx_payment_confirmation_purchase", "purchase_id"),)

    token_hash: Mapped[str] = mapped_column(primary_key=True)
    purchase_id: Mapped[str] = mapped_column(ForeignKey("purchase.id", ondelete="CASCADE"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]


@dataclass(frozen=True, slots=True)
class ConfirmationView:
    """What the page of a link shows. `state`: waiting (for the button), unconfirmed (used, and not paid yet), paid,
    ended (the payment was abandoned), expired."""

    purchase: Purchase
    state: Literal["waiting", "unconfirmed", "paid", "ended", "expired"]


def issue(purchase_id: str, expires_at: datetime, now: datetime) -> str:
    """Create a link; returns its path with the raw token, which is not stored. Earlier links of the purchase expire. Flushes."""
    db.session.execute(
        update(PaymentConfirmation)
        .where(
            PaymentConfirmation.purchase_id == purchase_id,
            PaymentConfirmation.used_at.is_(None),
            PaymentConfirmation.expires_at > now,
        )
        .values(expires_at=now)
        .execution_options(synchronize_session=False)
    )
    token = secrets.token_urlsafe(32)
    db.session.add(
        PaymentConfirmation(
            token_hash=hash_token(token), purchase_id=purchase_id, created_at=now, expires_at=expires_at
        )
    )
    db.session.flush()
    return PATH + token


@at_sending("topup_confirmation")
def _link_of_mail(facts: dict[str, Any], now: datetime) -> dict[str, Any] | None:
    """The link of an e-mail that is rendered now; None if the payment no longer waits for a confirmation."""
    purchase = db.session.get(Purchase, facts["purchase_id"], populate_existing=True)
    expires_at = datetime.fromisoformat(facts["expires_at"])
    if purchase is None or expires_at <= now or not _confirmable(purchase):
        return None
    return {"confirm_path": issue(purchase.id, expires_at, now)}


def look_up(token: str, now: datetime) -> ConfirmationView:
    """The state of a link's payment; does not use the link. Raises NotFound."""
    link = db.session.get(PaymentConfirmation, hash_token(token), populate_existing=True)
    if link is None:
        raise NotFound("This link does not exist.")
    purchase = purchase_by_id(link.purchase_id)
    if purchase.paid:
        return ConfirmationView(purchase, "paid")
    if link.used_at is not None:
        return ConfirmationView(purchase, "unconfirmed" if _confirmable(purchase) else "ended")
    if link.expires_at <= now:
        return ConfirmationView(purchase, "expired")
    return ConfirmationView(purchase, "waiting" if _confirmable(purchase) else "ended")


def use(token: str, now: datetime) -> str | None:
    """Mark the link as used; returns the id of its purchase, or None if it was used, has expired or is unknown. Of
    concurrent calls, one succeeds. Flushes."""
    return db.session.scalars(
        update(PaymentConfirmation)
        .where(
            PaymentConfirmation.token_hash == hash_token(token),
            PaymentConfirmation.used_at.is_(None),
            PaymentConfirmation.expires_at > now,
        )
        .values(used_at=now)
        .returning(PaymentConfirmation.purchase_id)
    ).one_or_none()


def owned(account: Account, purchase_id: str) -> str:
    """The id of the account's purchase that waits for a confirmation. Raises NotFound, also for another account's."""
    purchase = purchase_of(account, purchase_id)
    if not _confirmable(purchase):
        raise NotFound("This payment does not wait for a confirmation.")
    return purchase.id


def confirm(purchase_id: str, return_url: str) -> str | None:
    """Confirm the purchase's payment on-session; returns the URL of the bank's page, or None if none is needed.

    Takes transactions of its own, with none open during a request to Stripe. The bank's page returns to `return_url`. Raises
    NotFound, StripeError, and Conflict if the payment was abandoned; a decline becomes the purchase's state.
    """
    with transaction():
        purchase = purchase_by_id(purchase_id)
        intent_id = purchase.stripe_payment_intent_id
        if purchase.paid:
            return None
        if intent_id is None or not _confirmable(purchase):
            raise Conflict("This payment was cancelled. Nothing was charged.")
    import stripe

    try:
        with stripe_api.api_client() as client:
            intent = plain(client.v1.payment_intents.retrieve(intent_id))
            error = intent.get("last_payment_error") or {}
            method = intent.get("payment_method") or (error.get("payment_method") or {}).get("id")
            if intent["status"] in ("requires_payment_method", "requires_confirmation"):
                params: Any = {"return_url": return_url} | ({"payment_method": method} if method else {})
                intent = plain(client.v1.payment_intents.confirm(intent_id, params))
    except stripe.CardError:
        intent = {}
    sync(purchase_id, intent_id=intent_id)
    action = (intent.get("next_action") or {}).get("redirect_to_url") or {}
    found: str | None = action.get("url")
    return found


def abandon(purchase_id: str) -> Purchase:
    """Cancel an unconfirmed payment; returns the purchase, which is paid if it was confirmed just before.

    Takes transactions of its own, with none open during a request to Stripe. Raises NotFound, StripeError.
    """
    with transaction():
        purchase = purchase_by_id(purchase_id)
        intent_id = None if purchase.paid else purchase.stripe_payment_intent_id
        db.session.execute(
            update(PaymentConfirmation)
            .where(PaymentConfirmation.purchase_id == purchase_id, PaymentConfirmation.used_at.is_(None))
            .values(used_at=PaymentConfirmation.expires_at)
            .execution_options(synchronize_session=False)
        )
    if intent_id is None:
        return purchase
    try:
        with stripe_api.api_client() as client:
            client.v1.payment_intents.cancel(intent_id)
    except StripeError as error:
        if error.unknown:
            raise  # otherwise it has ended already: its state is fetched next
    return sync(purchase_id, intent_id=intent_id)


def _confirmable(purchase: Purchase) -> bool:
    waits = db.session.scalars(
        select(AutoTopup.id).where(AutoTopup.purchase_id == purchase.id, AutoTopup.pause == "confirmation")
    ).one_or_none()
    return waits is not None and purchase.state in ("failed", "pending")
