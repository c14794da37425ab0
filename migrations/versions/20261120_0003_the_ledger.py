"""The ledger's functions: every movement of credits happens in them (`migrations/sql/ledger_0003.sql`).

Revision: 0003
Revises: 0002
"""

from pathlib import Path

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

SQL = Path(__file__).parent.parent / "sql"


def upgrade() -> None:
    run("ledger_0003.sql")


def downgrade() -> None:
    run("ledger_0003_down.sql")


def run(name: str) -> None:
    """Send a script as it is: its percent signs and colons are no parameters."""
    op.get_bind().exec_driver_sql((SQL / name).read_text(), execution_options={"no_parameters": True})
