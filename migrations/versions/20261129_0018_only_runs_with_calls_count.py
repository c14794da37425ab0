"""The store counts runs that have a settled call, and a publisher's own runs apart (`migrations/sql/store_0018.sql`).

Counts every agent anew, which reads all its runs.

Revision: 0018
Revises: 0015
"""

import re
from pathlib import Path

from alembic import op

revision = "0018"
down_revision = "0015"
branch_labels = None
depends_on = None

SQL = Path(__file__).parent.parent / "sql"
REPLACED = (
    "store_count",
    "store_move",
    "store_tell",
    "store_recount",
    "store_slide",
    "store_follow_bills",
    "store_follow_deletion",
    "store_follow_call",
    "gateway_settle_many",
)
RECOUNT = "SELECT store_recount(publisher_id, id) FROM agent ORDER BY publisher_id, id"


def upgrade() -> None:
    run((SQL / "store_0018.sql").read_text())
    op.execute(RECOUNT)


def downgrade() -> None:
    run((SQL / "store_0018_down.sql").read_text())
    former = (SQL / "store_0010.sql").read_text()
    view = re.search(r"^CREATE VIEW finished_agent_run .*?;$", former, re.MULTILINE | re.DOTALL)
    trigger = re.search(r"^CREATE TRIGGER store_call_billed .*?;$", former, re.MULTILINE | re.DOTALL)
    assert view
    assert trigger
    run(view[0])
    for name in REPLACED:
        function = re.search(
            rf"^CREATE (OR REPLACE )?(FUNCTION {name}\(.*?^END \$\$;)$", former, re.MULTILINE | re.DOTALL
        )
        assert function
        run(f"CREATE OR REPLACE {function[2]}")
    run(trigger[0])
    op.execute("ALTER FUNCTION gateway_settle_many SET enable_seqscan = off")
    op.execute(RECOUNT)


def run(script: str) -> None:
    """Send a script as it is: its percent signs and colons are no parameters."""
    op.get_bind().exec_driver_sql(script, execution_options={"no_parameters": True})
