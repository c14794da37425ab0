"""Checkout pages that were left open: they are closed when their place in the limits of buying is needed."""

import logging
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TypeVar

from sqlalchemy import select

from models.billing import stripe_api
from models.billing.payment_state import PaymentMismatch
from models.billing.purchase import Purchase, of_account
from models.billing.stripe_api import StripeError
from models.billing.transitions import sync
from models.billing.trust import BuyingLimited
from models.core.db import db
from models.core.errors import DomainError
from models.core.jobs import transaction
from models.ledger import Account

log = logging.getLogger("stoa.billing")

T = TypeVar("T")

MOST_CLOSED = 10
"""Pages that one attempt to buy closes at most."""


def within_limits(account: Account, begin: Callable[[], T], *, opened_before: datetime) -> T:
    """Call `begin`, which inserts a purchase, in a transaction of its own. While the limits of 24 hours do not allow it,
    close one of the account's Checkout pages and call it again.

    Only pages opened before the given time are closed, so that parallel requests do not close each other's. An open page
    counts until Stripe has closed it, so what can be paid never exceeds the limits. Raises BuyingLimited.
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
    """Close one page at each step, the oldest first; yields the id of its purchase. Ends when Stripe does not answer."""
    closed: list[str] = []
    while len(closed) < MOST_CLOSED and (page := _oldest(account, opened_before, closed)):
        purchase_id, session_id = page
        try:
            _expire(session_id)
            sync(purchase_id, session_id=session_id)
        except (DomainError, PaymentMismatch) as error:
            log.warning("the Checkout page of %s was not closed: %s", purchase_id, error)
            return
        closed.append(purchase_id)
        yield purchase_id


def _oldest(account: Account, opened_before: datetime, closed: list[str]) -> tuple[str, str] | None:
    """The purchase and the Checkout Session of the oldest open page. Takes a transaction of its own."""
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
        with stripe_api.asking() as client:
            client.v1.checkout.sessions.expire(session_id)
    except StripeError as error:
        if error.unknown:
            raise  # otherwise the page was paid or closed already: its state is fetched next
