"""Stopping all calls of an account: the record of each stop, and the verbs under the account's lock.

`credit_account.stop_id` is set while the account is stopped: admission refuses its calls. Workers hear of a change by
NOTIFY on `CHANNEL`, at the commit.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Identity, Index, func, select, text, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.accounts.users import User
from models.core.db import Base, BigInt, db
from models.core.db import now as utc_now
from models.ledger.credit_operations import Account, lock_account
from models.ledger.ledger import CreditAccount, CreditHold

CHANNEL = "stoa_account_stop"
"""The channel on which changes of stopped accounts are announced."""


class AccountStop(Base):
    """One stop of an account. `calls` are the calls in flight at that moment, with what they held; `runs` the agent runs that
    were cancelled."""

    __tablename__ = "account_stop"
    __table_args__ = (Index("idx_account_stop_account", "account_id", "id"),)

    id: Mapped[int] = mapped_column(BigInt, Identity(always=True), primary_key=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("credit_account.id", ondelete="CASCADE"))
    stopped_by: Mapped[str | None] = mapped_column(ForeignKey("user.id", ondelete="SET NULL"))
    stopped_by_name: Mapped[str]
    stopped_at: Mapped[datetime]
    resumed_by: Mapped[str | None] = mapped_column(ForeignKey("user.id", ondelete="SET NULL"))
    resumed_by_name: Mapped[str | None]
    resumed_at: Mapped[datetime | None]
    calls: Mapped[list[Any]] = mapped_column(JSONB, server_default=text("'[]'::jsonb"))
    runs: Mapped[list[Any]] = mapped_column(JSONB, server_default=text("'[]'::jsonb"))


def current_stop(account: Account) -> AccountStop | None:
    """The stop in force of an account; None if its calls are served."""
    found = select(AccountStop).join(CreditAccount, CreditAccount.stop_id == AccountStop.id)
    return db.session.scalars(found.where(CreditAccount.id == account.id)).one_or_none()


def account_stop(account: Account, stop_id: int) -> AccountStop | None:
    """A stop of the account."""
    owned = select(AccountStop).where(AccountStop.id == stop_id, AccountStop.account_id == account.id)
    return db.session.scalars(owned).one_or_none()


def stops_of(account: Account, limit: int) -> Sequence[AccountStop]:
    """The account's last stops, newest first."""
    owned = select(AccountStop).where(AccountStop.account_id == account.id)
    return db.session.scalars(owned.order_by(AccountStop.id.desc()).limit(limit)).all()


def begin_stop(account: Account, by: User) -> tuple[AccountStop, bool]:
    """Stop the account from the commit on; the second value is False if it was stopped already. Takes the account's lock."""
    lock_account(account)
    if (stop := current_stop(account)) is not None:
        return stop, False
    held = select(CreditHold).where(CreditHold.account_id == account.id, CreditHold.state == "live")
    calls = [
        {
            "request_id": hold.request_id,
            "user_id": hold.user_id,
            "agent_id": hold.agent_id,
            "run_id": hold.run_id,
            "model": hold.model,
            "credits": hold.amount,
        }
        for hold in db.session.scalars(held.order_by(CreditHold.created_at))
    ]
    stop = AccountStop(
        account_id=account.id,
        stopped_by=by.id,
        stopped_by_name=by.display_name,
        stopped_at=utc_now(),
        calls=calls,
        runs=[],
    )
    db.session.add(stop)
    db.session.flush()
    _set(account, stop.id)
    return stop, True


def end_stop(account: Account, by: User) -> AccountStop | None:
    """Serve the account's calls again from the commit on. None if it was not stopped. Takes the account's lock."""
    lock_account(account)
    stop = current_stop(account)
    if stop is not None:
        stop.resumed_by, stop.resumed_by_name, stop.resumed_at = by.id, by.display_name, utc_now()
        _set(account, None)
    return stop


def _set(account: Account, stop_id: int | None) -> None:
    db.session.execute(update(CreditAccount).where(CreditAccount.id == account.id).values(stop_id=stop_id))
    db.session.execute(select(func.pg_notify(CHANNEL, account.id)))
