"""Account balances by grant type and expiry, active holds, and usage in the current quota cycle."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, TableValuedAlias, cast, column, exists, func, select, true

from models.accounts.users import User
from models.core.db import BigInt, db
from models.core.db import now as utc_now
from models.core.errors import NotFound
from models.ledger.credit_operations import Account
from models.ledger.ledger import CreditEntry, CreditHold, CreditLedger
from models.ledger.message import Message
from models.ledger.rollup import UsageRollup

KINDS = ("free", "referral", "purchase", "admin", "organization")
"""Grant types that every breakdown includes, even when zero (contract 3.3)."""


@dataclass(frozen=True, slots=True)
class GrantGroup:
    """Grants with the same type and expiry, in credits: `left` is `granted - spent - held`, never below zero."""

    kind: str
    expires_at: datetime | None
    granted: int
    spent: int
    held: int
    left: int


@dataclass(frozen=True, slots=True)
class Balance:
    """An account's balance at one point in time, in credits (contract 3.3). `rows` are in spending order; `held` is
    reserved by `calls_in_progress` calls.

    Blocks of a plan and what calls hold of them are not part of it (A.3): only the plan's windows limit those.
    """

    rows: Sequence[GrantGroup]
    debt: int
    held: int
    calls_in_progress: int
    blocks: int = 0
    """What is left of a plan's blocks, less their debt: the difference to the ledger's balance."""

    @property
    def granted(self) -> int:
        return sum(row.granted for row in self.rows)

    @property
    def spent(self) -> int:
        """Credits spent, debt included."""
        return sum(row.spent for row in self.rows) + self.debt

    @property
    def net_balance(self) -> int:
        """Granted minus spent, as `credit_balance` computes it; negative when in debt."""
        return self.granted - self.spent

    @property
    def total_remaining(self) -> int:
        """Net balance, or zero when in debt."""
        return max(self.net_balance, 0)

    @property
    def total_debt(self) -> int:
        """Net debt, or zero when not in debt."""
        return max(-self.net_balance, 0)

    @property
    def available(self) -> int:
        """Credits a new call may use: net balance minus holds. Negative when in debt or when holds exceed the
        balance."""
        return self.net_balance - self.held

    @property
    def uncovered(self) -> int:
        """Held credits that no grant covers."""
        return self.held - sum(row.held for row in self.rows)

    @property
    def breakdown(self) -> dict[str, int]:
        """Remaining credits by grant type, before debt and holds."""
        return _by_kind((row.kind, row.granted - row.spent) for row in self.rows)

    @property
    def principals(self) -> dict[str, int]:
        """Original grant amounts by type."""
        return _by_kind((row.kind, row.granted) for row in self.rows)


def _by_kind(amounts: Iterable[tuple[str, int]]) -> dict[str, int]:
    sums = dict.fromkeys(KINDS, 0)
    for kind, amount in amounts:
        sums[kind] = sums.get(kind, 0) + amount
    return sums


def balance(account: Account, *, now: datetime | None = None) -> Balance:
    """The account's balance at `now`: active grants and the holds of calls in progress, read in one statement.

    Holds are assigned to grants in spending order. Read-only: call `ensure_quota` first to run a person's due quota
    cycle. An unknown account has a zero balance.
    """
    records = db.session.execute(_balance(account.id, now or utc_now())).all()
    rows: list[GrantGroup] = []
    held, debt, blocks = records[0].held, 0, 0
    unassigned = held
    for record in records:
        if record.type is None:  # no grant at all
            break
        if record.type == "subscription":
            blocks += record.left - record.debt
            continue
        part = min(unassigned, record.left)
        unassigned -= part
        debt += record.debt
        if record.granted or record.left:
            spent, left = record.granted - record.left, record.left - part
            rows.append(GrantGroup(record.type, record.expires_at, record.granted, spent, part, left))
    return Balance(rows, debt, held, records[0].calls, blocks)


def _balance(account_id: str, now: datetime) -> Select[*tuple[Any, ...]]:
    live = (CreditHold.account_id == account_id, CreditHold.state == "live", CreditHold.expires_at > now)
    available = func.credit_available(account_id, "", now).table_valued(column("credits_held", BigInt))
    calls = (
        select(func.count()).select_from(CreditHold).where(*live, CreditHold.funding.in_(("any", "credits")))
    )
    holds = select(available.c.credits_held.label("held"), calls.scalar_subquery().label("calls")).subquery(
        "holds"
    )
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
    """The account's grants that have credits left or are in debt at `now`, in spending order."""
    active = _active_grants(account.id, now or utc_now())
    query = select(CreditLedger).join(active, active.c.operation_id == CreditLedger.operation_id)
    order = (
        CreditLedger.priority,
        CreditLedger.expires_at.nulls_last(),
        CreditLedger.created_at,
        CreditLedger.operation_id,
    )
    return db.session.scalars(query.where(CreditLedger.balance != 0).order_by(*order)).all()


def _active_grants(account_id: str, now: datetime) -> TableValuedAlias:
    """The SQL function that every balance is read from."""
    columns = (column(each.name, each.type) for each in CreditLedger.__table__.columns)
    return func.credit_active_grants(account_id, now).table_valued(*columns, name="active")


def ever_had_credits(account: Account) -> bool:
    """Whether the account's ledger has any entry."""
    return db.session.scalar(select(exists().where(CreditEntry.account_id == account.id))) or False


@dataclass(frozen=True, slots=True)
class QuotaCycle:
    """An account's current quota cycle and the credits `used` since it `began`. An organisation's cycle is the
    calendar month, with `ends` None."""

    began: datetime
    ends: datetime | None
    used: int


def cycle(account: Account, *, now: datetime | None = None) -> QuotaCycle:
    """The quota cycle at `now`. Raises NotFound for an unknown person."""
    began, ends = _cycle(account, now or utc_now())
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
    """The same day of the previous month, or its last day if that month is shorter."""
    last = moment.replace(day=1) - timedelta(days=1)
    return moment.replace(year=last.year, month=last.month, day=min(moment.day, last.day))


def _used_since(account_id: str, start: datetime) -> int:
    """Credits charged to an account since `start`, exact to the call: full days and hours from rollups, the partial
    first hour from messages, plus charges that are not model calls."""
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
    remainder = (moment - epoch) % step
    return moment if not remainder else moment + (step - remainder)
