"""Calls that ask to be admitted at the same moment go to the ledger in one statement (`migrations/sql/ledger_0007.sql`).

Revision: 0007
Revises: 0006
"""

from pathlib import Path

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

SQL = Path(__file__).parent.parent / "sql"


def upgrade() -> None:
    script = (SQL / "ledger_0007.sql").read_text()
    op.get_bind().exec_driver_sql(script, execution_options={"no_parameters": True})


def downgrade() -> None:
    op.execute("DROP FUNCTION gateway_admit_many")
    op.execute("DROP TYPE gateway_ask")
