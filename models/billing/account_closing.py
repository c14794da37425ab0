"""What the deletion of a person's account does to payments: nothing is charged any more, and what was paid stays in the books."""

import logging
from contextlib import suppress
from datetime import datetime

from sqlalchemy import delete, select

from models.accounts.account_deletion import (
    DeletionBlock,
    account_deleted,
    account_erasing,
    deletion_blocking,
)
from models.accounts.users import User
from models.billing import stripe_api
from models.billing.mails import BillingMail, MailOptOut
from models.billing.payments import cards
from models.billing.payments.billing_details import BillingDetails
from models.billing.payments.customers import customer_of
from models.billing.payments.freezes import buying_freeze
from models.billing.stripe_api import StripeError, missing
from models.billing.subscription_plans.subscribing import cancel
from models.billing.subscription_plans.subscriptions import live_subscription
from models.core import jobs
from models.core.db import db
from models.core.errors import NotFound
from models.core.jobs import transaction
from models.ledger import Account

log = logging.getLogger("stoa.billing")


@deletion_blocking.connect
def _blocks(user: User) -> list[DeletionBlock]:
    """A dispute must be settled first: the account would otherwise leave the debt behind."""
    if buying_freeze(Account(user_id=user.id)) is None:
        return []
    return [
        DeletionBlock(
            "A payment of this account is disputed. Ask the operator of this server to settle it first."
        )
    ]


@account_deleted.connect
def _deleted(user: User, *, now: datetime) -> None:
    user.auto_topup_enabled = False
    if live_subscription(Account(user_id=user.id)):
        jobs.enqueue(jobs.end_plan_of_deleted, user_id=user.id)


@account_erasing.connect
def _erasing(user: User, *, now: datetime) -> None:
    for table in (BillingMail, MailOptOut, BillingDetails):
        db.session.execute(delete(table).where(table.user_id == user.id))
    if user.stripe_customer_id:
        jobs.enqueue(jobs.forget_cards, user_id=user.id)


def end_plan_of_deleted(user_id: str) -> None:
    """Let the plan of a deleted account end with its period; one that was taken back meanwhile keeps it. Idempotent. Raises
    StripeError, BillingDisabled."""
    with transaction():
        deleted = db.session.scalar(select(User.deleted_at).where(User.id == user_id))
    if deleted is not None:
        with suppress(NotFound):
            cancel(Account(user_id=user_id))


def forget_cards(user_id: str) -> None:
    """Remove the saved cards of an erased account from Stripe. The customer stays with its invoices. Idempotent. Raises
    StripeError."""
    if not stripe_api.enabled():
        return
    with transaction():
        erased = db.session.scalar(select(User.erased_at).where(User.id == user_id))
        customer = customer_of(Account(user_id=user_id))
    if erased is None or customer is None:
        return
    try:
        for card in cards.saved_cards(customer):
            cards.remove_card(customer, card.id)
    except StripeError as error:
        if not missing(error):
            raise
        log.warning("Stripe has no customer %s of the erased account %s any more", customer, user_id)
