"""What an account has, row by row as its owner reads it: by kind and expiry, with what is spent, held and left."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, or_, select

from models.billing import CreditHold, CreditLedger
from models.db import db


@dataclass(frozen=True)
class Holding:
    """Grants of one kind and expiry, in credits. `granted` less `spent` less `held` is `left`, never below nil."""

    kind: str
    expires_at: datetime | None
    granted: int
    spent: int
    held: int
    left: int


@dataclass(frozen=True)
class Holdings:
    """All that counts now, in spending order. `debt` is owed; `held` belongs to `calls_in_progress` calls."""

    rows: list[Holding]
    debt: int
    held: int
    calls_in_progress: int

    @property
    def granted(self) -> int:
        return sum(row.granted for row in self.rows)

    @property
    def spent(self) -> int:
        """Debt included: it was spent, too."""
        return sum(row.spent for row in self.rows) + self.debt

    @property
    def balance(self) -> int:
        """What was granted and not spent: the ledger's net balance."""
        return self.granted - self.spent

    @property
    def uncovered(self) -> int:
        """Held, but not by anything that is left."""
        return self.held - sum(row.held for row in self.rows)

    @property
    def left(self) -> int:
        """What a new call may use: the balance less what is held. Below nil when in debt or held beyond the balance."""
        return self.balance - self.held


def holdings(user_id: str, now: datetime) -> Holdings:
    """The person's own grants that count at `now` (contract 3.3), and what calls in progress hold of them.

    Held credits are shown where they would be spent: from the top of the spending order down.
    """
    held, calls = db.session.execute(
        select(func.coalesce(func.sum(CreditHold.amount), 0), func.count()).where(
            CreditHold.account_id == user_id, CreditHold.state == "live", CreditHold.expires_at > now
        )
    ).one()
    grants = db.session.execute(
        select(
            CreditLedger.type,
            CreditLedger.expires_at,
            func.sum(CreditLedger.principal).label("granted"),
            func.sum(func.greatest(CreditLedger.balance, 0)).label("left"),
            func.sum(func.greatest(-CreditLedger.balance, 0)).label("debt"),
        )
        .where(
            CreditLedger.user_id == user_id,
            CreditLedger.org_id.is_(None),
            or_(CreditLedger.expires_at.is_(None), CreditLedger.expires_at > now, CreditLedger.balance < 0),
        )
        .group_by(CreditLedger.type, CreditLedger.expires_at)
        .order_by(
            func.min(CreditLedger.priority),
            CreditLedger.expires_at.asc().nulls_last(),
            func.min(CreditLedger.created_at),
        )
    ).all()
    rows: list[Holding] = []
    unplaced = int(held)
    for grant in grants:
        granted, left = int(grant.granted), int(grant.left)
        part = min(unplaced, left)
        unplaced -= part
        if granted or left:
            rows.append(Holding(grant.type, grant.expires_at, granted, granted - left, part, left - part))
    return Holdings(rows, sum(int(grant.debt) for grant in grants), int(held), int(calls))
