"""One definition of the balance: which grants of an account count is said in one function, which all others read.

The index of an account's grants finds all of them, or those with something left. It is built in the transaction: an
account has a few grants a year.

Revision: 0025
Revises: 0024
"""

from migrations.replacing import replace_function, restore_function, run_script

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

FUNCTIONS = ("ledger/credit_active_grants", "ledger/credit_net", "ledger/gateway_admit")

UP = """
CREATE INDEX idx_credit_ledger_account ON credit_ledger (coalesce(org_id, user_id), (balance <> 0));
DROP INDEX idx_credit_ledger_spendable;
"""

DOWN = """
CREATE INDEX idx_credit_ledger_spendable ON credit_ledger (coalesce(org_id, user_id)) WHERE balance <> 0;
DROP INDEX idx_credit_ledger_account;
"""


def upgrade() -> None:
    run_script(UP)
    for name in FUNCTIONS:
        replace_function(name, revision)


def downgrade() -> None:
    for name in reversed(FUNCTIONS):
        restore_function(name, revision)
    run_script(DOWN)
