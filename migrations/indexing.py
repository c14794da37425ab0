"""Indexes that are built and dropped while the tables are written to."""

from collections.abc import Iterable, Mapping

from alembic import op


def build_indexes(indexes: Mapping[str, str], *, unique: bool = False) -> None:
    """Build each index, by its name and what follows ON. Commits what was done before. Safe to run again: what an interrupted build
    left invalid is dropped first."""
    with op.get_context().autocommit_block():
        for name, target in indexes.items():
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE {'UNIQUE ' if unique else ''}INDEX CONCURRENTLY {name} ON {target}")


def drop_indexes(names: Iterable[str]) -> None:
    """Drop the indexes that exist, in order. Commits what was done before."""
    with op.get_context().autocommit_block():
        for name in names:
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
