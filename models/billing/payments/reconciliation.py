"""Stripe and our purchases and subscriptions compared; what is missing here is repaired under the same operation ids."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Identity, select, text, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.billing import stripe_api
from models.billing.payments.payment_state import (
    PaymentMismatch,
    intents_since,
    of_listed_intent,
    reversals_since,
)
from models.billing.payments.purchase import (
    OPEN_STATES,
    PAID_STATES,
    RESOLVED_AFTER,
    Purchase,
    PurchaseDispute,
    PurchaseRefund,
)
from models.billing.payments.tax_records import record_tax, unrecorded_tax
from models.billing.payments.transitions import purchase_of_payment, recover, sync
from models.billing.stripe_api import id_of
from models.billing.subscription_plans.subscription_reconciliation import (
    reversal_difference,
    subscription_differences,
)
from models.core.db import Base, BigInt, db
from models.core.db import now as utc_now
from models.core.errors import DomainError
from models.core.jobs import transaction

log = logging.getLogger("stoa.billing")

DAYS = 7
MOST_FINDINGS = 1000
"""Kept of one run; all are counted in the log."""


class Reconciliation(Base):
    """One comparison with Stripe. `checked` payments since a moment; `findings` are `Finding`s as dictionaries."""

    __tablename__ = "reconciliation"

    id: Mapped[int] = mapped_column(BigInt, Identity(always=True), primary_key=True)
    since: Mapped[datetime]
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    checked: Mapped[int] = mapped_column(server_default=text("0"))
    findings: Mapped[list[dict[str, Any]]] = mapped_column(JSONB, server_default=text("'[]'::jsonb"))
    error: Mapped[str | None]

    @property
    def open_findings(self) -> int:
        """How many differences are left for an operator."""
        return sum(not finding["repaired"] for finding in self.findings)


@dataclass(frozen=True, slots=True)
class Finding:
    """A difference between Stripe and us, and whether it is repaired. `purchase_id` may be a subscription's."""

    purchase_id: str
    what: str
    repaired: bool


def reconcile(days: int = DAYS, *, now: datetime | None = None) -> Reconciliation:
    """Compare Stripe's payments, refunds, disputes and invoices of the last days, all of our purchases that are open or were
    paid meanwhile, and all subscriptions that have not ended, and repair what is missing here. Takes transactions of its own; idempotent; keeps its result.

    Raises BillingDisabled, and StripeError when Stripe does not answer; what was repaired until then stays.
    """
    stripe_api.client()
    started = now or utc_now()
    run = Reconciliation(since=started - timedelta(days=days), started_at=started)
    with transaction():
        db.session.add(run)
        db.session.flush()
        id, since = run.id, run.since
    checked: set[str] = set()
    findings: list[Finding] = []
    error = None
    try:
        for finding in _differences(since, started, checked):
            findings.append(finding)
            log.warning("reconciliation: %s: %s", finding.purchase_id, finding.what)
    except Exception as failure:
        error = failure.message if isinstance(failure, DomainError) else type(failure).__name__
        raise
    finally:
        with transaction():
            db.session.execute(
                update(Reconciliation)
                .where(Reconciliation.id == id)
                .values(
                    finished_at=utc_now(),
                    checked=len(checked),
                    findings=[asdict(finding) for finding in findings[:MOST_FINDINGS]],
                    error=error,
                )
                .execution_options(synchronize_session=False)
            )
    with transaction():
        return db.session.get_one(Reconciliation, id, populate_existing=True)


def last_reconciliation() -> Reconciliation | None:
    """The newest comparison that has ended, for operators."""
    found = reconciliations(limit=1)
    return found[0] if found else None


def reconciliations(*, limit: int) -> Sequence[Reconciliation]:
    """The newest comparisons that have ended, for operators."""
    return db.session.scalars(
        select(Reconciliation)
        .where(Reconciliation.finished_at.is_not(None))
        .order_by(Reconciliation.id.desc())
        .limit(limit)
        .execution_options(populate_existing=True)
    ).all()


def _differences(since: datetime, started: datetime, checked: set[str]) -> Iterator[Finding]:
    for intent in intents_since(since):
        state = of_listed_intent(intent)
        if state.metadata.get("grantType") not in ("purchase", "organization_purchase"):
            continue
        operation = state.operation_id or ""
        with transaction():
            known = db.session.get(Purchase, operation, populate_existing=True)
        if state.outcome != "paid":
            continue  # nothing is owed; what is open here is looked at below
        checked.add(operation)
        if known is None:
            yield _recovered(operation, state)
        elif not _agrees(known, intent):
            yield from _synced(known, intent_id=intent["id"])
    for reversal in reversals_since(since):
        yield from _reversed(reversal, checked)
    with transaction():
        ours = _ours(since, started)
    for purchase in ours:
        if purchase.id not in checked:
            checked.add(purchase.id)
            yield from _synced(purchase)
    with transaction():
        untaxed = unrecorded_tax(started - RESOLVED_AFTER)
    for id in untaxed:
        yield _taxed(id)
    for difference in subscription_differences(since, checked):
        yield Finding(difference.subscription_id, difference.what, difference.repaired)


def _agrees(purchase: Purchase, intent: dict[str, Any]) -> bool:
    """Whether nothing has to be asked: paid by this intent, never disputed, and as much refunded as is told."""
    charge = intent["latest_charge"]
    return (
        purchase.state in ("paid", "partly_refunded", "refunded")
        and purchase.stripe_payment_intent_id == intent["id"]
        and purchase.stripe_charge_id == charge["id"]
        and purchase.amount_cents == intent["amount_received"]
        and purchase.refunded_cents == charge["amount_refunded"]
        and not charge["disputed"]
    )


def _recovered(operation: str, state: Any) -> Finding:
    try:
        with transaction():
            recover(state)
        purchase = sync(operation, intent_id=state.intent_id)
    except (PaymentMismatch, DomainError) as error:
        return Finding(operation, f"paid at Stripe and unknown here; {_words(error)}", repaired=False)
    return Finding(operation, f"unknown here: {purchase.credits} credits granted", repaired=True)


def _taxed(id: str) -> Finding:
    try:
        made = record_tax(id)
    except DomainError as error:
        if getattr(error, "unknown", False):
            raise
        return Finding(id, f"its tax is not recorded at Stripe; {error.message}", repaired=False)
    return Finding(id, f"its tax was not recorded at Stripe: {made} records made", repaired=True)


def _reversed(reversal: dict[str, Any], checked: set[str]) -> Iterator[Finding]:
    with transaction():
        id = purchase_of_payment(id_of(reversal.get("payment_intent")), id_of(reversal.get("charge")))
        purchase = db.session.get(Purchase, id, populate_existing=True) if id else None
        table: Any = PurchaseDispute if reversal["object"] == "dispute" else PurchaseRefund
        told = db.session.get(table, reversal["id"], populate_existing=True)
        same = told is not None and told.status == reversal["status"]
    if purchase is None:
        for difference in reversal_difference(reversal):
            yield Finding(difference.subscription_id, difference.what, difference.repaired)
    if purchase is not None and not same and purchase.id not in checked:
        checked.add(purchase.id)
        yield from _synced(purchase)


def _synced(purchase: Purchase, *, intent_id: str | None = None) -> Iterator[Finding]:
    id, before = purchase.id, _told(purchase)
    try:
        after = _told(sync(id, intent_id=intent_id))
    except PaymentMismatch as error:
        yield Finding(id, _words(error), repaired=False)
        return
    except DomainError as error:
        if isinstance(error, stripe_api.StripeError):
            raise
        yield Finding(id, _words(error), repaired=False)
        return
    if after != before:
        changes = ", ".join(
            f"{name} {before[name]} → {value}" for name, value in after.items() if before[name] != value
        )
        yield Finding(id, changes, repaired=True)


def _told(purchase: Purchase) -> dict[str, Any]:
    return {
        "state": purchase.state,
        "refunded_cents": purchase.refunded_cents,
        "disputed_cents": purchase.disputed_cents,
        "taken_back": purchase.taken_back,
    }


def _ours(since: datetime, started: datetime) -> list[Purchase]:
    """What is open and not in progress any more, what was paid since, which Stripe must know, and what has a dispute or a
    refund that is not decided, however old."""
    waits = Purchase.state.in_(OPEN_STATES) & (Purchase.created_at < started - RESOLVED_AFTER)
    paid = Purchase.state.in_(PAID_STATES) & (Purchase.paid_at >= since)
    undecided = (Purchase.state == "disputed") | Purchase.id.in_(
        select(PurchaseRefund.purchase_id).where(PurchaseRefund.status.in_(("pending", "requires_action")))
    )
    query = select(Purchase).where(waits | paid | undecided).order_by(Purchase.created_at, Purchase.id)
    return list(db.session.scalars(query.execution_options(populate_existing=True)))


def _words(error: Exception) -> str:
    return error.message if isinstance(error, DomainError) else str(error)
