"""The statement of an account: every credit in and out, each with its cause and the balance after it."""

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
    """One entry of the journal. `amount` is credits, signed; `request_id` names the call that caused it, if one did."""

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
class Statement:
    """Why the balance is what it is, in credits: what was added, what calls and other charges
    took, what ran out or was taken back."""

    granted: int
    calls: int
    charges: int
    expired: int
    revoked: int

    @property
    def balance(self) -> int:
        return self.granted - self.calls - self.charges - self.expired - self.revoked


def statement(account_id: str, show: Show, before: int | None) -> tuple[list[StatementLine], int | None]:
    """A page of the journal, newest first, below entry `before`; and where the next page starts, or None.

    `show` "in" leaves out what calls took.
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


def sheet(account_id: str) -> Statement:
    """What the account's balance is made of since its first day.

    All but model calls comes from the journal by kind (few rows, by partial indexes). What calls took is the rest up to
    the balance of the last entry: the sum of the rollups, as `flask billing prove` says, without reading them all.
    """
    mine = CreditEntry.account_id == account_id
    amount = func.sum(CreditEntry.amount)
    charges = select(amount).where(mine, CreditEntry.kind == "debit", CreditEntry.message_id.is_(None))
    last = select(CreditEntry.balance_after).where(mine).order_by(CreditEntry.id.desc()).limit(1)
    # one statement and so one picture: a grant in between would be taken for less used
    figures = {
        "granted": amount.filter(CreditEntry.kind == "grant"),
        "expired": amount.filter(CreditEntry.kind == "expiry"),
        "revoked": amount.filter(CreditEntry.kind.in_(("revocation", "reinstatement"))),
        "others": amount,
        "charged": charges.scalar_subquery(),
        "balance": last.scalar_subquery(),
    }
    columns = (cast(func.coalesce(figure, 0), BigInt).label(name) for name, figure in figures.items())
    row = db.session.execute(select(*columns).where(mine, CreditEntry.kind != "debit")).one()
    calls = row.others + row.charged - row.balance
    return Statement(row.granted, calls, -row.charged, -row.expired, -row.revoked)
