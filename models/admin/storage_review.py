"""Sizes of tables and files for operators: now and by day."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

from sqlalchemy import delete, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import Base, BigInt, db
from models.core.files import run_in_thread

DATABASE, FILES = "(database)", "(files)"
"""Names of samples that are not of a table."""
GROWTH_DAYS = 7
KEPT_DAYS = 400
SHOWN = 30


class StorageSample(Base):
    """The size of a table with its indexes, of the whole database or of the stored files on a day (UTC). `rows` is an estimate, or
    the number of files."""

    __tablename__ = "storage_sample"

    day: Mapped[date] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    bytes: Mapped[int] = mapped_column(BigInt)
    rows: Mapped[int] = mapped_column(BigInt)


@dataclass(frozen=True, slots=True)
class TableSize:
    """A table: bytes of the rows (with what is stored beside them) and of the indexes; `rows` and `dead` are PostgreSQL's estimates.
    `growth` is bytes since the sample of a week ago; None without one."""

    name: str
    table_bytes: int
    index_bytes: int
    rows: int
    dead: int
    vacuumed_at: datetime | None
    growth: int | None

    @property
    def bytes(self) -> int:
        """With indexes."""
        return self.table_bytes + self.index_bytes


def table_sizes(now: datetime) -> Sequence[TableSize]:
    """The `SHOWN` largest tables."""
    before = samples_of((now - timedelta(days=GROWTH_DAYS)).date())
    rows = db.session.execute(text(_SIZES), {"limit": SHOWN})
    return [
        TableSize(
            row.name,
            row.table_bytes,
            row.index_bytes,
            row.rows,
            row.dead,
            row.vacuumed_at,
            row.table_bytes + row.index_bytes - before[row.name] if row.name in before else None,
        )
        for row in rows
    ]


def database_bytes() -> int:
    """The size of the whole database."""
    return int(db.session.scalars(select(func.pg_database_size(func.current_database()))).one())


def samples_of(day: date) -> dict[str, int]:
    """Bytes by name of the first sample of the day or, if there is none, of the last day before within three days."""
    last = (
        select(func.max(StorageSample.day))
        .where(StorageSample.day <= day, StorageSample.day > day - timedelta(days=3))
        .scalar_subquery()
    )
    rows = db.session.execute(
        select(StorageSample.name, StorageSample.bytes).where(StorageSample.day == last)
    )
    return {name: size for name, size in rows}  # noqa: C416


def last_files() -> StorageSample | None:
    """The newest sample of the stored files."""
    query = (
        select(StorageSample).where(StorageSample.name == FILES).order_by(StorageSample.day.desc()).limit(1)
    )
    return db.session.scalars(query).one_or_none()


def sample_storage(now: datetime, folder: Path | None) -> None:
    """Record the sizes of today, once a day, and delete old ones. `folder` holds the stored files, if they are on this machine: counting
    them takes a while."""
    found = [
        (row.name, row.table_bytes + row.index_bytes, row.rows)
        for row in db.session.execute(text(_SIZES), {"limit": None})
    ]
    found.append((DATABASE, database_bytes(), 0))
    if folder is not None:
        count, size = run_in_thread(lambda: _counted(folder))
        found.append((FILES, size, count))
    values = [{"day": now.date(), "name": name, "bytes": size, "rows": rows} for name, size, rows in found]
    db.session.execute(insert(StorageSample).on_conflict_do_nothing(), values)
    db.session.execute(
        delete(StorageSample).where(StorageSample.day < now.date() - timedelta(days=KEPT_DAYS))
    )


def _counted(folder: Path) -> tuple[int, int]:
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()] if folder.exists() else []
    return len(sizes), sum(sizes)


_SIZES = """
SELECT s.relname AS name, pg_table_size(s.relid) AS table_bytes, pg_indexes_size(s.relid) AS index_bytes,
    greatest(s.n_live_tup, c.reltuples::bigint, 0) AS rows, s.n_dead_tup AS dead, greatest(s.last_vacuum, s.last_autovacuum) AS vacuumed_at
FROM pg_stat_user_tables s JOIN pg_class c ON c.oid = s.relid
WHERE s.schemaname = current_schema()
ORDER BY pg_total_relation_size(s.relid) DESC, s.relname LIMIT :limit
"""
