"""Open Checkout pages count towards the purchase limits; they are closed when a new purchase needs the room."""

import logging
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TypeVar

from sqlalchemy import select

from models.billing import stripe_api
from models.billing.payments.payment_state import PaymentMismatch
from models.billing.payments.purchase import Purchase, of_account
from models.billing.payments.transitions import sync
from models.billing.payments.trust import BuyingLimited
from models.billing.stripe_api import StripeError
from models.core.db import db
from models.core.errors import DomainError
from models.core.jobs import transaction
from models.ledger import Account

log = logging.getLogger("stoa.billing")

T = TypeVar("T")

MAX_CLOSED = 10
"""Maximum number of pages that one purchase attempt closes."""


def within_limits(account: Account, begin: Callable[[], T], *, opened_before: datetime) -> T:
    """Call `begin`, which inserts a purchase, in its own transaction. While the 24-hour limits do not allow it, close
    one of the account's Checkout pages and call it again.

    Only pages opened before the given time are closed, so that parallel requests do not close each other's. An open
    page counts until Stripe has closed it, so payments never exceed the limits. Raises BuyingLimited.
    """
    closing = _close_checkouts(account, opened_before)
    while True:
        try:
            with transaction():
                return begin()
        except BuyingLimited as limited:
            if limited.ends_at is None or next(closing, None) is None:
                raise


def _close_checkouts(account: Account, opened_before: datetime) -> Iterator[str]:
    """Close one page per step, oldest first; yields the id of its purchase. Stops on an error of Stripe."""
    closed: list[str] = []
    while len(closed) < MAX_CLOSED and (page := _oldest(account, opened_before, closed)):
        purchase_id, session_id = page
        try:
            _expire(session_id)
            sync(purchase_id, session_id=session_id)
        except (DomainError, PaymentMismatch) as error:
            log.warning("could not close the Checkout page of %s: %s", purchase_id, error)
            return
        closed.append(purchase_id)
        yield purchase_id


def _oldest(account: Account, opened_before: datetime, closed: list[str]) -> tuple[str, str] | None:
    """The purchase and the Checkout Session of the oldest open page. Uses its own transaction."""
    with transaction():
        row = db.session.execute(
            select(Purchase.id, Purchase.stripe_checkout_session_id)
            .where(
                of_account(account),
                Purchase.state == "pending",
                Purchase.stripe_checkout_session_id.is_not(None),
                Purchase.created_at < opened_before,
                Purchase.id.not_in(closed),
            )
            .order_by(Purchase.created_at)
            .limit(1)
        ).one_or_none()
    return (row.id, row.stripe_checkout_session_id or "") if row else None


def _expire(session_id: str) -> None:
    try:
        with stripe_api.api_client() as client:
            client.v1.checkout.sessions.expire(session_id)
    except StripeError as error:
        if error.unknown:
            raise  # otherwise the page was already paid or closed: its state is fetched next
