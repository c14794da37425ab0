"""What an account has: balance by kind, what expires when, what is held, and what this cycle used."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, and_, case, func, or_, select, text

from models.accounts.users import User
from models.billing.ledger import CreditHold, CreditLedger
from models.billing.movements import Account
from models.db import Database
from models.db import now as the_moment
from models.errors import NotFound

KINDS = ("free", "referral", "purchase", "admin", "organization")
"""The grant types that every breakdown names, also when there is nothing of them (contract 3.3)."""


@dataclass(frozen=True, slots=True)
class GrantLine:
    """A grant that still counts. Credits; a negative balance is debt."""

    operation_id: str
    type: str
    description: str | None
    principal: int
    balance: int
    priority: int
    expires_at: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Balance:
    """An account at one moment, in credits (contract 3.3)."""

    total_remaining: int
    """What the grants have left after debt; never below zero."""
    total_debt: int
    """Debt after what the grants have left; never below zero."""
    net_balance: int
    breakdown: dict[str, int]
    """What is left by grant type, before debt."""
    principals: dict[str, int]
    """What the grants were worth at first, by type."""
    usage_this_cycle: int
    """Credits charged since `cycle_start`."""
    held: int
    """Credits set aside for calls in flight."""
    grants: list[GrantLine]
    """The grants with something left or in debt, in spending order."""
    next_quota_reset: datetime | None
    """None for an organisation."""
    cycle_start: datetime

    @property
    def available(self) -> int:
        """What a new call may count on; may be negative."""
        return self.net_balance - self.held


def balance(session: Database, account: Account, *, now: datetime | None = None) -> Balance:
    """The balance of an account. Reads only: a person's due quota cycle is `ensure_quota`'s to run, before.
    Raises NotFound for an unknown person."""
    now = now or the_moment()
    active = and_(
        _grants_of(account),
        or_(CreditLedger.expires_at.is_(None), CreditLedger.expires_at > now, CreditLedger.balance < 0),
    )
    breakdown = dict.fromkeys(KINDS, 0)
    principals = dict.fromkeys(KINDS, 0)
    left = func.sum(case((CreditLedger.balance > 0, CreditLedger.balance), else_=0))
    for kind, positive, principal in session.execute(
        select(CreditLedger.type, left, func.sum(CreditLedger.principal))
        .where(active)
        .group_by(CreditLedger.type)
    ):
        breakdown[kind] = int(positive)
        principals[kind] = int(principal)
    grants = [
        GrantLine(*row)
        for row in session.execute(
            select(
                CreditLedger.operation_id,
                CreditLedger.type,
                CreditLedger.description,
                CreditLedger.principal,
                CreditLedger.balance,
                CreditLedger.priority,
                CreditLedger.expires_at,
                CreditLedger.created_at,
            )
            .where(active, CreditLedger.balance != 0)
            .order_by(
                CreditLedger.priority,
                CreditLedger.expires_at.asc().nulls_last(),
                CreditLedger.created_at,
                CreditLedger.operation_id,
            )
        )
    ]
    remaining = sum(line.balance for line in grants if line.balance > 0)
    debt = -sum(line.balance for line in grants if line.balance < 0)
    netted = min(remaining, debt)
    held = session.scalar(
        select(func.coalesce(func.sum(CreditHold.amount), 0)).where(
            CreditHold.account_id == account.id, CreditHold.state == "live", CreditHold.expires_at > now
        )
    )
    start, reset = cycle(session, account, now)
    return Balance(
        total_remaining=remaining - netted,
        total_debt=debt - netted,
        net_balance=remaining - debt,
        breakdown=breakdown,
        principals=principals,
        usage_this_cycle=used_since(session, account, start),
        held=int(held or 0),
        grants=grants,
        next_quota_reset=reset,
        cycle_start=start,
    )


def used_since(session: Database, account: Account, start: datetime) -> int:
    """Credits charged to an account since `start`, to the call: whole days and hours from the rollups, the
    broken hour at the beginning from messages, and charges that were no model call."""
    hour = _ceiling(start, timedelta(hours=1))
    day = _ceiling(hour, timedelta(days=1))
    words = {"account": account.id, "start": start, "hour": hour, "day": day}
    return int(session.execute(_USED, words).scalar_one())


_USED = text(
    """
SELECT coalesce((
    SELECT sum(credits) FROM usage_rollup WHERE account_id = :account AND grain = 'day' AND bucket >= :day
), 0) + coalesce((
    SELECT sum(credits) FROM usage_rollup
    WHERE account_id = :account AND grain = 'hour' AND bucket >= :hour AND bucket < :day
), 0) + coalesce((
    SELECT sum(credits) FROM message
    WHERE coalesce(org_id, user_id) = :account AND byok IS false AND finished_at >= :start AND finished_at < :hour
), 0) - coalesce((
    SELECT sum(amount) FROM credit_entry
    WHERE account_id = :account AND kind = 'debit' AND message_id IS NULL AND created_at >= :start
), 0)
"""
)


def _grants_of(account: Account) -> ColumnElement[bool]:
    if account.org_id is not None:
        return CreditLedger.org_id == account.org_id
    return and_(CreditLedger.user_id == account.user_id, CreditLedger.org_id.is_(None))


def cycle(session: Database, account: Account, now: datetime) -> tuple[datetime, datetime | None]:
    """The start of the running cycle and, for a person, its end. An organisation's is the calendar month."""
    if account.org_id is not None:
        return now.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0), None
    person = session.get(User, account.user_id)
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


def _ceiling(moment: datetime, step: timedelta) -> datetime:
    epoch = datetime(2000, 1, 1, tzinfo=UTC)
    past = (moment - epoch) % step
    return moment if not past else moment + (step - past)
