"""Credentials know what made them, a command line ends after a year without use, and a link may carry an identity.

Revision: 0020
Revises: 0019
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

SQL = Path(__file__).parent.parent / "sql"


def upgrade() -> None:
    op.add_column("session", sa.Column("parent", sa.Text(), nullable=True))
    op.add_column("session", sa.Column("cli_collected_at", sa.TIMESTAMP(), nullable=True))
    op.add_column("login_link", sa.Column("identity", postgresql.JSONB(), nullable=True))
    op.add_column("login_link", sa.Column("browser", sa.Text(), nullable=True))
    # Codes live an hour and were asked for until their first answer: none is left to give. A browser let each command line
    # in; which one is not known, so whichever signs out everywhere else ends them.
    op.execute(
        "UPDATE session SET cli_collected_at = now() AT TIME ZONE 'UTC', parent = 'unknown',"
        " expires = least(expires, now() AT TIME ZONE 'UTC' + interval '365 days') WHERE type = 'cli'"
    )
    script = (SQL / "accounts_0020.sql").read_text()
    op.get_bind().exec_driver_sql(script, execution_options={"no_parameters": True})


def downgrade() -> None:
    op.execute("DROP TRIGGER session_slide ON session")
    op.execute("DROP FUNCTION session_slide")
    op.execute("UPDATE session SET expires = '4707-11-28 23:59:59.999' WHERE type = 'cli'")
    op.drop_column("login_link", "browser")
    op.drop_column("login_link", "identity")
    op.drop_column("session", "cli_collected_at")
    op.drop_column("session", "parent")
