"""Keep with a call how it came to its provider.

Revision: 0101
Revises: 0100
"""

from migrations.replacing import replace_function, restore_function, run_script

revision = "0101"
down_revision = "0100"
branch_labels = None
depends_on = None

UP = """
ALTER TABLE gateway_call ADD COLUMN routing jsonb;
ALTER TYPE gateway_facts ADD ATTRIBUTE routing jsonb;
"""
DOWN = """
ALTER TYPE gateway_facts DROP ATTRIBUTE routing;
ALTER TABLE gateway_call DROP COLUMN routing;
"""
FUNCTIONS = ("ledger/gateway_settle", "ledger/gateway_fail")


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
