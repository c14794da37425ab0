"""Budgets are tried on past calls, and requests for more show the runs that spent most.

Revision: 0050
Revises: 0049
"""

from migrations.replacing import replace_function, restore_function

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


def upgrade() -> None:
    for name in FUNCTIONS:
        replace_function(name, revision)


def downgrade() -> None:
    for name in reversed(FUNCTIONS):
        restore_function(name, revision)
