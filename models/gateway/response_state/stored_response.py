"""The tables of kept responses, and when their rows end."""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import JSON, Index, Text, delete, func, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from models.accounts.account_deletion import account_erasing
from models.accounts.users import User
from models.core.db import NOW, Base, BigInt, db
from models.orgs import org_erased

BATCH = 2_000
BEGINNING = datetime(1, 1, 1, tzinfo=UTC)


class StoredResponse(Base):
    """A response, and the items of its request that are not in the responses before it.

    It belongs to the account that paid and the person who called. Responses that continue one another are a chain, named after its
    first one, and end together. No foreign key names the account: it would wait for every call of the account. `size` is in bytes;
    `item_ids` are those of its items that can be referred to.
    """

    __tablename__ = "stored_response"
    __table_args__ = (
        Index("idx_stored_response_chain", "account_id", "chain_id", "created_at"),
        Index("idx_stored_response_created", "created_at"),
        Index("idx_stored_response_items", "item_ids", postgresql_using="gin"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    account_id: Mapped[str]
    user_id: Mapped[str]
    chain_id: Mapped[str]
    previous_id: Mapped[str | None]
    size: Mapped[int]
    item_ids: Mapped[list[str]] = mapped_column(ARRAY(Text))
    input: Mapped[list[Any]] = mapped_column(JSON)
    response: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class ResponseStorage(Base):
    """How many bytes the kept responses of an account take. The trigger `stored_response_count` counts."""

    __tablename__ = "response_storage"

    account_id: Mapped[str] = mapped_column(primary_key=True)
    bytes: Mapped[int] = mapped_column(BigInt)


def prune_responses(
    now: datetime, days: int, *, start: datetime = BEGINNING, limit: int = BATCH
) -> datetime | None:
    """Look at the `limit` oldest responses after `start`, and delete those whose chain was last continued `days` days ago. Returns the
    `start` of the next batch, or None after the last; commit after each. Idempotent; skips rows locked by another run."""
    before = now - timedelta(days=days)
    old = (
        select(
            StoredResponse.id, StoredResponse.account_id, StoredResponse.chain_id, StoredResponse.created_at
        )
        .where(StoredResponse.created_at > start, StoredResponse.created_at < before)
        .order_by(StoredResponse.created_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("old")
        .prefix_with("MATERIALIZED")
    )
    continued = select(StoredResponse.id).where(
        StoredResponse.account_id == old.c.account_id,
        StoredResponse.chain_id == old.c.chain_id,
        StoredResponse.created_at >= before,
    )
    gone = (
        delete(StoredResponse)
        .where(StoredResponse.id.in_(select(old.c.id).where(~continued.exists())))
        .cte("gone")
    )
    reached: datetime | None = db.session.scalars(select(func.max(old.c.created_at)).add_cte(gone)).one()
    return reached


def stored_bytes(account_id: str) -> int:
    """What the kept responses of the account take, in bytes."""
    query = select(func.coalesce(func.sum(ResponseStorage.bytes), 0))
    return int(db.session.scalars(query.where(ResponseStorage.account_id == account_id)).one())


@account_erasing.connect
def _erase_person(user: User, *, now: datetime) -> None:
    """An organisation keeps what its members sent for it."""
    _erase(user.id)


@org_erased.connect
def _erase(account_id: str) -> None:
    for table in (StoredResponse, ResponseStorage):
        db.session.execute(delete(table).where(table.account_id == account_id))
