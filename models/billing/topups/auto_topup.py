"""Automatic top-up: settings, consents and pauses of an account, and its payment method (contract 2.9, 3.7)."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import CheckConstraint, ForeignKey, Identity, Index, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Mapped, mapped_column

from models.accounts.users import User
from models.billing import stripe_api
from models.billing.payments import cards
from models.billing.payments.cards import SavedCard
from models.billing.payments.customers import customer_of
from models.billing.payments.freezes import BuyingFreeze, buying_freeze
from models.billing.payments.purchase import (
    OPEN_STATES,
    PAID_STATES,
    Purchase,
    dollars,
    of_account,
    one_of,
)
from models.billing.payments.tax import tax_enabled
from models.billing.stripe_api import StripeError, missing
from models.billing.topups import topup_mails
from models.core.db import NOW, Base, BigInt, db
from models.core.db import now as utc_now
from models.core.errors import Invalid, NotFound
from models.core.jobs import transaction
from models.ledger import Account, balance
from models.orgs import Org

MIN_CREDITS = 500
"""The smallest top-up, in credits."""
DEFAULT_THRESHOLD, DEFAULT_CREDITS = 500, 2000
TAX_WORDS = "with tax added to these amounts where it is due, "
MAX_CAP_CENTS = 10_000_000

NEEDS_VALUES = "Threshold and amount are required when enabling auto top-up"
OUT_OF_BOUNDS = "Top-up amount must be between {} and {} credits"
NO_CARD = "You need a valid payment method to enable auto top-up. Try buying some credits!"

Pause = Literal["card", "decline", "confirmation", "cap", "limit", "stripe"]
PAUSES: tuple[Pause, ...] = ("card", "decline", "confirmation", "cap", "limit", "stripe")


class AutoTopup(Base):
    """The state of an account's automatic top-up; whether it is enabled, its threshold and amount are columns of `user`
    and `org`.

    While `pause` is set nothing is charged before `retry_at`, or, if that is null, before another card is saved: `card`
    (permanent decline), `decline` (temporary decline), `confirmation` (the cardholder must confirm), `cap` (the monthly
    cap is reached), `limit` (a purchase limit is reached), `stripe` (Stripe did not respond). `failures` counts
    declines since the last charge.
    """

    __tablename__ = "auto_topup"
    __table_args__ = (
        CheckConstraint("(num_nonnulls(user_id, org_id) = 1)", name="single_owner"),
        CheckConstraint("(id = COALESCE(user_id, org_id))", name="id_is_owner"),
        CheckConstraint(one_of("pause", PAUSES), name="pause_known"),
        CheckConstraint("(monthly_cap_cents > 0)", name="cap_positive"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    """The account's id."""
    user_id: Mapped[str | None] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"), unique=True)
    org_id: Mapped[str | None] = mapped_column(ForeignKey("org.id", ondelete="CASCADE"), unique=True)
    monthly_cap_cents: Mapped[int | None] = mapped_column(BigInt)
    """Limit of all top-ups in a calendar month (UTC), in cents; None for no limit."""
    off_reason: Mapped[str | None]
    """Why it was switched off automatically."""
    pause: Mapped[str | None]
    paused_at: Mapped[datetime | None]
    retry_at: Mapped[datetime | None]
    decline_code: Mapped[str | None]
    decline_message: Mapped[str | None]
    """Stripe's message for the cardholder."""
    failures: Mapped[int] = mapped_column(server_default=text("0"))
    purchase_id: Mapped[str | None]
    """The purchase of the last attempt."""
    payment_method_id: Mapped[str | None]
    """The payment method of the last attempt."""
    queued_at: Mapped[datetime | None]
    """When the sweep last enqueued an attempt."""
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)


class AutoTopupConsent(Base):
    """What a person agreed to when they switched automatic top-up on or changed it. Rows are only added."""

    __tablename__ = "auto_topup_consent"
    __table_args__ = (
        Index("idx_auto_topup_consent_account", "account_id", "id"),
        Index("idx_auto_topup_consent_user", "user_id"),
    )

    id: Mapped[int] = mapped_column(BigInt, Identity(always=True), primary_key=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("auto_topup.id", ondelete="CASCADE"))
    user_id: Mapped[str] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"))
    """Who agreed."""
    text: Mapped[str]
    ceiling_cents: Mapped[int] = mapped_column(BigInt)
    """The maximum that one top-up may charge."""
    monthly_cap_cents: Mapped[int | None] = mapped_column(BigInt)
    source: Mapped[str]
    """`page` or `api`."""
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


@dataclass(frozen=True, slots=True)
class TopupBounds:
    """The bounds of the settings of a kind of account, in credits. One credit is one cent: `max_credits` is also the
    maximum charge of one top-up, including one that clears debt, and is part of the consent. `thresholds` apply to the
    page only; the JSON route has no bounds (contract 3.7)."""

    max_credits: int
    thresholds: tuple[int, int]


PERSONS = TopupBounds(10_000, (150, 1000))
ORGANISATIONS = TopupBounds(50_000, (500, 10_000))


def bounds_of(account: Account) -> TopupBounds:
    """The bounds of the account's kind."""
    return ORGANISATIONS if account.org_id else PERSONS


@dataclass(frozen=True, slots=True)
class TopupSettings:
    """The settings of an account, in credits; `monthly_cap_cents` in cents, None for no limit."""

    enabled: bool
    threshold: int | None
    amount: int | None
    monthly_cap_cents: int | None = None


@dataclass(frozen=True, slots=True)
class AutoTopupView:
    """The data of the page. State `needs_consent`: it is switched on, but nobody has agreed to it."""

    settings: TopupSettings
    state: Literal["off", "on", "charging", "paused", "needs_card", "needs_consent"]
    pause: str | None
    decline_message: str | None
    retry_at: datetime | None
    freeze: BuyingFreeze | None
    charged_cents: int
    """Top-ups of this calendar month (UTC), in cents, pending ones included."""
    last: Purchase | None
    """The last top-up that was paid."""
    waiting: str | None
    """The id of the purchase that requires the cardholder's confirmation."""
    net_balance: int
    """Credits."""
    consent: str
    """The consent text for these settings."""


class AutoTopupBlocked(Invalid):
    """Automatic top-up cannot be switched on: no saved payment method can be charged."""


def settings_of(account: Account) -> TopupSettings:
    """The account's settings as stored. Raises NotFound."""
    owner, state = _owner(account), state_of(account)
    return TopupSettings(
        bool(owner.auto_topup_enabled),
        owner.auto_topup_threshold,
        owner.auto_topup_amount,
        state.monthly_cap_cents if state else None,
    )


def save(
    account: Account,
    actor_id: str,
    settings: TopupSettings,
    *,
    source: Literal["page", "api"],
    now: datetime | None = None,
) -> None:
    """Store the settings and, if they are enabled, the consent of the person who chose them if it differs from the
    last.

    Does not call Stripe. A changed cap ends the pause `cap`. Flushes. Raises Invalid with the contract's messages,
    NotFound.
    """
    now = now or utc_now()
    missing_values = settings.threshold is None or settings.amount is None
    if missing_values and (settings.enabled or account.org_id):  # organisations always need both
        raise Invalid(NEEDS_VALUES, status=400)
    most = bounds_of(account).max_credits
    if settings.enabled and not MIN_CREDITS <= (settings.amount or 0) <= most:
        raise Invalid(OUT_OF_BOUNDS.format(MIN_CREDITS, most), status=400)
    if settings.monthly_cap_cents is not None and not 0 < settings.monthly_cap_cents <= MAX_CAP_CENTS:
        raise Invalid("The monthly limit is out of bounds.")
    owner, state = _owner(account), ensure_state(account)
    owner.auto_topup_enabled = settings.enabled
    owner.auto_topup_threshold = settings.threshold
    owner.auto_topup_amount = settings.amount
    if state.pause == "cap" and state.monthly_cap_cents != settings.monthly_cap_cents:
        state.pause = state.paused_at = state.retry_at = None
    state.monthly_cap_cents = settings.monthly_cap_cents
    state.off_reason = None if settings.enabled else state.off_reason
    state.updated_at = now
    if settings.enabled:
        _record_consent(state, actor_id, settings, source, now)
    db.session.flush()


def consent_text(account: Account, settings: TopupSettings) -> str:
    """The text that the person agrees to by enabling these settings."""
    cap = settings.monthly_cap_cents
    amount, threshold = settings.amount or DEFAULT_CREDITS, settings.threshold
    limit = f"at most {dollars(cap)} in a calendar month (UTC)" if cap else "without a monthly limit"
    whose, its = ("the organisation's", "its") if account.org_id else ("my", "my")
    return (
        f"I agree that Stoa charges {whose} saved payment method {dollars(amount)} each time {its} balance falls below "
        f"{DEFAULT_THRESHOLD if threshold is None else threshold:,} credits, or more to clear a negative balance, never more "
        f"than {dollars(bounds_of(account).max_credits)} at once, and {limit}, {TAX_WORDS if tax_enabled() else ''}until "
        f"{'an owner or admin switches' if account.org_id else 'I switch'} automatic top-up off."
    )


def consented_to_tax(account: Account) -> bool:
    """Whether the last consent names the tax that is added."""
    query = select(AutoTopupConsent.text).where(AutoTopupConsent.account_id == account.id)
    last = db.session.scalars(query.order_by(AutoTopupConsent.id.desc()).limit(1)).one_or_none()
    return last is not None and TAX_WORDS in last


def consented(account: Account) -> bool:
    """Whether a person agreed to top-ups of the account. An organisation's subscription enables them without consent
    (contract 2.11): nothing is charged until an owner or admin saves the settings."""
    query = select(AutoTopupConsent.id).where(AutoTopupConsent.account_id == account.id)
    return db.session.scalars(query.limit(1)).one_or_none() is not None


def blocked_reason(account: Account) -> str | None:
    """Why automatic top-up cannot charge the account now, as the contract's message (3.7); None if it can.

    Calls Stripe outside any transaction; uses its own transactions. Without a payment method that can be charged,
    top-up is switched off and the owner gets an e-mail; if Stripe does not respond, it stays on.
    """
    try:
        chargeable_card(account)
    except AutoTopupBlocked as error:
        with transaction():
            switch_off(account, error.message)
        return error.message
    except (StripeError, stripe_api.BillingDisabled) as error:
        return f"Unable to verify payment method status: {error.message}"
    with transaction():
        state = state_of(account)
        return NO_CARD if state is not None and state.pause == "card" else None


def chargeable_card(account: Account) -> SavedCard:
    """The payment method that a top-up charges: the default if it can be charged, else the first card, else Link.

    Calls Stripe outside any transaction; uses its own transactions. If the method differs from the declined one, the
    pause ends. Raises AutoTopupBlocked, StripeError, BillingDisabled.
    """
    settings = stripe_api.billing_settings()
    with transaction():
        customer = customer_of(account)
    if customer is None:
        raise AutoTopupBlocked(
            f"You don't have a valid account with us. Please log in at {settings.base_url}/login"
        )
    try:
        usable = [card for card in cards.saved_cards(customer) if card.usable]
    except StripeError as error:
        if missing(error):
            raise AutoTopupBlocked(NO_CARD) from None
        raise
    if not usable:
        raise AutoTopupBlocked(NO_CARD)
    chosen = usable[0]
    with transaction():
        db.session.execute(
            update(AutoTopup)
            .where(
                AutoTopup.id == account.id,
                AutoTopup.pause.in_(("card", "decline")),
                AutoTopup.payment_method_id != chosen.id,
            )
            .values(pause=None, paused_at=None, retry_at=None, failures=0)
            .execution_options(synchronize_session=False)
        )
    return chosen


def switch_off(account: Account, reason: str) -> bool:
    """Switch automatic top-up off because it cannot charge. Returns whether it was on. The owner gets one e-mail.
    Flushes."""
    table: Any = Org if account.org_id else User
    changed: Any = db.session.execute(
        update(table).where(table.id == account.id, table.auto_topup_enabled).values(auto_topup_enabled=False)
    )
    if not changed.rowcount:
        return False
    state = ensure_state(account)
    state.off_reason = reason
    db.session.flush()
    topup_mails.enqueue_switched_off(account)
    return True


def view(account: Account, *, now: datetime | None = None) -> AutoTopupView:
    """The data of the automatic top-up page. Reads only the database. Raises NotFound."""
    now = now or utc_now()
    settings, state = settings_of(account), state_of(account)
    pause = state.pause if state else None
    if pause in ("cap", "limit", "stripe", "decline") and state and state.retry_at and state.retry_at <= now:
        pause = None
    freeze = buying_freeze(account)
    open_attempt = attempt_in_flight(account)
    shown: Literal["off", "on", "charging", "paused", "needs_card", "needs_consent"]
    if not settings.enabled:
        shown = "needs_card" if state and state.off_reason else "off"
    elif account.org_id and not consented(account):
        shown = "needs_consent"
    elif pause or freeze:
        shown = "paused"
    else:
        shown = "charging" if open_attempt else "on"
    return AutoTopupView(
        settings,
        shown,
        pause,
        state.decline_message if state else None,
        state.retry_at if state and pause else None,
        freeze,
        charged_cents(account, now=now),
        _last_paid(account),
        state.purchase_id if state and pause == "confirmation" else None,
        balance(account, now=now).net_balance,
        consent_text(account, settings),
    )


def charged_cents(account: Account, *, now: datetime) -> int:
    """The sum of automatic top-ups in the calendar month (UTC), in cents before tax: paid ones, refunded
    or not, and open ones."""
    query = select(func.coalesce(func.sum(Purchase.amount_cents - Purchase.tax_cents), 0)).where(
        of_account(account),
        Purchase.kind == "auto_topup",
        Purchase.created_at >= month_of(now),
        Purchase.state.in_((*PAID_STATES, *OPEN_STATES)),
    )
    return int(db.session.scalars(query).one())


def month_of(moment: datetime) -> datetime:
    """The start of the calendar month, UTC."""
    return moment.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def state_of(account: Account) -> AutoTopup | None:
    """The account's current state in the database."""
    return db.session.get(AutoTopup, account.id, populate_existing=True)


def ensure_state(account: Account) -> AutoTopup:
    """The account's state, created if missing. Locks the row until the transaction ends. Flushes."""
    db.session.execute(
        insert(AutoTopup)
        .values(id=account.id, user_id=account.user_id, org_id=account.org_id)
        .on_conflict_do_nothing()
    )
    return db.session.scalars(
        select(AutoTopup)
        .where(AutoTopup.id == account.id)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).one()


def _owner(account: Account) -> Any:
    table: Any = Org if account.org_id else User
    found = db.session.get(table, account.id, populate_existing=True)
    if found is None:
        raise NotFound("There is no such account.")
    return found


def _record_consent(
    state: AutoTopup, actor_id: str, settings: TopupSettings, source: str, now: datetime
) -> None:
    account = Account(org_id=state.org_id) if state.org_id else Account(user_id=state.user_id)
    text = consent_text(account, settings)
    last = db.session.scalars(
        select(AutoTopupConsent)
        .where(AutoTopupConsent.account_id == state.id)
        .order_by(AutoTopupConsent.id.desc())
        .limit(1)
    ).one_or_none()
    if last is None or (last.text, last.user_id) != (text, actor_id):
        db.session.add(
            AutoTopupConsent(
                account_id=state.id,
                user_id=actor_id,
                text=text,
                ceiling_cents=bounds_of(account).max_credits,
                monthly_cap_cents=settings.monthly_cap_cents,
                source=source,
                created_at=now,
            )
        )


def attempt_in_flight(account: Account) -> bool:
    """Whether a top-up of the account is open: begun, or waiting for Stripe or the cardholder's bank."""
    query = select(Purchase.id).where(
        of_account(account), Purchase.kind == "auto_topup", Purchase.state.in_(OPEN_STATES)
    )
    return db.session.scalars(query.limit(1)).one_or_none() is not None


def _last_paid(account: Account) -> Purchase | None:
    query = select(Purchase).where(
        of_account(account), Purchase.kind == "auto_topup", Purchase.state.in_(PAID_STATES)
    )
    return db.session.scalars(query.order_by(Purchase.created_at.desc()).limit(1)).one_or_none()
