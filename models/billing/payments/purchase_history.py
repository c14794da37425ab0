"""An account's purchases with their refunds and disputes, for its pages."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select

from models.accounts.users import User
from models.billing.payments.purchase import (
    Purchase,
    PurchaseDispute,
    PurchaseRefund,
    purchase_of,
    purchases_of,
)
from models.core.db import db
from models.core.errors import NotFound
from models.ledger import Account


@dataclass(frozen=True, slots=True)
class PurchaseRecord:
    """A purchase with its refunds and disputes, oldest first."""

    purchase: Purchase
    refunds: list[PurchaseRefund]
    disputes: list[PurchaseDispute]


def purchase_history(
    account: Account, *, before: tuple[datetime, str] | None = None
) -> tuple[list[PurchaseRecord], tuple[datetime, str] | None]:
    """A keyset page of the account's purchases, newest first; and the cursor of the next page, or None."""
    page, more = purchases_of(account, before=before)
    return _records(page), more


def purchase_record(account: Account, id: str) -> PurchaseRecord:
    """One purchase by its id or its Checkout Session's id. Raises NotFound, also for another account's."""
    return _records([purchase_of(account, id)])[0]


def operator_record(id: str) -> tuple[PurchaseRecord, str]:
    """For operators: any account's purchase, and its buyer's address. Raises NotFound."""
    row = db.session.execute(
        select(Purchase, User.email)
        .join(User, User.id == Purchase.user_id)
        .where(Purchase.id == id)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if row is None:
        raise NotFound("There is no such purchase.")
    return _records([row[0]])[0], row[1]


def _records(purchases: Sequence[Purchase]) -> list[PurchaseRecord]:
    refunds, disputes = (_by_purchase(table, purchases) for table in (PurchaseRefund, PurchaseDispute))
    return [PurchaseRecord(each, refunds[each.id], disputes[each.id]) for each in purchases]


def _by_purchase(table: Any, purchases: Sequence[Purchase]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = defaultdict(list)
    query = select(table).where(table.purchase_id.in_([each.id for each in purchases]))
    for row in db.session.scalars(
        query.order_by(table.created_at, table.id).execution_options(populate_existing=True)
    ):
        found[row.purchase_id].append(row)
    return found
