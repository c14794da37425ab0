"""Charging of automatic top-ups: due accounts, single attempts, and their outcomes (contract 3.7).

An attempt is a purchase of kind `auto_topup`; a partial unique index allows one open attempt per account, and no lock is
held during a call to Stripe.
"""

import logging
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, exists, func, literal, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError

from models import ledger
from models.accounts.users import User
from models.billing import org_money_alerts, stripe_api
from models.billing.payments import confirmations, declines
from models.billing.payments.buying import begin, charge, price_cents
from models.billing.payments.cards import SavedCard
from models.billing.payments.customers import account_of_customer, customer_of
from models.billing.payments.freezes import buying_freeze
from models.billing.payments.open_checkouts import within_limits
from models.billing.payments.payment_state import PaymentMismatch
from models.billing.payments.purchase import Purchase
from models.billing.payments.stripe_events import EventOfStripe, on_event
from models.billing.payments.transitions import on_transition, purchase_by_id
from models.billing.payments.trust import BuyingLimited
from models.billing.stripe_api import StripeError, id_of
from models.billing.topups import topup_mails
from models.billing.topups.auto_topup import (
    MIN_CREDITS,
    AutoTopup,
    AutoTopupBlocked,
    AutoTopupConsent,
    TopupSettings,
    attempt_in_flight,
    bounds_of,
    chargeable_card,
    charged_cents,
    consented,
    consented_to_tax,
    ensure_state,
    month_of,
    settings_of,
    state_of,
    switch_off,
)
from models.core import jobs
from models.core.db import db
from models.core.db import now as utc_now
from models.core.errors import DomainError
from models.core.jobs import transaction
from models.ledger import Account
from models.orgs import Org

log = logging.getLogger("stoa.billing")

BATCH = 100
"""Maximum number of attempts that one sweep enqueues."""
QUEUED_FOR = timedelta(minutes=1)
"""Time before an attempt is enqueued again; operation ids allow one attempt per minute."""
CHECKOUT_LEFT_AFTER = timedelta(hours=1)
"""Age from which an open Checkout page may be closed for a top-up."""


def enqueue_due(*, now: datetime | None = None) -> int:
    """Enqueue an attempt for each account whose balance is below its threshold. Returns their number. Flushes.

    Organisations are charged at their threshold too (contract 3.8), and only after an owner or admin has agreed. One SQL
    statement selects and marks the accounts, so concurrent sweeps enqueue each account once.
    """
    if not stripe_api.enabled():
        return 0
    now = now or utc_now()
    agreed = exists().where(AutoTopupConsent.account_id == Org.id)
    marked = [
        *_mark(User, "user_id", func.greatest(User.auto_topup_threshold, 0), now, User.banned.is_(False)),
        # balances are whole credits: at most the threshold is below threshold + 1
        *_mark(Org, "org_id", Org.auto_topup_threshold + 1, now, agreed),
    ]
    for account_id in marked:
        jobs.enqueue(jobs.top_up, account_id=account_id)
    return len(marked)


def _mark(owner: Any, column: str, threshold: ColumnElement[int], now: datetime, *more: Any) -> list[str]:
    """Mark the due accounts of one kind as enqueued. Returns their ids."""
    due = (
        select(owner.id, owner.id, literal(now))
        .outerjoin(AutoTopup, AutoTopup.id == owner.id)
        .where(
            owner.auto_topup_enabled,
            owner.auto_topup_amount >= MIN_CREDITS,
            or_(AutoTopup.pause.is_(None), AutoTopup.retry_at <= now),
            or_(AutoTopup.queued_at.is_(None), AutoTopup.queued_at <= now - QUEUED_FOR),
            func.credit_balance(owner.id, now) < threshold,
            *more,
        )
        .limit(BATCH)
    )
    table = AutoTopup.__table__.c
    return list(
        db.session.scalars(
            insert(AutoTopup)
            .from_select(["id", column, "queued_at"], due)
            .on_conflict_do_update(
                index_elements=["id"],
                set_={"queued_at": now},
                where=or_(table.queued_at.is_(None), table.queued_at <= now - QUEUED_FOR),
            )
            .returning(AutoTopup.id)
        )
    )


def top_up(account: Account, *, now: datetime | None = None) -> bool:
    """Charge a top-up if the account needs one and may be charged. Returns whether the charge succeeded.

    Uses its own transactions and calls Stripe between them. Does not raise Stripe's errors: a decline pauses the
    account, and a payment with an unknown outcome is settled by a webhook, its job or the reconciliation, by its
    purchase id.
    """
    if not stripe_api.enabled():
        return False
    now = now or utc_now()
    with transaction():
        wanted, customer = _credits_due(account, now), customer_of(account)
        expired = _expired_confirmation(account, now)
        blocked = expired is None and attempt_in_flight(account)
    if wanted is None or blocked:
        return False
    try:
        if expired:
            confirmations.abandon(expired)
        card = chargeable_card(account)
    except AutoTopupBlocked as error:
        with transaction():
            switch_off(account, error.message)
        return False
    except StripeError as error:
        with transaction():
            _pause_for_stripe(account, error.message, now)
        return False
    except (DomainError, PaymentMismatch) as error:
        log.error("could not cancel the expired top-up %s: %s", expired, error)
        return False
    prefix = "org-auto-topup" if account.org_id else "auto-topup"
    operation = f"{prefix}-{account.id}-{now.astimezone(UTC):%Y-%m-%dT%H:%M}"
    try:
        insert = partial(_begin, account, operation, customer or "", card, now)
        begun = within_limits(account, insert, opened_before=now - CHECKOUT_LEFT_AFTER)
    except IntegrityError:
        return False  # another attempt is open, or was started in this minute
    except BuyingLimited as limited:
        with transaction():
            _pause_for_limit(account, limited, now)
        return False
    if not begun:
        return False
    try:
        with transaction():
            # a consent from before tax was added covers the price alone
            agreed = None if consented_to_tax(account) else purchase_by_id(operation).net_cents
        return charge(operation, card.id, card.type, cancel_failed=False, agreed_cents=agreed).paid
    except DomainError as error:
        log.warning("the outcome of %s is unknown: %s", operation, error.message)
    except PaymentMismatch as error:
        log.error("a top-up does not match its payment: %s", error)
    return False


def resume(account: Account) -> None:
    """End the pause on the owner's request so that the next attempt starts now. The pause after a permanent decline
    stays. Flushes."""
    state = ensure_state(account)
    if state.pause in ("decline", "cap", "limit", "stripe"):
        state.pause = state.paused_at = state.retry_at = None
    state.queued_at = None
    db.session.flush()


def _credits_due(account: Account, now: datetime) -> int | None:
    """The credits that a top-up would buy now, within the consent's ceiling and the monthly cap; None if no top-up is
    needed or allowed. Pauses the account if its cap is reached. Flushes."""
    settings, state = settings_of(account), state_of(account)
    if not settings.enabled or settings.threshold is None or (settings.amount or 0) < MIN_CREDITS:
        return None
    if state is not None and state.pause and (state.retry_at is None or state.retry_at > now):
        return None
    balance = ledger.balance(account, now=now)
    if account.org_id:
        needed = balance.net_balance <= settings.threshold and consented(account)
    else:
        needed = balance.total_remaining < settings.threshold or balance.total_debt > 0
    if not needed:
        return None
    if _banned(account) or buying_freeze(account) is not None:
        return None
    return _within_cap(account, settings, max(settings.amount or 0, balance.total_debt), now)


def _within_cap(account: Account, settings: TopupSettings, credits: int, now: datetime) -> int | None:
    credits = min(credits, bounds_of(account).max_credits)
    cap = settings.monthly_cap_cents
    if cap is None:
        return credits
    charged = charged_cents(account, now=now)
    # debt is repaid up to the cap
    credits = min(credits, cap - charged)
    if price_cents(credits) >= price_cents(settings.amount or 0):
        return credits
    state = ensure_state(account)
    reset = month_of(month_of(now) + timedelta(days=32))
    if (state.pause, state.retry_at) != ("cap", reset):
        state.pause, state.paused_at, state.retry_at = "cap", now, reset
        db.session.flush()
        topup_mails.enqueue_cap_reached(account, cap, charged, reset)
    return None


def _begin(account: Account, operation: str, customer: str, card: SavedCard, now: datetime) -> bool:
    """Insert the attempt if it is still needed, under the account's lock: another one may have been paid since the
    check."""
    ledger.lock_account(account)
    credits = _credits_due(account, now)
    if credits is None:
        return False
    begin(operation, account, ledger.owner_of(account), "auto_topup", credits, customer)
    state = ensure_state(account)
    state.purchase_id, state.payment_method_id = operation, card.id
    state.pause = state.paused_at = state.retry_at = None
    db.session.flush()
    return True


def _banned(account: Account) -> bool:
    """Whether the account's user, or the owner of its organisation, is banned."""
    user = db.session.get(User, ledger.owner_of(account), populate_existing=True)
    return user is not None and user.banned


def _expired_confirmation(account: Account, now: datetime) -> str | None:
    """The attempt whose time for confirmation is over; None if there is none."""
    state = state_of(account)
    waits = state is not None and state.pause == "confirmation" and state.retry_at is not None
    return state.purchase_id if state and waits and state.retry_at and state.retry_at <= now else None


def _pause_for_stripe(account: Account, message: str, now: datetime) -> None:
    state = ensure_state(account)
    state.failures += 1
    state.pause, state.paused_at, state.decline_code = "stripe", now, None
    state.decline_message = message
    state.retry_at = now + declines.delay(declines.STRIPE_DELAYS, state.failures)
    db.session.flush()


def _pause_for_limit(account: Account, limited: BuyingLimited, now: datetime) -> None:
    """Pause until the purchase limit ends; for one day if the limit has no end."""
    state = ensure_state(account)
    state.pause, state.paused_at, state.decline_code = "limit", now, None
    state.decline_message = limited.message
    state.retry_at = limited.ends_at or now + timedelta(days=1)
    db.session.flush()


# -- outcomes -------------------------------------------------------------------------------------------------


@on_transition
def _attempt_ended(purchase: Purchase, before: str, now: datetime) -> None:
    """Pause or resume the account according to the state of its attempt, in the same transaction, and e-mail its
    owner."""
    if purchase.kind != "auto_topup":
        return
    if purchase.paid and before not in ("partly_refunded", "refunded", "disputed", "lost", "paid"):
        _attempt_paid(purchase)
    elif purchase.state == "failed":
        _attempt_failed(purchase, now)


def _attempt_paid(purchase: Purchase) -> None:
    state = ensure_state(purchase.account)
    state.pause = state.paused_at = state.retry_at = None
    state.decline_code = state.decline_message = None
    state.failures = 0
    state.updated_at = utc_now()
    db.session.flush()
    topup_mails.enqueue_charged(purchase)


def _attempt_failed(purchase: Purchase, now: datetime) -> None:
    state = ensure_state(purchase.account)
    code = purchase.failure_code or "unknown"
    again = state.pause == "confirmation" and state.purchase_id == purchase.id
    state.failures += 1
    state.paused_at, state.decline_code, state.decline_message = now, code, purchase.failure_message
    state.updated_at = now
    if code in declines.CONFIRMATION_CODES and purchase.stripe_payment_intent_id:
        if not again:  # after a failed confirmation on the page, the user may retry there
            state.pause = "confirmation"
            wait = max(confirmations.LIFETIME, declines.delay(declines.DELAYS, state.failures))
            state.retry_at = now + wait
            topup_mails.enqueue_confirmation(purchase, now + confirmations.LIFETIME)
    else:
        state.retry_at = declines.retry_after(code, state.failures, now)
        state.pause = "decline" if state.retry_at else "card"
        topup_mails.enqueue_failed(purchase, state.retry_at)
        org_money_alerts.alert_failed_topup(purchase, state.retry_at)
    db.session.flush()


@on_event(
    "payment_method.attached",
    "payment_method.updated",
    "payment_method.automatically_updated",
    "customer.updated",
    "checkout.session.completed",
)
def _cards_changed(event: EventOfStripe) -> None:
    """End the pause after a decline if another card was saved, or if the declined one was updated."""
    changed = event.object
    customer = changed["id"] if changed.get("object") == "customer" else id_of(changed.get("customer"))
    with transaction():
        account = account_of_customer(customer) if customer else None
        state = state_of(account) if account else None
        paused = state is not None and state.pause in ("card", "decline")
        if (
            paused
            and state
            and changed.get("id") == state.payment_method_id
            and event.type.endswith("updated")
        ):
            state.pause = state.paused_at = state.retry_at = None
    if account is not None and paused:
        try:
            chargeable_card(account)
        except AutoTopupBlocked:
            log.info("account %s has no chargeable payment method", account.id)
