"""Keep the tools and formats of a request with its input.

Revision: 0092
Revises: 0091
"""

from migrations.replacing import replace_function, restore_function, run_script

revision = "0092"
down_revision = "0091"
branch_labels = None
depends_on = None

UP = """
ALTER TABLE message ADD COLUMN definitions jsonb;
ALTER TABLE call_body ADD COLUMN definitions jsonb;
ALTER TYPE gateway_facts ADD ATTRIBUTE definitions jsonb;
"""
DOWN = """
ALTER TYPE gateway_facts DROP ATTRIBUTE definitions;
ALTER TABLE call_body DROP COLUMN definitions;
ALTER TABLE message DROP COLUMN definitions;
"""
FUNCTIONS = ("ledger/gateway_settle", "ledger/gateway_fail", "ledger/gateway_refuse")


def upgrade() -> None:
    """Apply the migration."""
    run_script(UP)
    for name in FUNCTIONS:
        replace_function(name, revision)


def downgrade() -> None:
    """Revert it."""
    for name in reversed(FUNCTIONS):
        restore_function(name, revision)
    run_script(DOWN)
