"""Budgets know until when they are raised, so that a call looks for raises of few.

Revision: 0049
Revises: 0048
"""

from migrations.replacing import replace_function, restore_function, run_script

revision = "0049"
down_revision = "0048"
branch_labels = None
depends_on = None

FUNCTIONS = ("ledger/budget_limits", "ledger/budget_admit", "ledger/budget_free", "ledger/budget_settle")

UP = """
ALTER TABLE budget ADD COLUMN raised_until timestamptz;
UPDATE budget b SET raised_until = (SELECT max(r.ends_at) FROM budget_raise r WHERE r.budget_id = b.id);
"""
DOWN = "ALTER TABLE budget DROP COLUMN raised_until;"


def upgrade() -> None:
    run_script(UP)
    for name in FUNCTIONS:
        replace_function(name, revision)


def downgrade() -> None:
    for name in reversed(FUNCTIONS):
        restore_function(name, revision)
    run_script(DOWN)
