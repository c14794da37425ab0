"""All organisations of the server with what they have and use, for operators."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, Select, cast, func, or_, select, tuple_

from models.accounts.users import User
from models.admin.account_search import like_beginning
from models.core.db import BigInt, db
from models.core.errors import Invalid
from models.ledger import CreditEntry
from models.ledger.message import Message
from models.ledger.rollup import UsageRollup
from models.orgs import Org
from models.orgs.counts import OrgCounts, counts_of

LISTED = 500
CRITICAL, LOW = 100, 500
"""Credits below which an organisation's balance is critical or low (contract 2.12)."""

Health = Literal["healthy", "warning", "critical"]
HEALTHS: tuple[Health, ...] = ("critical", "warning", "healthy")


@dataclass(frozen=True, slots=True)
class OrgSummary:
    """An organisation with its owner, its balance and the usage of this calendar month (UTC) in credits, and its latest call, or
    else its latest change."""

    org: Org
    owner: User
    counts: OrgCounts
    balance: int
    used: int
    last_activity: datetime

    @property
    def health(self) -> Health:
        """By the balance: below 100 credits, below 500, or more."""
        return "critical" if self.balance < CRITICAL else "warning" if self.balance < LOW else "healthy"


def orgs_newest_first(
    now: datetime, *, after: str | None = None, limit: int = LISTED, beginning: str = ""
) -> tuple[list[OrgSummary], str | None]:
    """Organisations that are not deleted, newest first, after the one with the id `after`, and the `after` of the next page. With
    `beginning` those whose name or slug begins so. Two statements. Raises Invalid for an unknown `after`."""
    query = _summaries(now).order_by(Org.created_at.desc(), Org.id.desc()).limit(limit + 1)
    if beginning:
        start = like_beginning(beginning.lower())
        query = query.where(or_(Org.slug.like(start), func.lower(Org.name).like(start)))
    if after is not None:
        last = None if "\0" in after else db.session.get(Org, after)
        if last is None:
            raise Invalid("Unknown `after`. Send the `next` of the page before.", status=400)
        query = query.where(tuple_(Org.created_at, Org.id) < (last.created_at, last.id))
    rows = db.session.execute(query).all()
    counts = counts_of([row.Org.id for row in rows[:limit]])
    found = [
        OrgSummary(
            row.Org, row.User, counts[row.Org.id], row.balance, row.used, row.last_call or row.Org.updated_at
        )
        for row in rows[:limit]
    ]
    return found, found[-1].org.id if len(rows) > limit else None


def all_orgs() -> Iterator[tuple[Org, User]]:
    """Every organisation that is not deleted with its owner, newest first."""
    query = (
        select(Org, User)
        .join(User, User.id == Org.owner_id)
        .where(Org.deleted_at.is_(None))
        .order_by(Org.created_at.desc(), Org.id.desc())
    )
    for row in db.session.execute(query.execution_options(yield_per=500)):
        yield row.Org, row.User


def _summaries(now: datetime) -> Select[Any]:
    month = now.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return (
        select(
            Org,
            User,
            func.credit_balance(Org.id, now).label("balance"),
            (_calls_since(month) + _charges_since(month)).label("used"),
            _latest_call().label("last_call"),
        )
        .join(User, User.id == Org.owner_id)
        .where(Org.deleted_at.is_(None))
    )


def _calls_since(month: datetime) -> ColumnElement[int]:
    total = cast(func.coalesce(func.sum(UsageRollup.credits), 0), BigInt)
    query = select(total).where(
        UsageRollup.account_id == Org.id, UsageRollup.grain == "day", UsageRollup.bucket >= month
    )
    return query.correlate(Org).scalar_subquery()


def _charges_since(month: datetime) -> ColumnElement[int]:
    """Charges that are not model calls."""
    total = cast(func.coalesce(func.sum(-CreditEntry.amount), 0), BigInt)
    query = select(total).where(
        CreditEntry.account_id == Org.id,
        CreditEntry.kind == "debit",
        CreditEntry.message_id.is_(None),
        CreditEntry.created_at >= month,
    )
    return query.correlate(Org).scalar_subquery()


def _latest_call() -> ColumnElement[datetime]:
    query = select(func.max(Message.finished_at)).where(Message.org_id == Org.id)
    return query.correlate(Org).scalar_subquery()


def org_named(id: str) -> Org | None:
    """The organisation with this id that is not deleted, or None."""
    found = None if "\0" in id else db.session.get(Org, id)
    return found if found is not None and found.deleted_at is None else None
