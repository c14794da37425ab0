"""The live catalog against what the seeds say."""

from sqlalchemy import text
from sqlalchemy.orm import Session as OrmSession


def test_alembic_brings_every_table(session: OrmSession) -> None:
    count = session.execute(
        text(
            "SELECT count(*) FROM pg_tables WHERE schemaname = 'public' AND tablename NOT LIKE 'procrastinate%'"
        )
    ).scalar()
    assert count == 31
