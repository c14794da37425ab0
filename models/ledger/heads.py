"""Recorded heads: once a day, one hash over the last entries of all accounts, and proofs that an entry is part of one."""

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, insert, select, text, update
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import Mapped, mapped_column

from models.core.cooperative import TimeSlices
from models.core.db import NOW, Base, BigInt, db
from models.core.db import now as utc_now
from models.ledger.statement_check import FIRST, HEAD_COLUMNS, head_hash, leaf_hash, node_hash

EMPTY_ROOT = bytes.fromhex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
"""The root of a tree without leaves (RFC 9162, 2.1.1)."""


class LedgerHead(Base):
    """The head of the ledger on a day: the root of a Merkle tree over the accounts that changed since the head before,
    and the hash of it with that head. The database rejects UPDATE and DELETE.

    `accounts` is the number of leaves, `entries` that of all entries ever covered by a head.
    """

    __tablename__ = "ledger_head"

    day: Mapped[date] = mapped_column(primary_key=True)
    previous: Mapped[bytes]
    root: Mapped[bytes]
    accounts: Mapped[int] = mapped_column(BigInt)
    entries: Mapped[int] = mapped_column(BigInt)
    hash: Mapped[bytes]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class LedgerHeadLeaf(Base):
    """A leaf of a head: an account's last entry and its number among the account's entries.

    The tree's leaves are in the order of their hashes. Erasing an account keeps only the hash of its leaves.
    """

    __tablename__ = "ledger_head_leaf"
    __table_args__ = (Index("idx_ledger_head_leaf_account", "account_id", "day"),)

    day: Mapped[date] = mapped_column(ForeignKey("ledger_head.day", ondelete="RESTRICT"), primary_key=True)
    leaf: Mapped[bytes] = mapped_column(primary_key=True)
    account_id: Mapped[str | None]
    entry_id: Mapped[int | None] = mapped_column(BigInt)
    entries: Mapped[int | None] = mapped_column(BigInt)


# one statement, so one snapshot
_CHANGED = text(
    """
    SELECT a.id AS account_id, e.id AS entry_id, e.balance_after, e.hash, n.added, coalesce(l.entries, 0) + n.added AS entries
    FROM credit_account a
    CROSS JOIN LATERAL (
        SELECT id, balance_after, hash FROM credit_entry WHERE account_id = a.id ORDER BY id DESC LIMIT 1
    ) e
    LEFT JOIN LATERAL (
        SELECT entry_id, entries FROM ledger_head_leaf WHERE account_id = a.id ORDER BY day DESC LIMIT 1
    ) l ON true
    CROSS JOIN LATERAL (
        SELECT count(*) AS added FROM credit_entry
        WHERE account_id = a.id AND id > coalesce(l.entry_id, 0) AND id <= e.id
    ) n
    WHERE e.id > coalesce(l.entry_id, 0)
    """
)


def record_head(now: datetime | None = None) -> LedgerHead | None:
    """Record the head of the ledger for the day of `now` (UTC), or return None if the day has one or a later day has.

    Covers every entry that is committed when it starts. Two at once wait for each other; no account is locked. Flushes.
    """
    day = (now or utc_now()).astimezone(UTC).date()
    db.session.execute(text("LOCK TABLE ledger_head IN SHARE ROW EXCLUSIVE MODE"))
    last = db.session.scalars(select(LedgerHead).order_by(LedgerHead.day.desc()).limit(1)).one_or_none()
    if last is not None and last.day >= day:
        return None
    slices = TimeSlices()
    leaves, added = [], 0
    for row in db.session.execute(_CHANGED):
        leaf = leaf_hash(row.account_id, row.entry_id, row.entries, row.balance_after, row.hash.hex())
        leaves.append(
            {
                "day": day,
                "leaf": leaf,
                "account_id": row.account_id,
                "entry_id": row.entry_id,
                "entries": row.entries,
            }
        )
        added += row.added
        slices.pause()
    root = _levels(sorted(each["leaf"] for each in leaves))[-1][0] if leaves else EMPTY_ROOT
    previous = last.hash if last else bytes.fromhex(FIRST)
    entries = (last.entries if last else 0) + added
    hash = head_hash(day.isoformat(), previous.hex(), root.hex(), len(leaves), entries)
    head = LedgerHead(
        day=day,
        previous=previous,
        root=root,
        accounts=len(leaves),
        entries=entries,
        hash=bytes.fromhex(hash),
    )
    db.session.add(head)
    db.session.flush()
    if leaves:
        db.session.execute(insert(LedgerHeadLeaf), leaves)
    return head


def forget_leaves(account_id: str) -> None:
    """Forget which leaves of the recorded heads are an account's, for `erase_account`. Their hashes stay: the heads and
    the other accounts' proofs remain right."""
    own = LedgerHeadLeaf.account_id == account_id
    db.session.execute(update(LedgerHeadLeaf).where(own).values(account_id=None, entry_id=None, entries=None))


def recent_heads(limit: int) -> Sequence[LedgerHead]:
    """The latest recorded heads, newest first."""
    return db.session.scalars(select(LedgerHead).order_by(LedgerHead.day.desc()).limit(limit)).all()


def heads_csv() -> str:
    """All recorded heads as CSV, oldest first: one a day."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(HEAD_COLUMNS)
    for head in db.session.scalars(select(LedgerHead).order_by(LedgerHead.day)):
        hashes = head.previous.hex(), head.root.hex(), head.accounts, head.entries, head.hash.hex()
        writer.writerow((head.day.isoformat(), *hashes))
    return buffer.getvalue()


def recorded_hashes(dates: Sequence[str]) -> dict[str, str]:
    """The hashes of the heads recorded on these dates (ISO 8601), by date; what is no date is left out."""
    days = []
    for each in dates:
        with suppress(ValueError):
            days.append(date.fromisoformat(each))
    rows = db.session.execute(select(LedgerHead.day, LedgerHead.hash).where(LedgerHead.day.in_(days)))
    return {row.day.isoformat(): row.hash.hex() for row in rows}


def head_of_range(account_id: str, first: int, last: int) -> tuple[LedgerHead, int] | None:
    """The latest recorded head that covers an entry of the account from id `first` to `last`, and the id of the last entry
    that it covers; None without any."""
    query = (
        select(LedgerHead, LedgerHeadLeaf.entry_id)
        .join(LedgerHeadLeaf, LedgerHeadLeaf.day == LedgerHead.day)
        .where(LedgerHeadLeaf.account_id == account_id, LedgerHeadLeaf.entry_id.between(first, last))
        .order_by(LedgerHead.day.desc())
        .limit(1)
    )
    row = db.session.execute(query).one_or_none()
    return None if row is None or row[1] is None else (row[0], row[1])


def proofs(engine: Engine, account_id: str, first: int, last: int, limit: int) -> dict[int, dict[str, Any]]:
    """For the latest `limit` entries from id `first` to `last` that are leaves of recorded heads: what, with the entry,
    shows that the head contains it, by entry id."""
    own = (
        select(LedgerHeadLeaf, LedgerHead)
        .join(LedgerHead, LedgerHead.day == LedgerHeadLeaf.day)
        .where(LedgerHeadLeaf.account_id == account_id, LedgerHeadLeaf.entry_id.between(first, last))
        .order_by(LedgerHeadLeaf.day.desc())
        .limit(limit)
    )
    with engine.connect() as connection:
        rows = connection.execute(
            own.with_only_columns(
                LedgerHeadLeaf.leaf,
                LedgerHeadLeaf.entry_id,
                LedgerHeadLeaf.entries.label("position"),
                LedgerHead.day,
                LedgerHead.previous,
                LedgerHead.accounts,
                LedgerHead.entries,
                LedgerHead.hash,
            )
        ).all()
    return {row.entry_id: _proof(engine, row) for row in rows}


def _proof(engine: Engine, row: Any) -> dict[str, Any]:
    with engine.connect() as connection:
        leaves = _leaves(connection, row.day)
    index = leaves.index(row.leaf)
    return {
        "date": row.day.isoformat(),
        "previous": row.previous.hex(),
        "accounts": row.accounts,
        "entries": row.entries,
        "position": row.position,
        "index": index,
        "path": [node.hex() for node in _path(leaves, index)],
        "head": row.hash.hex(),
    }


def _leaves(connection: Connection, day: date) -> list[bytes]:
    query = select(LedgerHeadLeaf.leaf).where(LedgerHeadLeaf.day == day).order_by(LedgerHeadLeaf.leaf)
    return list(connection.scalars(query))


def _levels(leaves: list[bytes]) -> list[list[bytes]]:
    """The levels of the Merkle tree of at least one leaf, from the leaves to the root. A node without a sibling goes up
    as it is, which makes the tree of RFC 9162."""
    levels, slices = [leaves], TimeSlices()
    while len(levels[-1]) > 1:
        below = levels[-1]
        level = []
        for index in range(0, len(below) - 1, 2):
            level.append(node_hash(below[index], below[index + 1]))
            slices.pause()
        levels.append(level + below[len(level) * 2 :])
    return levels


def _path(leaves: list[bytes], index: int) -> Iterator[bytes]:
    for level in _levels(leaves)[:-1]:
        if index ^ 1 < len(level):
            yield level[index ^ 1]
        index >>= 1


def wrong_heads(connection: Connection) -> Iterator[tuple[str, str, str]]:
    """Recompute all recorded heads from their leaves: date, expected and found hash of those that differ."""
    previous, entries = bytes.fromhex(FIRST), 0
    for head in connection.execute(select(LedgerHead.__table__).order_by(LedgerHead.day)).all():
        leaves = _leaves(connection, head.day)
        root = _levels(leaves)[-1][0] if leaves else EMPTY_ROOT
        expected = head_hash(head.day.isoformat(), previous.hex(), root.hex(), len(leaves), head.entries)
        if expected != head.hash.hex() or head.entries < entries:
            yield f"head of {head.day}", expected, head.hash.hex()
        previous, entries = head.hash, head.entries
