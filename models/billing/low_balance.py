"""Low balance e-mails of people; organisations have alerts. Each account's threshold, and the job that looks for balances that
fell below."""

from datetime import datetime, timedelta

from sqlalchemy import CheckConstraint, ForeignKey, exists, func, literal, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Mapped, mapped_column

from models import ledger
from models.accounts.users import User
from models.billing.mails import balance_facts, credits_text, enqueue
from models.core.db import Base, BigInt, db, extension
from models.core.db import now as utc_now
from models.core.errors import Invalid
from models.ledger import Account, CreditEntry
from models.ledger.message import Message

MAX_THRESHOLD = 10**9
WATCH_OVERLAP = timedelta(minutes=1)
"""A settlement may commit this long after the time that it records."""
FIRST_LOOK = timedelta(hours=1)


class LowBalance(Base):
    """An account's own threshold in credits (None: the server's; 0: never), and when the last e-mail about it was enqueued;
    None while the balance is not below."""

    __tablename__ = "low_balance"
    __table_args__ = (CheckConstraint("(threshold >= 0)", name="threshold_not_negative"),)

    account_id: Mapped[str] = mapped_column(
        ForeignKey("credit_account.id", ondelete="CASCADE"), primary_key=True
    )
    threshold: Mapped[int | None] = mapped_column(BigInt)
    notified_at: Mapped[datetime | None]


class BalanceWatch(Base):
    """The one row of the job that looks for low balances: settlements until then were checked."""

    __tablename__ = "balance_watch"
    __table_args__ = (CheckConstraint("(id = 1)", name="single_row"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    checked_until: Mapped[datetime]


def low_balance_threshold(account: Account) -> int:
    """Credits below which the account's owner gets an e-mail; 0: never."""
    own = db.session.scalars(
        select(LowBalance.threshold).where(LowBalance.account_id == account.id)
    ).one_or_none()
    return _default_threshold() if own is None else own


def _default_threshold() -> int:
    threshold: int = extension("settings").stoa_low_balance
    return threshold


def set_low_balance_threshold(account: Account, credits: int | None) -> None:
    """Set an account's threshold in credits (0: never; None: the server's). Locks the account; flushes. Raises Invalid,
    NotFound.

    A balance that is below the new threshold already counts as a crossing at the next settlement.
    """
    if credits is not None and not 0 <= credits <= MAX_THRESHOLD:
        message = f"Enter a number from 0 to {MAX_THRESHOLD:,}."
        raise Invalid(message, fields={"threshold": message})
    ledger.lock_account(account)
    values = {"threshold": credits, "notified_at": None}
    db.session.execute(
        insert(LowBalance)
        .values(account_id=account.id, **values)
        .on_conflict_do_update(index_elements=["account_id"], set_=values)
    )


def watch_balances(*, now: datetime | None = None) -> int:
    """Enqueue the low balance e-mail of each person whose balance fell below its threshold since the last call; returns
    their number. Flushes.

    Looks only at accounts with calls since then, so settlements do no extra work. One e-mail per crossing: the next is sent
    only after the balance was at or above the threshold again. Leaves out people whose calls a plan pays for and who do not
    continue with credits. Locks the watch: concurrent calls run one after the other.
    """
    now = now or utc_now()
    db.session.execute(
        insert(BalanceWatch).values(id=1, checked_until=now - FIRST_LOOK).on_conflict_do_nothing()
    )
    watch = db.session.scalars(
        select(BalanceWatch).with_for_update().execution_options(populate_existing=True)
    ).one()
    active = (
        select(Message.user_id.label("id"))
        .where(Message.finished_at > watch.checked_until - WATCH_OVERLAP)
        .where(Message.user_id.is_not(None), Message.org_id.is_(None))
        .distinct()
        .subquery()
    )
    covered = exists(
        select(literal(1)).select_from(func.plan_subscription(active.c.id, now).alias("covering"))
    )
    rows = db.session.execute(
        select(
            active.c.id,
            func.credit_balance(active.c.id, now).label("net"),
            LowBalance.threshold,
            LowBalance.notified_at,
        )
        .outerjoin(LowBalance, LowBalance.account_id == active.c.id)
        .join(User, User.id == active.c.id)
        .where(or_(User.fallback_to_a_la_carte, ~covered))
    ).all()
    watch.checked_until = now
    return sum(_check_balance(row.id, row.net, row.threshold, row.notified_at, now) for row in rows)


def _check_balance(
    account_id: str, net: int, own: int | None, notified_at: datetime | None, now: datetime
) -> bool:
    threshold = _default_threshold() if own is None else own
    if net >= threshold:
        if notified_at is not None:
            _note_notified(account_id, None)
        return False
    if notified_at is not None and not _recovered(account_id, threshold, notified_at):
        return False
    facts = {"threshold": credits_text(threshold), **balance_facts(net)}
    _note_notified(account_id, now)
    return enqueue("low_balance", f"low-balance/{account_id}/{now:%Y-%m-%dT%H:%M:%S.%f}", account_id, facts)


def _recovered(account_id: str, threshold: int, since: datetime) -> bool:
    """Whether credits added since then brought the balance to the threshold, even if they are spent again."""
    return bool(
        db.session.scalars(
            select(
                exists().where(
                    CreditEntry.account_id == account_id,
                    CreditEntry.kind != "debit",
                    CreditEntry.created_at > since,
                    CreditEntry.balance_after >= threshold,
                )
            )
        ).one()
    )


def _note_notified(account_id: str, at: datetime | None) -> None:
    db.session.execute(
        insert(LowBalance)
        .values(account_id=account_id, notified_at=at)
        .on_conflict_do_update(index_elements=["account_id"], set_={"notified_at": at})
    )
