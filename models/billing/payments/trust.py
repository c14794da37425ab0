"""Protection against card testing: limits of purchases per account in 24 hours, and of declines per card and client
address."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import ceil

from sqlalchemy import ForeignKey, Index, delete, exists, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Mapped, mapped_column

from models import ledger
from models.accounts.users import User
from models.billing import stripe_api
from models.billing.payments.payment_state import PaymentState
from models.billing.payments.purchase import UNPAID_STATES, Purchase, dollars, of_account
from models.core.db import NOW, Base, db
from models.core.db import now as utc_now
from models.core.errors import DomainError, Invalid
from models.ledger import Account
from models.orgs import Org

WINDOW = timedelta(days=1)
"""Purchases and declines count this long."""
KEPT_AFTER = timedelta(days=7)
"""A payment counts as paid history this long after it was paid, less what was refunded or disputed."""
ADDRESSES_KEPT_FOR = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class TrustLevel:
    """From this account age and this paid history (cents), the limits of a new account are multiplied by `factor`."""

    name: str
    age: timedelta
    paid_cents: int
    factor: int


LEVELS = (
    TrustLevel("new", timedelta(0), 0, 1),
    TrustLevel("known", timedelta(days=7), 2_000, 4),
    TrustLevel("regular", timedelta(days=30), 20_000, 20),
    TrustLevel("trusted", timedelta(days=90), 200_000, 100),
)


class CardDecline(Base):
    """A declined charge. `id` is Stripe's id of the charge, else of the payment intent, else the purchase's id."""

    __tablename__ = "card_decline"
    __table_args__ = (
        Index("idx_card_decline_card", "card_fingerprint", "created_at"),
        Index("idx_card_decline_address", "client_address", "created_at"),
        Index("idx_card_decline_purchase", "purchase_id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    purchase_id: Mapped[str] = mapped_column(ForeignKey("purchase.id", ondelete="CASCADE"))
    card_fingerprint: Mapped[str | None]
    client_address: Mapped[str | None]
    code: Mapped[str]
    """Stripe's decline code, else its error code."""
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class BuyingTrust(Base):
    """A trust level that an operator has set for an account, an index of `LEVELS`."""

    __tablename__ = "buying_trust"

    account_id: Mapped[str] = mapped_column(
        ForeignKey("credit_account.id", ondelete="CASCADE"), primary_key=True
    )
    level: Mapped[int]
    set_at: Mapped[datetime] = mapped_column(server_default=NOW)


class BuyingLimited(DomainError):
    """A limit of buying is reached. `ends_at`: when the same request may succeed; None: never with this amount."""

    status = 429
    code = "buying_limited"

    def __init__(self, message: str, *, ends_at: datetime | None, now: datetime, details: str) -> None:
        if ends_at is not None:
            ends_at = ends_at.replace(microsecond=0) + timedelta(seconds=1)
            message += f" Try again after {ends_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC."
            self.retry_after = max(1, ceil((ends_at - now).total_seconds()))
        super().__init__(message, status=429 if ends_at else 400, details=details)
        self.ends_at = ends_at


@dataclass(frozen=True, slots=True)
class BuyingLimits:
    """An account's limits of buying at one point in time. Amounts are cents; a limit of None does not apply.

    `purchases` and `cents` are those of the last 24 hours; `declines` are the account's. `set_by_operator`: the level is not
    derived from age and paid history.
    """

    level: TrustLevel
    set_by_operator: bool
    age: timedelta
    paid_cents: int
    max_purchases: int | None
    max_cents: int | None
    purchases: int
    cents: int
    declines: int
    next_purchase_at: datetime | None
    """When the number of purchases falls below its limit; None if it is below."""


def refuse_limited(account: Account, cents: int, *, now: datetime | None = None) -> None:
    """Raise BuyingLimited if a purchase of `cents` exceeds the account's limits of 24 hours.

    Locks the account until the transaction ends: insert the purchase in the same transaction, so that parallel purchases
    cannot pass the limit together. Raises NotFound, BillingDisabled.
    """
    now = now or utc_now()
    ledger.lock_account(account)
    level, _ = _level(account, now)
    max_purchases, max_cents = _limits(level)
    if max_purchases is None and max_cents is None:
        return
    details = _details()
    if max_cents is not None and cents > max_cents:
        raise BuyingLimited(
            f"This account can buy credits for at most {dollars(max_cents)} in 24 hours. Choose a smaller amount.",
            ends_at=None,
            now=now,
            details=details,
        )
    recent = _recent(account, now)
    ends_at = _count_ends(recent, max_purchases)
    if ends_at is not None:
        raise BuyingLimited(
            f"This account can buy credits {max_purchases} times in 24 hours, and has done so.",
            ends_at=ends_at,
            now=now,
            details=details,
        )
    ends_at = _sum_ends(recent, cents, max_cents)
    if ends_at is not None:
        raise BuyingLimited(
            f"This account can buy credits for {dollars(max_cents or 0)} in 24 hours, and {dollars(_spent(recent))} of "
            "it is used. Choose a smaller amount, or wait.",
            ends_at=ends_at,
            now=now,
            details=details,
        )


def refuse_declined(
    card_fingerprint: str | None, client_address: str | None, *, now: datetime | None = None
) -> None:
    """Raise BuyingLimited if this card, or cards used from this address, were declined too often in the last 24 hours,
    over all accounts. Raises BillingDisabled."""
    now = now or utc_now()
    settings = stripe_api.billing_settings()
    for column, value, limit, message in (
        (
            CardDecline.card_fingerprint,
            card_fingerprint,
            settings.stoa_declines_per_card,
            "This card was declined too often. Use another card, or contact your bank.",
        ),
        (
            CardDecline.client_address,
            client_address,
            settings.stoa_declines_per_address,
            "Too many cards were declined from your network address.",
        ),
    ):
        if not value or not limit:
            continue
        times = db.session.scalars(
            select(CardDecline.created_at)
            .where(column == value, CardDecline.created_at > now - WINDOW)
            .order_by(CardDecline.created_at.desc())
            .limit(limit)
        ).all()
        if len(times) == limit:
            raise BuyingLimited(message, ends_at=times[-1] + WINDOW, now=now, details=_details())


def note_decline(purchase: Purchase, state: PaymentState, *, now: datetime | None = None) -> None:
    """Record the last decline of a payment, once by its charge. Flushes."""
    if state.failure_code is None or state.outcome == "paid":
        return
    record_decline(
        purchase,
        state.charge_id or state.intent_id or purchase.id,
        state.failure_code,
        state.card_fingerprint,
        now=now,
    )


def record_decline(
    purchase: Purchase, id: str, code: str, card_fingerprint: str | None, *, now: datetime | None = None
) -> None:
    """Record a decline, once by its id. Flushes."""
    db.session.execute(
        insert(CardDecline)
        .values(
            id=id,
            purchase_id=purchase.id,
            card_fingerprint=card_fingerprint,
            client_address=purchase.client_address,
            code=code,
            created_at=now or utc_now(),
        )
        .on_conflict_do_nothing()
    )


def buying_limits(account: Account, *, now: datetime | None = None) -> BuyingLimits:
    """The account's limits and their usage, without locks. Raises BillingDisabled."""
    now = now or utc_now()
    level, set_by_operator = _level(account, now)
    max_purchases, max_cents = _limits(level)
    recent = _recent(account, now)
    declines = db.session.scalars(
        select(func.count())
        .select_from(CardDecline)
        .join(Purchase, Purchase.id == CardDecline.purchase_id)
        .where(of_account(account), CardDecline.created_at > now - WINDOW)
    ).one()
    return BuyingLimits(
        level,
        set_by_operator,
        _age(account, now),
        _paid_history(account, now),
        max_purchases,
        max_cents,
        len(recent),
        _spent(recent),
        declines,
        _count_ends(recent, max_purchases),
    )


def set_trust_level(account: Account, name: str | None) -> None:
    """Set an account's trust level; None: derive it from age and paid history again. Flushes. Raises Invalid, NotFound."""
    ledger.lock_account(account)
    if name is None:
        db.session.execute(delete(BuyingTrust).where(BuyingTrust.account_id == account.id))
        return
    names = [level.name for level in LEVELS]
    if name not in names:
        raise Invalid(f"The trust levels are {', '.join(names)}.")
    values = {"level": names.index(name), "set_at": utc_now()}
    db.session.execute(
        insert(BuyingTrust)
        .values(account_id=account.id, **values)
        .on_conflict_do_update(index_elements=["account_id"], set_=values)
    )


def forget_addresses(*, now: datetime | None = None) -> None:
    """Erase client addresses of purchases and declines after 30 days. Flushes."""
    before = (now or utc_now()) - ADDRESSES_KEPT_FOR
    for table in (Purchase, CardDecline):
        db.session.execute(
            update(table)
            .where(table.created_at < before, table.client_address.is_not(None))
            .values(client_address=None)
            .execution_options(synchronize_session=False)
        )


def _level(account: Account, now: datetime) -> tuple[TrustLevel, bool]:
    fixed = db.session.scalars(
        select(BuyingTrust.level).where(BuyingTrust.account_id == account.id)
    ).one_or_none()
    if fixed is not None:
        return LEVELS[min(fixed, len(LEVELS) - 1)], True
    age, paid_cents = _age(account, now), _paid_history(account, now)
    reached = [level for level in LEVELS if age >= level.age and paid_cents >= level.paid_cents]
    return reached[-1] if reached else LEVELS[0], False


def _age(account: Account, now: datetime) -> timedelta:
    table = Org if account.org_id else User
    created_at = db.session.scalars(select(table.created_at).where(table.id == account.id)).one_or_none()
    return now - created_at if created_at else timedelta(0)


def _paid_history(account: Account, now: datetime) -> int:
    """Cents paid long enough ago and kept: refunded, disputed and lost payments do not count."""
    kept = Purchase.amount_cents - Purchase.refunded_cents - Purchase.disputed_cents
    return int(
        db.session.scalars(
            select(func.coalesce(func.sum(func.greatest(kept, 0)), 0)).where(
                of_account(account),
                Purchase.state.in_(("paid", "partly_refunded")),
                Purchase.paid_at <= now - KEPT_AFTER,
            )
        ).one()
    )


def _limits(level: TrustLevel) -> tuple[int | None, int | None]:
    settings = stripe_api.billing_settings()
    return (
        settings.stoa_purchases_per_day * level.factor or None,
        settings.stoa_purchase_cents_per_day * level.factor or None,
    )


@dataclass(frozen=True, slots=True)
class _Bought:
    """A recent purchase; `cents` is zero if it was declined."""

    created_at: datetime
    cents: int


def _recent(account: Account, now: datetime) -> list[_Bought]:
    """The purchases of the last 24 hours that were paid, can still be paid, or were declined, oldest first. Declined ones
    count as purchases, but not their amounts; refunds free nothing. A Checkout page that was closed before a card was tried
    does not count."""
    declined = exists().where(CardDecline.purchase_id == Purchase.id)
    rows = db.session.execute(
        select(
            Purchase.created_at,
            Purchase.state,
            (Purchase.amount_cents - Purchase.tax_cents).label("net_cents"),
        )
        .where(
            of_account(account),
            Purchase.created_at > now - WINDOW,
            or_(Purchase.state.not_in(UNPAID_STATES), declined),
        )
        .order_by(Purchase.created_at)
    )
    return [_Bought(row.created_at, 0 if row.state in UNPAID_STATES else row.net_cents) for row in rows]


def _spent(recent: Sequence[_Bought]) -> int:
    return sum(each.cents for each in recent)


def _count_ends(recent: Sequence[_Bought], limit: int | None) -> datetime | None:
    if limit is None or len(recent) < limit:
        return None
    return recent[len(recent) - limit].created_at + WINDOW


def _sum_ends(recent: Sequence[_Bought], cents: int, limit: int | None) -> datetime | None:
    excess = _spent(recent) + cents - (limit or 0)
    if limit is None or excess <= 0:
        return None
    for each in recent:
        excess -= each.cents
        if excess <= 0:
            return each.created_at + WINDOW
    raise AssertionError("a single amount above the limit is rejected before")


def _details() -> str:
    support = stripe_api.billing_settings().stoa_support_email or "the operator of this server"
    return (
        "These limits protect against tests of stolen cards. They rise with the account's age and its payments. "
        f"If you need more now, contact {support}."
    )
