"""What an account has: balance by kind and expiry, what is held of it, and what this cycle used."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, TableValuedAlias, cast, column, func, select, true

from models.accounts.users import User
from models.core.db import BigInt, db
from models.core.db import now as the_moment
from models.core.errors import NotFound
from models.ledger.ledger import CreditEntry, CreditHold, CreditLedger
from models.ledger.message import Message
from models.ledger.movements import Account
from models.ledger.rollup import UsageRollup

KINDS = ("free", "referral", "purchase", "admin", "organization")
"""The grant types that every breakdown names, also when there is nothing of them (contract 3.3)."""


@dataclass(frozen=True, slots=True)
class GrantGroup:
    """Grants of one kind and expiry, in credits. `granted` less `spent` less `held` is `left`, never below nil."""

    kind: str
    expires_at: datetime | None
    granted: int
    spent: int
    held: int
    left: int


@dataclass(frozen=True, slots=True)
class Balance:
    """An account at one moment, in credits (contract 3.3): `rows` in spending order, `debt` that is owed, `held` by
    `calls_in_progress` calls."""

    rows: Sequence[GrantGroup]
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
    def net_balance(self) -> int:
        """What was granted and not spent: `credit_net` of the ledger."""
        return self.granted - self.spent

    @property
    def total_remaining(self) -> int:
        """What the grants have left after debt; never below zero."""
        return max(self.net_balance, 0)

    @property
    def total_debt(self) -> int:
        """Debt after what the grants have left; never below zero."""
        return max(-self.net_balance, 0)

    @property
    def available(self) -> int:
        """What a new call may use: the balance less what is held. Below zero when in debt or held beyond the balance."""
        return self.net_balance - self.held

    @property
    def uncovered(self) -> int:
        """Held, but not by anything that is left."""
        return self.held - sum(row.held for row in self.rows)

    @property
    def breakdown(self) -> dict[str, int]:
        """What is left by grant type, before debt and holds."""
        return _by_kind((row.kind, row.granted - row.spent) for row in self.rows)

    @property
    def principals(self) -> dict[str, int]:
        """What the grants were worth at first, by type."""
        return _by_kind((row.kind, row.granted) for row in self.rows)


def _by_kind(amounts: Iterable[tuple[str, int]]) -> dict[str, int]:
    sums = dict.fromkeys(KINDS, 0)
    for kind, amount in amounts:
        sums[kind] = sums.get(kind, 0) + amount
    return sums


def balance(account: Account, *, now: datetime | None = None) -> Balance:
    """What the account has at `now`, in one statement: its grants that count, and what calls in progress hold of them.

    Held credits are shown where they would be spent: from the top of the spending order down. Reads only: a person's due
    quota cycle is `ensure_quota`'s to run, before. An unknown account has nothing.
    """
    lines = db.session.execute(_balance(account.id, now or the_moment())).all()
    rows: list[GrantGroup] = []
    held, debt = lines[0].held, 0
    unplaced = held
    for line in lines:
        if line.type is None:  # no grant at all
            break
        part = min(unplaced, line.left)
        unplaced -= part
        debt += line.debt
        if line.granted or line.left:
            rows.append(
                GrantGroup(
                    line.type, line.expires_at, line.granted, line.granted - line.left, part, line.left - part
                )
            )
    return Balance(rows, debt, held, lines[0].calls)


def _balance(account_id: str, now: datetime) -> Select[*tuple[Any, ...]]:
    live = (CreditHold.account_id == account_id, CreditHold.state == "live", CreditHold.expires_at > now)
    flight = select(_sum(CreditHold.amount).label("held"), func.count().label("calls")).where(*live)
    holds = flight.subquery("holds")
    active = _active_grants(account_id, now).c
    grants = (
        select(
            active.type,
            active.expires_at,
            _sum(active.principal).label("granted"),
            _sum(func.greatest(active.balance, 0)).label("left"),
            _sum(func.greatest(-active.balance, 0)).label("debt"),
            func.min(active.priority).label("priority"),
            func.min(active.created_at).label("created_at"),
        )
        .group_by(active.type, active.expires_at)
        .subquery("grants")
    )
    order = (grants.c.priority, grants.c.expires_at.nulls_last(), grants.c.created_at)
    return select(*holds.c, *grants.c).select_from(holds.outerjoin(grants, true())).order_by(*order)


def _sum(amount: Any) -> ColumnElement[int]:
    return cast(func.coalesce(func.sum(amount), 0), BigInt)


def grants_of(account: Account, *, now: datetime | None = None) -> Sequence[CreditLedger]:
    """The account's grants with something left or in debt at `now`, in spending order."""
    active = _active_grants(account.id, now or the_moment())
    query = select(CreditLedger).join(active, active.c.operation_id == CreditLedger.operation_id)
    order = (
        CreditLedger.priority,
        CreditLedger.expires_at.nulls_last(),
        CreditLedger.created_at,
        CreditLedger.operation_id,
    )
    return db.session.scalars(query.where(CreditLedger.balance != 0).order_by(*order)).all()


def _active_grants(account_id: str, now: datetime) -> TableValuedAlias:
    """What the ledger's own functions read a balance from."""
    columns = (column(each.name, each.type) for each in CreditLedger.__table__.columns)
    return func.credit_active_grants(account_id, now).table_valued(*columns, name="active")


@dataclass(frozen=True, slots=True)
class QuotaCycle:
    """The running cycle of an account: since `began` it `used` so many credits. `ends` is None for an organisation,
    whose cycle is the calendar month."""

    began: datetime
    ends: datetime | None
    used: int


def cycle(account: Account, *, now: datetime | None = None) -> QuotaCycle:
    """The cycle that runs at `now`. Raises NotFound for an unknown person."""
    began, ends = _cycle(account, now or the_moment())
    return QuotaCycle(began, ends, _used_since(account.id, began))


def _cycle(account: Account, now: datetime) -> tuple[datetime, datetime | None]:
    if account.org_id is not None:
        return now.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0), None
    person = db.session.get(User, account.user_id)
    if person is None:
        raise NotFound("There is no such account.")
    reset, created = person.next_quota_reset, person.created_at
    if reset is None:
        return created, None
    return max(created, _month_before(reset)), reset


def _month_before(moment: datetime) -> datetime:
    """The same day of the month before, or its last day when it is shorter."""
    last = moment.replace(day=1) - timedelta(days=1)
    return moment.replace(year=last.year, month=last.month, day=min(moment.day, last.day))


def _used_since(account_id: str, start: datetime) -> int:
    """Credits charged to an account since `start`, to the call: whole days and hours from the rollups, the broken hour
    at the beginning from messages, and charges that were no model call."""
    hour = _ceiling(start, timedelta(hours=1))
    day = _ceiling(hour, timedelta(days=1))
    rollup = select(_sum(UsageRollup.credits)).where(UsageRollup.account_id == account_id)
    days = rollup.where(UsageRollup.grain == "day", UsageRollup.bucket >= day)
    hours = rollup.where(UsageRollup.grain == "hour", UsageRollup.bucket >= hour, UsageRollup.bucket < day)
    calls = select(_sum(Message.credits)).where(
        Message.account_id == account_id,
        Message.byok.is_(False),
        Message.finished_at >= start,
        Message.finished_at < hour,
    )
    charges = select(_sum(-CreditEntry.amount)).where(
        CreditEntry.account_id == account_id,
        CreditEntry.kind == "debit",
        CreditEntry.message_id.is_(None),
        CreditEntry.created_at >= start,
    )
    parts = select(*(part.scalar_subquery() for part in (days, hours, calls, charges)))
    return sum(db.session.execute(parts).one())


def _ceiling(moment: datetime, step: timedelta) -> datetime:
    epoch = datetime(2000, 1, 1, tzinfo=UTC)
    past = (moment - epoch) % step
    return moment if not past else moment + (step - past)
