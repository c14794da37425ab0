"""Budgets are tried on past calls, requests for more show the runs that spent most, and alerts find what changed.

Revision: 0050
Revises: 0049
"""

from migrations.replacing import replace_function, restore_function, run_script

revision = "0050"
down_revision = "0049"
branch_labels = None
depends_on = None

FUNCTIONS = (
    "ledger/capped_add",
    "ledger/capped_sum",
    "ledger/budget_replay",
    "ledger/budget_trial",
    "ledger/budget_runs",
)


UP = """
CREATE INDEX idx_budget_spend_warned ON budget_spend (warned_at) WHERE warned_at IS NOT NULL;
CREATE INDEX idx_budget_spend_stopped ON budget_spend (stopped_at) WHERE stopped_at IS NOT NULL;
"""
DOWN = "DROP INDEX idx_budget_spend_warned, idx_budget_spend_stopped;"


def upgrade() -> None:
    run_script(UP)
    for name in FUNCTIONS:
        replace_function(name, revision)


def downgrade() -> None:
    for name in reversed(FUNCTIONS):
        restore_function(name, revision)
    run_script(DOWN)
