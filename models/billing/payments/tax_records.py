"""The records at Stripe Tax of purchases whose tax was calculated here: a transaction for each payment, a reversal for each
refund. Checkout makes its own."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import exists, select, update

from models.billing import stripe_api
from models.billing.payments.purchase import PAID_STATES, Purchase, PurchaseRefund
from models.billing.payments.transitions import purchase_by_id
from models.core.db import db
from models.core.jobs import transaction

_UNREVERSED = (PurchaseRefund.status == "succeeded") & PurchaseRefund.tax_reversal_id.is_(None)


@dataclass(frozen=True, slots=True)
class _Reversal:
    refund_id: str
    params: Any


def record_tax(purchase_id: str) -> int:
    """Create the transaction and the reversals that are missing; how many. Idempotent: Stripe takes each reference once. Takes
    transactions of its own. Raises NotFound, StripeError, BillingDisabled."""
    with transaction():
        purchase = purchase_by_id(purchase_id)
        calculation, recorded = purchase.tax_calculation_id, purchase.tax_transaction_id
        if not purchase.paid or calculation is None:
            return 0
    made = 0
    if recorded is None:
        params: Any = {"calculation": calculation, "reference": purchase_id}
        with stripe_api.api_client() as client:
            recorded = client.v1.tax.transactions.create_from_calculation(
                params, {"idempotency_key": f"{purchase_id}-tax-transaction"}
            ).id
        made += 1
        with transaction():
            db.session.execute(
                update(Purchase).where(Purchase.id == purchase_id).values(tax_transaction_id=recorded)
            )
    with transaction():
        reversals = _reversals(purchase_by_id(purchase_id), recorded)
    for each in reversals:
        with stripe_api.api_client() as client:
            reversal = client.v1.tax.transactions.create_reversal(
                each.params, {"idempotency_key": f"{each.refund_id}-tax-reversal"}
            ).id
        made += 1
        with transaction():
            db.session.execute(
                update(PurchaseRefund)
                .where(PurchaseRefund.id == each.refund_id)
                .values(tax_reversal_id=reversal)
            )
    return made


def unrecorded_tax(before: datetime) -> list[str]:
    """The purchases that were paid, or refunded, before that time without its record at Stripe Tax."""
    unreversed = exists().where(
        PurchaseRefund.purchase_id == Purchase.id, _UNREVERSED, PurchaseRefund.created_at < before
    )
    query = select(Purchase.id).where(
        Purchase.state.in_(PAID_STATES),
        Purchase.tax_calculation_id.is_not(None),
        (Purchase.tax_transaction_id.is_(None) & (Purchase.paid_at < before)) | unreversed,
    )
    return list(db.session.scalars(query.order_by(Purchase.created_at, Purchase.id)))


def _reversals(purchase: Purchase, recorded: str) -> list[_Reversal]:
    refunds = db.session.scalars(
        select(PurchaseRefund)
        .where(PurchaseRefund.purchase_id == purchase.id, _UNREVERSED)
        .order_by(PurchaseRefund.created_at, PurchaseRefund.id)
        .execution_options(populate_existing=True)
    )
    return [_Reversal(each.id, _reversal(purchase, each, recorded)) for each in refunds]


def _reversal(purchase: Purchase, refund: PurchaseRefund, recorded: str) -> Any:
    params = {"original_transaction": recorded, "reference": refund.id}
    if refund.amount_cents == purchase.amount_cents:
        return params | {"mode": "full"}
    return params | {"mode": "partial", "flat_amount": -refund.amount_cents}
