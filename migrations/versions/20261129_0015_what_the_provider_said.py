"""Keep what the provider reported with each call, and refuse a call whose input alone costs more than is free.

The text of the functions is in `migrations/sql/ledger_0015.sql`.

Revision: 0015
Revises: 0014
"""

from pathlib import Path

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

SQL = Path(__file__).parent.parent / "sql"


def upgrade() -> None:
    _run("ledger_0015.sql")


def downgrade() -> None:
    _run("ledger_0015_down.sql")


def _run(name: str) -> None:
    op.get_bind().exec_driver_sql((SQL / name).read_text(), execution_options={"no_parameters": True})
