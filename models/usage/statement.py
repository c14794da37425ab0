"""Account statements: every ledger entry with its cause and the resulting balance."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import cast, func, select

from models.core.db import BigInt, db
from models.gateway import GatewayCall
from models.ledger import CreditEntry, CreditLedger

Show = Literal["all", "in"]

PAGE = 50


@dataclass(frozen=True)
class StatementLine:
    """A ledger entry. `amount` is signed credits; `request_id` is the call that caused it, if any."""

    id: int
    created_at: datetime
    kind: str
    amount: int
    balance_after: int
    cause: str
    grant_type: str | None
    description: str | None
    request_id: str | None
    run_id: str | None
    model: str | None


@dataclass(frozen=True)
class StatementTotals:
    """The breakdown of a balance, in credits: granted, charged for calls, other charges, expired and revoked."""

    granted: int
    calls: int
    charges: int
    expired: int
    revoked: int

    @property
    def balance(self) -> int:
        return self.granted - self.calls - self.charges - self.expired - self.revoked


def statement_page(account_id: str, show: Show, before: int | None) -> tuple[list[StatementLine], int | None]:
    """A page of ledger entries before the entry `before`, newest first, and the `before` of the next page or None.

    `show` "in" excludes debits.
    """
    query = (
        select(
            CreditEntry.id,
            CreditEntry.created_at,
            CreditEntry.kind,
            CreditEntry.amount,
            CreditEntry.balance_after,
            CreditEntry.cause,
            CreditLedger.type.label("grant_type"),
            CreditLedger.description,
            GatewayCall.request_id,
            GatewayCall.run_id,
            GatewayCall.model,
        )
        .outerjoin(CreditLedger, CreditLedger.operation_id == CreditEntry.operation_id)
        .outerjoin(GatewayCall, GatewayCall.request_id == CreditEntry.cause)
        .where(CreditEntry.account_id == account_id)
        .order_by(CreditEntry.id.desc())
        .limit(PAGE + 1)
    )
    if show == "in":
        query = query.where(CreditEntry.kind != "debit")
    if before is not None:
        query = query.where(CreditEntry.id < before)
    lines = [StatementLine(**row) for row in db.session.execute(query).mappings()]
    return lines[:PAGE], lines[PAGE - 1].id if len(lines) > PAGE else None


def statement_totals(account_id: str) -> StatementTotals:
    """The breakdown of the account's balance over its lifetime.

    Everything but model calls is summed from ledger entries by kind (few rows, read by partial indexes). The total of
    model calls is the difference to the last entry's balance; it equals the sum of the rollups, which `flask billing
    prove` verifies, without reading them.
    """
    own = CreditEntry.account_id == account_id
    amount = func.sum(CreditEntry.amount)
    charges = select(amount).where(own, CreditEntry.kind == "debit", CreditEntry.message_id.is_(None))
    last = select(CreditEntry.balance_after).where(own).order_by(CreditEntry.id.desc()).limit(1)
    # one statement, so one snapshot: a concurrent grant would otherwise look like lower usage
    sums = {
        "granted": amount.filter(CreditEntry.kind == "grant"),
        "expired": amount.filter(CreditEntry.kind == "expiry"),
        "revoked": amount.filter(CreditEntry.kind.in_(("revocation", "reinstatement"))),
        "others": amount,
        "charged": charges.scalar_subquery(),
        "balance": last.scalar_subquery(),
    }
    columns = (cast(func.coalesce(total, 0), BigInt).label(name) for name, total in sums.items())
    row = db.session.execute(select(*columns).where(own, CreditEntry.kind != "debit")).one()
    calls = row.others + row.charged - row.balance
    return StatementTotals(row.granted, calls, -row.charged, -row.expired, -row.revoked)
