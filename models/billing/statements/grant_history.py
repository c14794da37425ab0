"""The history of one grant."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import case, cast, func, select

from models.billing.payments.purchase import Purchase, of_account
from models.core.db import BigInt, db
from models.core.errors import NotFound
from models.ledger import Account, CreditEntry, CreditLedger

MAX_CHANGES = 50


@dataclass(frozen=True, slots=True)
class GrantChange:
    """A ledger entry of a grant, other than spending. `amount` is signed credits."""

    id: int
    at: datetime
    kind: str
    cause: str
    amount: int


@dataclass(frozen=True, slots=True)
class GrantHistory:
    """A grant: what was granted, spent, expired, taken back (less what was given back), and debt that it repaid or that
    was repaid, in credits. `granted - spent - expired - taken_back + debt` is the grant's balance, exactly.

    `changes` are the first 50 entries other than calls and charges, oldest first. `purchase` is None for a grant that
    was not bought.
    """

    grant: CreditLedger
    granted: int
    spent: int
    expired: int
    taken_back: int
    debt: int
    changes: Sequence[GrantChange]
    purchase: Purchase | None


def grant_history(account: Account, operation_id: str) -> GrantHistory:
    """A grant of the account. Spending is computed from its balance, so the query time does not grow with the number of
    calls. Raises NotFound, also for another account's grant."""
    grant = None if "\x00" in operation_id else _grant(account, operation_id)
    if grant is None:
        raise NotFound("There is no such grant.")
    # matches the partial index of entries that are not spending
    own = (
        CreditEntry.account_id == account.id,
        CreditEntry.kind != "debit",
        CreditEntry.operation_id == operation_id,
    )
    kinds = {
        "granted": ("grant",),
        "expired": ("expiry",),
        "taken_back": ("revocation", "reinstatement"),
        "debt": ("debt_cleared",),
    }
    sums: list[Any] = [
        cast(
            func.coalesce(func.sum(case((CreditEntry.kind.in_(names), CreditEntry.amount), else_=0)), 0),
            BigInt,
        )
        for names in kinds.values()
    ]
    granted, expired, taken_back, debt = db.session.execute(select(*sums).where(*own)).one()
    changes = db.session.execute(
        select(
            CreditEntry.id, CreditEntry.created_at, CreditEntry.kind, CreditEntry.cause, CreditEntry.amount
        )
        .where(*own)
        .order_by(CreditEntry.id)
        .limit(MAX_CHANGES)
    )
    return GrantHistory(
        grant=grant,
        granted=granted,
        spent=granted + expired + taken_back + debt - grant.balance,
        expired=-expired,
        taken_back=-taken_back,
        debt=debt,
        changes=[GrantChange(*row) for row in changes],
        purchase=db.session.scalar(
            select(Purchase)
            .where(of_account(account), Purchase.id == operation_id)
            .execution_options(populate_existing=True)
        ),
    )


def _grant(account: Account, operation_id: str) -> CreditLedger | None:
    query = select(CreditLedger).where(
        func.coalesce(CreditLedger.org_id, CreditLedger.user_id) == account.id,
        CreditLedger.operation_id == operation_id,
    )
    return db.session.scalar(query.execution_options(populate_existing=True))
