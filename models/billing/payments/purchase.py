"""Tables of purchases of credits, with their states, refunds and disputes."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, func, select, text, tuple_
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, column_property, mapped_column

from models.accounts.users import User
from models.billing.payments.tax import shown_tax
from models.core.db import ACCOUNT, NOW, Base, BigInt, db
from models.core.db import now as utc_now
from models.core.errors import NotFound
from models.ledger import Account

KINDS_OF_PURCHASE = ("direct", "checkout", "auto_topup")
OPEN_STATES = ("created", "pending")
UNPAID_STATES = ("failed", "cancelled")
PAID_STATES = ("paid", "partly_refunded", "refunded", "disputed", "lost")
STATES = (*OPEN_STATES, *UNPAID_STATES, *PAID_STATES)

CURRENCY = "usd"
CLOSED_WELL = ("won", "warning_closed", "prevented")
CLOSED = ("lost", *CLOSED_WELL)
"""Statuses of disputes that were closed without loss."""
PAGE_OF_PURCHASES = 50
RESOLVED_AFTER = timedelta(minutes=2)
"""By then the request that began a purchase is over, whatever became of it."""
CHECKOUT_OPEN_FOR = timedelta(hours=25)
"""By then a page of Checkout has expired, and Stripe's event or a job has closed its purchase."""


def one_of(column: str, values: tuple[str, ...]) -> str:
    """The SQL condition that a column has one of the values, as PostgreSQL prints it."""
    listed = ", ".join(f"'{value}'::text" for value in values)
    return f"({column} = ANY (ARRAY[{listed}]))"


class Purchase(Base):
    """A purchase of credits, inserted before the first request to Stripe. Amounts of money are cents.

    `id` is the operation id of its grant. `version` counts the changes: each UPDATE names the version that was read before
    the request to Stripe, so an older response never overwrites a newer one. Credits are granted in the transaction that
    makes it `paid`; `taken_back` credits were taken back for refunds and disputes.
    """

    __tablename__ = "purchase"
    __table_args__ = (
        CheckConstraint(one_of("kind", KINDS_OF_PURCHASE), name="kind_known"),
        CheckConstraint(one_of("state", STATES), name="state_known"),
        CheckConstraint("((credits > 0) AND (amount_cents > 0))", name="amounts_positive"),
        CheckConstraint("((tax_cents >= 0) AND (tax_cents < amount_cents))", name="tax_bounded"),
        CheckConstraint("((taken_back >= 0) AND (taken_back <= credits))", name="taken_back_bounded"),
        CheckConstraint(
            "((refunded_cents >= 0) AND (disputed_cents >= 0))", name="refunded_and_disputed_not_negative"
        ),
        Index("idx_purchase_account", text(ACCOUNT), "created_at"),
        Index("idx_purchase_customer", "stripe_customer_id"),
        Index("idx_purchase_card", "card_fingerprint", "created_at"),
        Index("idx_purchase_created", "created_at"),
        Index("idx_purchase_user", "user_id"),
        Index("idx_purchase_org", "org_id", postgresql_where=text("(org_id IS NOT NULL)")),
        Index(
            "idx_purchase_auto_topup_in_flight",
            text(ACCOUNT),
            unique=True,
            postgresql_where=text(
                "((kind = 'auto_topup'::text) AND (state = ANY (ARRAY['created'::text, 'pending'::text])))"
            ),
        ),
        Index(
            "idx_purchase_open",
            "created_at",
            postgresql_where=text("(state = ANY (ARRAY['created'::text, 'pending'::text]))"),
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"))
    """The buyer."""
    org_id: Mapped[str | None] = mapped_column(ForeignKey("org.id", ondelete="CASCADE"))
    kind: Mapped[str]
    credits: Mapped[int] = mapped_column(BigInt)
    amount_cents: Mapped[int] = mapped_column(BigInt)
    """What is charged, with tax."""
    tax_cents: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    tax_lines: Mapped[list[dict[str, Any]] | None] = mapped_column(JSONB(none_as_null=True))
    """Name, rate and cents of each tax; None if no tax was calculated."""
    tax_calculation_id: Mapped[str | None]
    """Stripe Tax's calculation, if the tax was not calculated by Checkout."""
    tax_transaction_id: Mapped[str | None]
    currency: Mapped[str]
    state: Mapped[str] = mapped_column(server_default=text("'created'::text"))
    version: Mapped[int] = mapped_column(server_default=text("0"))
    stripe_customer_id: Mapped[str]
    stripe_payment_intent_id: Mapped[str | None] = mapped_column(unique=True)
    stripe_checkout_session_id: Mapped[str | None] = mapped_column(unique=True)
    stripe_charge_id: Mapped[str | None] = mapped_column(unique=True)
    payment_method_type: Mapped[str | None]
    card_brand: Mapped[str | None]
    card_last4: Mapped[str | None]
    card_fingerprint: Mapped[str | None]
    failure_code: Mapped[str | None]
    """Stripe's decline code, else its error code."""
    failure_message: Mapped[str | None]
    refunded_cents: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    disputed_cents: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    """What disputes withdrew and did not reinstate."""
    taken_back: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    fraud_warning_id: Mapped[str | None]
    client_address: Mapped[str | None]
    """The buyer's IPv4 address or IPv6 /64 network, for 30 days."""
    billing: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    """Name, address and tax ids as they were at the payment, for receipts."""
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    paid_at: Mapped[datetime | None]
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)
    account_id: Mapped[str] = column_property(func.coalesce(org_id, user_id))

    @property
    def account(self) -> Account:
        """The account that gets the credits."""
        return Account(org_id=self.org_id) if self.org_id else Account(user_id=self.user_id)

    @property
    def net_cents(self) -> int:
        """The price before tax."""
        return self.amount_cents - self.tax_cents

    @property
    def taxes(self) -> list[tuple[str, int]]:
        """Name and cents of each tax, for pages and receipts; empty if no tax was calculated."""
        return shown_tax(self.tax_lines, self.tax_cents)

    @property
    def card_name(self) -> str | None:
        """The card that paid, as in `Visa ending in 4242`; None if it was no card."""
        return (
            f"{(self.card_brand or 'card').title()} ending in {self.card_last4}" if self.card_last4 else None
        )

    @property
    def paid(self) -> bool:
        """Whether the credits were granted, also if the purchase was refunded or disputed later."""
        return self.state in PAID_STATES

    @property
    def open(self) -> bool:
        """Whether the payment has no final state yet."""
        return self.state in OPEN_STATES


class PurchaseRefund(Base):
    """A refund of a purchase, as last fetched from Stripe. Amounts are cents."""

    __tablename__ = "purchase_refund"
    __table_args__ = (Index("idx_purchase_refund_purchase", "purchase_id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    purchase_id: Mapped[str] = mapped_column(ForeignKey("purchase.id", ondelete="CASCADE"))
    amount_cents: Mapped[int] = mapped_column(BigInt)
    status: Mapped[str]
    reason: Mapped[str | None]
    created_at: Mapped[datetime]
    tax_reversal_id: Mapped[str | None]


def refunded_tax(purchase: Purchase, refunds: Sequence[PurchaseRefund]) -> dict[str, int]:
    """The tax in each refund that returns money, by its id, in cents. Rounded on the running total, so that the parts of a
    purchase that was refunded in steps sum to its tax."""
    parts: dict[str, int] = {}
    returned = before = 0
    for refund in refunds:
        if refund.status not in ("failed", "canceled"):
            returned += refund.amount_cents
            until = (2 * purchase.tax_cents * returned + purchase.amount_cents) // (2 * purchase.amount_cents)
            parts[refund.id], before = until - before, until
    return parts


class PurchaseDispute(Base):
    """A dispute of a purchase, as last fetched from Stripe. Amounts are cents.

    An account cannot buy while one of its disputes is open or lost, until an operator clears it (`cleared_at`).
    """

    __tablename__ = "purchase_dispute"
    __table_args__ = (Index("idx_purchase_dispute_purchase", "purchase_id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    purchase_id: Mapped[str] = mapped_column(ForeignKey("purchase.id", ondelete="CASCADE"))
    amount_cents: Mapped[int] = mapped_column(BigInt)
    withdrawn_cents: Mapped[int] = mapped_column(BigInt)
    status: Mapped[str]
    reason: Mapped[str | None]
    created_at: Mapped[datetime]
    cleared_at: Mapped[datetime | None]


@dataclass(frozen=True, slots=True)
class Receipt:
    """The content of a receipt and its credit notes: the purchase, and its refunds and disputes, oldest first."""

    purchase: Purchase
    buyer: User
    refunds: list[PurchaseRefund]
    disputes: list[PurchaseDispute]


def of_account(account: Account) -> Any:
    """The SQL condition that a purchase belongs to the account."""
    return func.coalesce(Purchase.org_id, Purchase.user_id) == account.id


def purchases_of(
    account: Account, *, before: tuple[datetime, str] | None = None
) -> tuple[list[Purchase], tuple[datetime, str] | None]:
    """A keyset page of the account's purchases, newest first, and the cursor of the next page, or None. `before` is the
    cursor: time and id of the last purchase of the previous page."""
    query = select(Purchase).where(of_account(account))
    if before is not None:
        query = query.where(tuple_(Purchase.created_at, Purchase.id) < before)
    query = query.order_by(Purchase.created_at.desc(), Purchase.id.desc()).limit(PAGE_OF_PURCHASES + 1)
    rows = list(db.session.scalars(query.execution_options(populate_existing=True)))
    page = rows[:PAGE_OF_PURCHASES]
    more = len(rows) > PAGE_OF_PURCHASES
    return page, (page[-1].created_at, page[-1].id) if more else None


def purchase_of(account: Account, id: str) -> Purchase:
    """One purchase of the account, by its id or its Checkout Session's. Raises NotFound, also for another account's."""
    found = db.session.scalars(
        select(Purchase)
        .where(of_account(account), (Purchase.id == id) | (Purchase.stripe_checkout_session_id == id))
        .execution_options(populate_existing=True)
    ).one_or_none()
    if found is None:
        raise NotFound("There is no such purchase.")
    return found


def receipt_of(account: Account, id: str) -> Receipt:
    """The receipt of a paid purchase. Raises NotFound, also if it was never paid."""
    purchase = purchase_of(account, id)
    if not purchase.paid:
        raise NotFound("This purchase was not paid, so it has no receipt.")
    refunds = db.session.scalars(
        select(PurchaseRefund)
        .where(PurchaseRefund.purchase_id == purchase.id)
        .order_by(PurchaseRefund.created_at, PurchaseRefund.id)
    )
    disputes = db.session.scalars(
        select(PurchaseDispute)
        .where(PurchaseDispute.purchase_id == purchase.id)
        .order_by(PurchaseDispute.created_at, PurchaseDispute.id)
    )
    return Receipt(purchase, db.session.get_one(User, purchase.user_id), list(refunds), list(disputes))


def listed_purchases(
    *,
    account: Account | None,
    state: str | None,
    in_doubt: bool = False,
    before: tuple[datetime, str] | None = None,
    limit: int,
) -> list[tuple[Purchase, str]]:
    """For operators: purchases of all accounts or of one, newest first, each with the buyer's address. `before` is the last
    one of the page before (its time and id).

    `in_doubt`: those that are open although whoever began them is gone: charges that Stripe has not confirmed, and Checkout
    pages that should have expired.
    """
    query = select(Purchase, User.email).join(User, User.id == Purchase.user_id)
    if account is not None:
        query = query.where(of_account(account))
    if state is not None:
        query = query.where(Purchase.state == state)
    if in_doubt:
        moment = utc_now()
        on_checkout = (Purchase.state == "pending") & (Purchase.kind == "checkout")
        query = query.where(
            Purchase.state.in_(OPEN_STATES),
            Purchase.created_at < moment - RESOLVED_AFTER,
            ~on_checkout | (Purchase.created_at < moment - CHECKOUT_OPEN_FOR),
        )
    if before is not None:
        query = query.where(tuple_(Purchase.created_at, Purchase.id) < before)
    rows = db.session.execute(
        query.order_by(Purchase.created_at.desc(), Purchase.id.desc())
        .limit(limit)
        .execution_options(populate_existing=True)
    )
    return [(purchase, email) for purchase, email in rows]


def existing_purchases(ids: Sequence[str]) -> set[str]:
    """Which of these ids are purchases, of any account."""
    return set(db.session.scalars(select(Purchase.id).where(Purchase.id.in_(ids)))) if ids else set()


def dollars(cents: int) -> str:
    """An amount of US cents as text, as in `$1,020.00`."""
    return f"${cents / 100:,.2f}"
