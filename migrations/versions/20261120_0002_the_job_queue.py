"""The job queue's tables, as procrastinate 3.10.0 ships them.

The SQL is frozen in `migrations/sql`, so that an old database and a fresh one pass through the same states; when the
library changes its schema, `tests/house/test_schema.py` asks for a migration with the library's own delta.

Revision: 0002
Revises: 0001
"""

from pathlib import Path

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

SQL = Path(__file__).parent.parent / "sql" / "procrastinate_3_10_0.sql"

DROP = """
DROP TABLE procrastinate_events, procrastinate_periodic_defers, procrastinate_jobs, procrastinate_workers CASCADE;
DO $$
DECLARE
    drop_routine text;
BEGIN
    FOR drop_routine IN
        SELECT 'DROP FUNCTION ' || oid::regprocedure FROM pg_proc
        WHERE pronamespace = current_schema()::regnamespace AND starts_with(proname, 'procrastinate_')
    LOOP
        EXECUTE drop_routine;
    END LOOP;
END $$;
DROP TYPE procrastinate_job_to_defer_v1, procrastinate_job_event_type, procrastinate_job_status;
"""


def upgrade() -> None:
    run(SQL.read_text())


def downgrade() -> None:
    run(DROP)


def run(sql: str) -> None:
    """Send a script as it is: its percent signs and colons are no parameters."""
    op.get_bind().exec_driver_sql(sql, execution_options={"no_parameters": True})
