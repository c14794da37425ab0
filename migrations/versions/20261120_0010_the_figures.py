"""The figures of the store's agents follow their runs and what those were billed (`migrations/sql/store_0010.sql`).

Revision: 0010
Revises: 0009
"""

from pathlib import Path

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

SQL = Path(__file__).parent.parent / "sql"


def upgrade() -> None:
    run((SQL / "store_0010.sql").read_text())
    op.execute("SELECT store_recount(publisher_id, id) FROM agent ORDER BY publisher_id, id")


def downgrade() -> None:
    run((SQL / "store_0010_down.sql").read_text())
    ledger = (SQL / "ledger_0003.sql").read_text()
    start = ledger.index("CREATE FUNCTION gateway_settle_many")
    run(ledger[start : ledger.index("END $$;", start)].replace("CREATE", "CREATE OR REPLACE", 1) + "END $$;")


def run(script: str) -> None:
    """Send a script as it is: its percent signs and colons are no parameters."""
    op.get_bind().exec_driver_sql(script, execution_options={"no_parameters": True})
