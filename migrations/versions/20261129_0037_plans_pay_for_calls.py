"""A plan's windows pay for its subscribers' calls: a hold says what its call may spend, and settling takes that.

An admission of the release before writes holds that may spend everything, as ever. Its settlements spend by the hold.
"""

from migrations.replacing import replace_function, restore_function, run_script

revision = "0037"
down_revision = "0036"
branch_labels = None
depends_on = None

FUNCTIONS = (
    "ledger/credit_available",
    "ledger/credit_balance",
    "ledger/credit_take",
    "ledger/credit_grant",
    "ledger/credit_charge",
    "ledger/credit_hold_grow",
    "ledger/plan_subscription",
    "ledger/plan_windows",
    "ledger/plan_block_start",
    "ledger/plan_admit",
    "ledger/gateway_admit",
    "ledger/gateway_admit_many",
    "ledger/gateway_settle",
)

# without an index on expiries, the use of a window would be counted from all its debits
UP = """
ALTER TABLE credit_hold
    ADD COLUMN funding text NOT NULL DEFAULT 'any',
    ADD CONSTRAINT credit_hold_funding_known CHECK (funding IN ('any', 'plan', 'credits'));
ALTER TYPE gateway_ask ADD ATTRIBUTE route_model text;
CREATE INDEX idx_credit_entry_expiry ON credit_entry (operation_id) WHERE kind = 'expiry';
"""
DOWN = """
DROP INDEX idx_credit_entry_expiry;
ALTER TYPE gateway_ask DROP ATTRIBUTE route_model;
ALTER TABLE credit_hold DROP COLUMN funding;
"""


def upgrade() -> None:
    run_script(UP)
    for name in FUNCTIONS:
        replace_function(name, revision)


def downgrade() -> None:
    for name in reversed(FUNCTIONS):
        restore_function(name, revision)
    run_script(DOWN)
